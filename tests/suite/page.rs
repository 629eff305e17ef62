//! The page, in a browser, beside real traffic.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mesh_tests::agent::{self, AgentProcess};
use mesh_tests::browser::{self, Browser};
use mesh_tests::cgroup::in_cgroup;
use mesh_tests::observe::until;
use mesh_tests::patience::scaled;
use mesh_tests::shop::{FILE, Shop, dial};
use mesh_tests::town::{self, Town};
use mesh_tests::{Sandbox, host};

const LIMIT: Duration = Duration::from_secs(120);
/// How long the page may take to show something.
const SOON: Duration = Duration::from_secs(10);

fn run(purpose: &str, body: impl FnOnce(&Sandbox) + Send + 'static) {
    if browser::is_here() {
        host::run_for(LIMIT, purpose, body);
    }
}

fn open(sandbox: &Sandbox, width: u32, height: u32) -> Browser {
    let browser = Browser::start(sandbox, width, height).expect("a browser");
    browser.resize(width, height).expect("a size");
    let url = format!("http://{}/", sandbox.admin());
    browser.open(&url).expect("the page");
    browser
}

/// What an expression of the page amounts to, as text.
fn value(browser: &Browser, expression: &str) -> String {
    let value = browser
        .run(&format!("return {expression}"))
        .expect("a value");
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Waits until an expression of the page is true.
#[track_caller]
fn sees(browser: &Browser, expression: &str) {
    until(SOON, expression, || value(browser, expression) == "true");
}

fn text_of(css: &str) -> String {
    format!("[...document.querySelectorAll('{css}')].map(e => e.textContent).join('\\n')")
}

/// A CSS selector for the line between two services.
fn edge(from: &str, to: &str) -> String {
    format!(".edge[aria-label^=\"{from} calls {to}\"]")
}

#[test]
fn the_map_shows_who_calls_whom_and_denials_within_two_seconds() {
    run("page", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = AgentProcess::start(sandbox).expect("the agent starts");
        assert_eq!(dial(&mut shop.checkout), Ok("v1".into()));
        let browser = open(sandbox, 1280, 900);

        let titles = text_of(".node .title");
        for name in ["checkout", "payments", "intruder"] {
            sees(
                &browser,
                &format!("{titles}.split('\\n').includes('{name}')"),
            );
        }
        let line = edge("shop/checkout", "shop/payments");
        sees(
            &browser,
            &format!("document.querySelector('{line}') !== null"),
        );
        assert_eq!(
            value(&browser, "document.querySelectorAll('.edge').length"),
            "1"
        );
        sees(&browser, "document.querySelector('#denials').hidden");

        assert_eq!(dial(&mut shop.intruder), Err("EPERM".into()));
        let denied = Instant::now();
        let row = text_of("#denials tbody tr:first-child td");
        sees(&browser, &format!("{row}.includes('intruder')"));
        assert!(
            denied.elapsed() < scaled(Duration::from_secs(2)),
            "{:?}",
            denied.elapsed()
        );
        let cells = value(&browser, &row);
        let cells: Vec<_> = cells.split('\n').collect();
        assert_eq!(cells[1], "dev/intruder \u{2192} shop/payments");
        assert_eq!(cells[2], "10.96.0.10:80");
        assert_eq!(cells[3], "default");
        assert_eq!(cells[5], "policy");
        assert_eq!(cells[6], "connect4");
        let pid = shop.intruder.pid().to_string();
        assert!(
            cells[7].starts_with("mesh-peer (") && cells[7].contains(&pid),
            "{cells:?}"
        );
        assert_eq!(cells[8], "1");
        let line = edge("dev/intruder", "shop/payments");
        sees(
            &browser,
            &format!("document.querySelector('{line}')?.classList.contains('denied')"),
        );

        // The rule and where it stands, once there is one.
        let mut policy = fs::read_to_string(sandbox.path("conf.d").join(FILE)).expect("a policy");
        let place = policy.lines().count() + 1;
        policy +=
            "[[deny]]\nname = \"not-you\"\nfrom = [\"dev/intruder\"]\nto = [\"shop/payments\"]\n";
        sandbox.write_policy(FILE, &policy).expect("written");
        until(SOON, "the rule is in force", || {
            dial(&mut shop.intruder).is_err()
                && value(&browser, &row).contains(&format!("not-you\n{FILE}:{place}\npolicy"))
        });
        assert_eq!(browser.complaints().expect("a log"), [""; 0]);
    });
}

#[test]
fn what_is_clicked_is_told_about_and_what_is_asked_for_is_found() {
    run("click", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = AgentProcess::start(sandbox).expect("the agent starts");
        for _ in 0..3 {
            shop.is_guarded();
        }
        let browser = open(sandbox, 1280, 900);
        let line = edge("shop/checkout", "shop/payments");
        sees(
            &browser,
            &format!("document.querySelector('{line}') !== null"),
        );
        assert_eq!(
            value(&browser, "document.querySelector('#panel').hidden"),
            "true"
        );
        let label = ".label:not(.denied) .label-box";
        browser.click(label).expect("a click");
        let panel = text_of("#panel");
        sees(
            &browser,
            &format!("{panel}.includes('shop/checkout \u{2192} shop/payments')"),
        );
        for told in [
            "spiffe://mesh.local/ns/shop/sa/payments",
            "3 connections, 0 failed, 0 denied",
        ] {
            sees(&browser, &format!("{panel}.includes('{told}')"));
        }
        browser.run("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', bubbles: true}))").expect("a key");
        sees(&browser, "document.querySelector('#panel').hidden");
        // By keyboard.
        browser
            .run("document.querySelector('.node[aria-label^=\"shop/payments\"]').focus()")
            .expect("focus");
        browser
            .keys(".node[aria-label^=\"shop/payments\"]", "\u{e007}")
            .expect("Enter");
        sees(
            &browser,
            &format!("{panel}.includes('10.96.0.10') && {panel}.includes('Called by')"),
        );

        let rows =
            "[...document.querySelectorAll('#flows tbody tr')].filter(row => row.isConnected)";
        sees(
            &browser,
            &format!(
                "{rows}.some(row => row.textContent.includes('shop/checkout')) && {rows}.some(row => row.textContent.includes('dev/intruder'))"
            ),
        );
        browser
            .keys("#flow-text", "Intruder eperm-is-nowhere")
            .expect("keys");
        sees(&browser, "!document.querySelector('#flows-empty').hidden");
        browser
            .run("document.querySelector('#flow-text').value = ''; return 0")
            .expect("cleared");
        browser.keys("#flow-text", "INTRUDER").expect("keys");
        sees(
            &browser,
            &format!(
                "{rows}.length >= 3 && {rows}.every(row => row.textContent.includes('dev/intruder'))"
            ),
        );
        let verdict = "const s = document.querySelector('#flow-verdict'); s.value = 'allowed'; s.dispatchEvent(new Event('change')); return 0";
        browser.run(verdict).expect("a choice");
        sees(&browser, &format!("{rows}.length === 0"));
        assert_eq!(browser.complaints().expect("a log"), [""; 0]);
    });
}

#[test]
fn a_name_is_never_more_than_text() {
    run("hostile", |sandbox| {
        let _shop = Shop::open(sandbox).expect("a shop");
        let _agent = AgentProcess::start(sandbox).expect("the agent starts");
        // As long as the kernel lets a process call itself.
        let name = "<img src=x o=1>";
        let program = sandbox.path(name);
        fs::copy("/bin/bash", &program).expect("a copy");
        let cgroup = sandbox
            .cgroup
            .child("system.slice/intruder.service")
            .expect("a cgroup");
        let status = in_cgroup(&cgroup, &program)
            .args(["-c", "exec 3<>/dev/tcp/10.96.0.10/80"])
            .stderr(Stdio::null())
            .status()
            .expect("it runs");
        assert!(!status.success(), "it is denied");
        let browser = open(sandbox, 1280, 900);
        let row = text_of("#denials tbody tr:first-child td.process");
        sees(&browser, &format!("{row}.startsWith('{name} (')"));
        let found = value(
            &browser,
            "document.querySelectorAll('main img, main script').length",
        );
        assert_eq!(found, "0");
        assert_eq!(browser.complaints().expect("a log"), [""; 0]);
    });
}

#[test]
fn an_agent_that_is_gone_is_said_to_be() {
    run("gone", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = AgentProcess::start(sandbox).expect("the agent starts");
        shop.is_guarded();
        let browser = open(sandbox, 1280, 900);
        sees(&browser, "document.querySelectorAll('.edge').length === 2");
        assert_eq!(
            value(&browser, "document.querySelector('#banner').hidden"),
            "true"
        );
        agent.kill().expect("killed");
        sees(&browser, "!document.querySelector('#banner').hidden");
        let banner = value(&browser, "document.querySelector('#banner').textContent");
        assert!(
            banner.contains("does not answer") && banner.contains("s old"),
            "{banner}"
        );
        assert_eq!(
            value(&browser, "document.body.classList.contains('stale')"),
            "true"
        );
        // What was seen is still there, and comes to life again with the agent.
        assert_eq!(
            value(&browser, "document.querySelectorAll('.edge').length"),
            "2"
        );
        browser.picture("gone").expect("a picture");
        let _agent = AgentProcess::start(sandbox).expect("the agent starts");
        sees(&browser, "document.querySelector('#banner').hidden");
    });
}

#[test]
fn the_page_of_a_town_by_day_and_by_night() {
    run("town", |sandbox| {
        sandbox
            .write_policy(town::FILE, &Town::policy())
            .expect("a policy");
        let _agent = AgentProcess::start(sandbox).expect("the agent starts");
        let _town = Town::open(sandbox).expect("a town");
        // Somebody has to have asked for there to be rates.
        agent::get(sandbox, "/api/v1/graph").expect("an answer");
        let browser = open(sandbox, 1440, 1000);
        sees(&browser, "document.querySelectorAll('.edge').length === 9");
        sees(
            &browser,
            "document.querySelectorAll('.edge.denied').length === 1",
        );
        sees(
            &browser,
            "document.querySelectorAll('.edge.bad').length === 1",
        );
        sees(
            &browser,
            &format!("{}.includes('(99) / v2')", text_of(".label .second")),
        );
        sleep(Duration::from_secs(8));
        let background = "getComputedStyle(document.body).backgroundColor";
        browser.prefer("light").expect("a scheme");
        let day = value(&browser, background);
        browser.picture("light").expect("a picture");
        browser.prefer("dark").expect("a scheme");
        let night = value(&browser, background);
        assert_ne!(day, night);
        browser.picture("dark").expect("a picture");
        browser.resize(1440, 1500).expect("a size");
        sleep(Duration::from_secs(1));
        browser.picture("long").expect("a picture");
        browser.resize(1440, 1000).expect("a size");
        // The button is stronger than the system.
        browser.click("#theme").expect("a click");
        assert_eq!(value(&browser, background), day);
        browser
            .click(".node[aria-label^=\"shop/payments\"]")
            .expect("a click");
        sees(
            &browser,
            &format!("{}.includes('wanted 99 %')", text_of("#panel .version")),
        );
        sleep(Duration::from_secs(1));
        browser.picture("panel").expect("a picture");
        // No label covers another service, and none another label.
        let overlaps = "(() => { const boxes = [...document.querySelectorAll('.node .box, .label-box')].map(e => e.getBoundingClientRect()); let n = 0; boxes.forEach((a, i) => boxes.slice(i + 1).forEach(b => { if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1) n += 1; })); return n; })()";
        assert_eq!(value(&browser, overlaps), "0");
        browser.click(".close").expect("a click");
        browser.resize(390, 844).expect("a size");
        sleep(Duration::from_secs(2));
        assert_eq!(
            value(&browser, "document.documentElement.scrollWidth <= 390"),
            "true"
        );
        browser.picture("phone").expect("a picture");
        browser
            .click(".node[aria-label^=\"edge/gateway\"]")
            .expect("a click");
        sleep(Duration::from_secs(1));
        browser.picture("phone-panel").expect("a picture");
        assert_eq!(browser.complaints().expect("a log"), [""; 0]);
    });
}

#[test]
fn a_map_of_many_services_is_drawn_in_layers() {
    run("many", |sandbox| {
        let _shop = Shop::open(sandbox).expect("a shop");
        let _agent = AgentProcess::start(sandbox).expect("the agent starts");
        let browser = open(sandbox, 1280, 900);
        let script = r##"
            const {ServiceMap} = await import("/page/map.js");
            const root = document.createElementNS("http://www.w3.org/2000/svg", "svg");
            root.id = "many";
            document.querySelector("#map").replaceWith(root);
            const traffic = {connections_open: 0, denied_total: 0, connections_opened_total: 0};
            const nodes = Array.from({length: 200}, (_, at) => ({id: `n/${at}`, title: `${at}`, subtitle: "n",
                mainstat: "1.0 conn/s", secondarystat: "", arc__allowed: 1, arc__denied: 0, arc__failed: 0, detail__local: true}));
            const edges = Array.from({length: 500}, (_, at) => {
                const [source, target] = [at % 200, (at * 7 + 13) % 200];
                return {id: `e${at}`, source: `n/${source}`, target: `n/${target}`, security: "none", denied: false,
                    rate_of: "connect", rate: 1, error_share: 0, p99_seconds: 0.1, denied_per_second: 0, versions: [], traffic};
            });
            const map = new ServiceMap(root, () => {});
            const started = performance.now();
            map.update(nodes, edges);
            const first = performance.now() - started;
            const before = root.innerHTML;
            map.update(nodes.map((node) => ({...node})), edges.map((edge) => ({...edge})));
            const second = performance.now() - started - first;
            const places = [...root.querySelectorAll(".node")].map((node) => node.getAttribute("transform"));
            return {same: before === root.innerHTML, nodes: new Set(places).size, edges: root.querySelectorAll(".edge .line[d]").length, first, second};
        "##;
        let drawn = browser.run(script).expect("it is drawn");
        assert_eq!(drawn["nodes"], 200, "{drawn}");
        assert_eq!(drawn["edges"], 500, "{drawn}");
        assert_eq!(drawn["same"], true, "{drawn}");
        browser.picture("many").expect("a picture");
    });
}

#[test]
fn the_page_asks_for_the_token_where_there_is_one() {
    run("token", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let token = "0123456789abcdef".repeat(4);
        let file = sandbox.path("token");
        fs::write(&file, &token).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
        let mut settings = fs::read_to_string(sandbox.agent_toml()).expect("settings");
        settings += &format!("token_file = \"{}\"\n", file.display());
        fs::write(sandbox.agent_toml(), settings).expect("written");
        let _agent = AgentProcess::start(sandbox).expect("the agent starts");
        shop.is_guarded();
        let browser = open(sandbox, 1280, 900);
        sees(&browser, "!document.querySelector('#token-form').hidden");
        browser.keys("#token", "not-the-token").expect("keys");
        browser.click("#token-form button").expect("a click");
        sleep(Duration::from_secs(2));
        let nodes = "document.querySelectorAll('.node').length";
        assert_eq!(value(&browser, nodes), "0");
        browser.keys("#token", &token).expect("keys");
        browser.click("#token-form button").expect("a click");
        sees(&browser, "document.querySelectorAll('.edge').length === 2");
        assert_eq!(
            value(&browser, "document.querySelector('#token-form').hidden"),
            "true"
        );
        // It is not in the address, nor in what is kept beyond the tab.
        assert_eq!(
            value(
                &browser,
                "location.href.includes('0123') || document.cookie !== '' || Object.values(localStorage).join().includes('0123')"
            ),
            "false"
        );
    });
}
