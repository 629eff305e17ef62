//! The ceiling: what does not fit is refused or given up, and no verdict changes.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_tests::agent::{AgentProcess, command, log, metric, series};
use mesh_tests::observe::{NOTICE, counts, problems, status, until};
use mesh_tests::peer::{After, Dial, Peer};
use mesh_tests::shop::{Shop, dial};
use mesh_tests::{Sandbox, host, kernel};

/// A drop-in beside the policy.
const DROP_IN: &str = "20-more.toml";
/// Little more than an agent starts with.
const LITTLE: &str = "16MiB";
const DECISIONS: &str = "mesh_authorization_decisions_total";
const DROPPED: [(&str, &str); 2] = [("kind", "decision"), ("stage", "kernel")];
/// How long the agent may take to notice how much memory it uses.
const TIDIED: Duration = Duration::from_secs(30);

fn start(sandbox: &Sandbox) -> AgentProcess {
    AgentProcess::start(sandbox).expect("the agent starts")
}

fn limit(sandbox: &Sandbox, memory: &str) {
    sandbox.limit_memory(memory).expect("written");
}

fn revision(sandbox: &Sandbox) -> u64 {
    let header = kernel::policy(sandbox).expect("a header");
    header.expect("a policy").revision
}

/// The VIP of a service of [`services`].
fn vip(number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    SocketAddr::from(([10, 97, high, low], 80))
}

/// Services `from` to `to`, each with an endpoint of its own.
fn services(from: u16, to: u16) -> String {
    let service = |number: u16| {
        let (ip, port) = (vip(number).ip(), 10_000 + number);
        format!(
            "[[service]]\nname = \"s-{number}\"\nnamespace = \"many\"\nvip = \"{ip}\"\nports = [{{ name = \"tcp\", listen = 80 }}]\nendpoints = [{{ address = \"127.0.0.1:{port}\", version = \"v1\" }}]\n"
        )
    };
    (from..to).map(service).collect()
}

fn sum(sandbox: &Sandbox, metric: &str, label: (&str, &str)) -> f64 {
    let series = series(sandbox, metric).expect("metrics");
    let of_it = series
        .iter()
        .filter(|(labels, _)| labels.get(label.0).is_some_and(|value| value == label.1));
    of_it.map(|(_, value)| *value).sum()
}

/// Waits until so many denials have a series.
#[track_caller]
fn denied_calls(sandbox: &Sandbox, count: f64) {
    until(NOTICE, "the series of denials are exact", || {
        sum(sandbox, DECISIONS, ("verdict", "denied")) == count
    });
}

fn capacity(sandbox: &Sandbox, map: &str) -> f64 {
    metric(sandbox, "mesh_bpf_map_capacity", &[("map", map)]).expect("a metric")
}

#[test]
fn a_policy_that_does_not_fit_is_refused_and_the_old_one_stays() {
    host::run("toolarge", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        limit(sandbox, LITTLE);
        let agent = start(sandbox);
        shop.is_guarded();
        let before = revision(sandbox);
        sandbox
            .write_policy(DROP_IN, &services(0, 400))
            .expect("written");
        until(NOTICE, "it is refused", || {
            status(sandbox).expect("status").1["rejected"].is_object()
        });
        let (_, document) = status(sandbox).expect("status");
        let told = document["rejected"]["diagnostics"].as_str().unwrap_or("");
        for part in [
            "error[policy-too-large]",
            "MiB of memory, and there is room for",
            "[limits] of agent.toml (now 16.0 MiB)",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let problems = problems(&document);
        assert!(problems.contains("stays in force"), "{problems}");
        assert!(log(sandbox).contains("error[policy-too-large]"));
        counts(
            sandbox,
            "mesh_policy_last_reload_successful",
            &[],
            |value| value == 0.0,
        );
        shop.is_guarded();
        assert_eq!(revision(sandbox), before);
        // The next agent finds the same files, and the policy that was in force.
        drop(agent);
        let agent = start(sandbox);
        shop.is_guarded();
        assert!(status(sandbox).expect("status").1["rejected"].is_object());
        drop(agent);
        limit(sandbox, "128MiB");
        let _agent = start(sandbox);
        shop.is_guarded();
        assert_eq!(status(sandbox).expect("status").0, Some(0));
        let outcome = shop.intruder.dial_once(Dial::tcp(vip(399)));
        assert_eq!(outcome.expect("an outcome").errno(), Some("EPERM"));
    });
}

#[test]
fn too_little_for_any_policy_is_said_before_anything_is_touched() {
    host::run("toolittle", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        drop(start(sandbox));
        limit(sandbox, "4MiB");
        let output = command(sandbox, &["load"]).expect("a command");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{told}");
        assert!(
            told.contains("memory = 4 MiB is too little: the agent and its BPF maps need"),
            "{told}"
        );
        shop.is_guarded();
    });
}

#[test]
fn series_are_given_up_at_the_ceiling_and_verdicts_are_not() {
    const SERVICES: u16 = 150;
    host::run("series", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        limit(sandbox, "17MiB");
        sandbox
            .write_policy(DROP_IN, &services(0, SERVICES))
            .expect("written");
        let agent = start(sandbox);
        shop.is_guarded();
        let room = capacity(sandbox, "DECISIONS");
        assert!((64.0..4096.0).contains(&room), "{room}");
        // Every pair of a caller and a service is a series: more than there is room for.
        let mut strangers: Vec<Peer> = (0..room as u16 / SERVICES + 1)
            .map(|number| Peer::spawn(&sandbox.cgroup, &format!("system.slice/x{number}.service")))
            .collect::<Result<_, _>>()
            .expect("peers");
        let callers = strangers.len() + 1;
        let units: String = (0..callers - 1)
            .map(|number| {
                format!("[[service]]\nname = \"x{number}\"\nnamespace = \"many\"\nworkload = {{ systemd = \"x{number}.service\" }}\n")
            })
            .collect();
        sandbox.write_policy("30-x.toml", &units).expect("written");
        until(NOTICE, "they are known", || {
            status(sandbox).expect("status").1["policy"]["files"][2] == "30-x.toml"
        });
        strangers
            .push(Peer::spawn(&sandbox.cgroup, "system.slice/nobody.service").expect("a peer"));
        let mut denied = 1.0;
        for caller in strangers.iter_mut().chain([&mut shop.intruder]) {
            for number in 0..SERVICES {
                let outcome = caller
                    .dial_once(Dial::tcp(vip(number)))
                    .expect("an outcome");
                assert_eq!(outcome.errno(), Some("EPERM"), "{outcome:?}");
                denied += 1.0;
            }
        }
        counts(sandbox, "mesh_denials_total", &[], |value| value == denied);
        let dropped = metric(sandbox, "mesh_metrics_series_dropped_total", &DROPPED);
        let dropped = dropped.expect("a metric");
        assert!(dropped > 0.0);
        let counted = sum(sandbox, DECISIONS, ("verdict", "denied"));
        assert_eq!(counted + dropped, denied);
        let (code, document) = status(sandbox).expect("status");
        let problems = problems(&document);
        assert!(problems.contains("BPF map DECISIONS is full"), "{problems}");
        assert_eq!(code, Some(5));
        // What has a series goes on being counted exactly.
        for _ in 0..20 {
            assert_eq!(dial(&mut shop.checkout), Ok("v1".into()));
        }
        counts(sandbox, DECISIONS, &[("rule", "checkout-pays")], |value| {
            value == 21.0
        });
        // Another ceiling changes how many there may be, and no count.
        drop(agent);
        limit(sandbox, "128MiB");
        let agent = start(sandbox);
        assert!(capacity(sandbox, "DECISIONS") > room);
        denied_calls(sandbox, counted);
        let last = shop.intruder.dial_once(Dial::tcp(vip(SERVICES - 1)));
        assert_eq!(last.expect("an outcome").errno(), Some("EPERM"));
        denied_calls(sandbox, counted + 1.0);
        drop(agent);
        limit(sandbox, "17MiB");
        let _agent = start(sandbox);
        assert_eq!(capacity(sandbox, "DECISIONS"), room);
        denied_calls(sandbox, counted + 1.0);
        shop.is_guarded();
    });
}

#[test]
fn above_the_ceiling_telemetry_goes_first() {
    const PARTS: u16 = 7;
    host::run("ceiling", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        for part in 0..PARTS {
            let text = services(part * 700, (part + 1) * 700);
            let name = format!("{}-many.toml", 50 + part);
            sandbox.write_policy(&name, &text).expect("written");
        }
        // Enforced from now on, whatever the ceiling is.
        drop(start(sandbox));
        limit(sandbox, "25MiB");
        let _agent = start(sandbox);
        shop.is_guarded();
        until(TIDIED, "telemetry is given up", || {
            status(sandbox).expect("status").1["memory"]["shedding"] == true
        });
        let (code, document) = status(sandbox).expect("status");
        assert_eq!(code, Some(5));
        let problems = problems(&document);
        assert!(
            problems.contains("fewer flows are remembered, and no new series are counted"),
            "{problems}"
        );
        assert!(log(sandbox).contains("memory is above its limit"));
        let now = |name: &str| metric(sandbox, name, &[]).expect("a metric");
        assert_eq!(now("mesh_memory_shedding"), 1.0);
        assert_eq!(now("mesh_memory_shed_total"), 1.0);
        assert_eq!(now("mesh_memory_limit_bytes"), f64::from(25 << 20));
        let denials = now("mesh_denials_total");
        let counted = sum(sandbox, DECISIONS, ("verdict", "denied"));
        for number in 0..10 {
            let outcome = shop.intruder.dial_once(Dial::tcp(vip(number)));
            assert_eq!(outcome.expect("an outcome").errno(), Some("EPERM"));
        }
        shop.is_guarded();
        counts(sandbox, "mesh_denials_total", &[], |value| {
            value == denials + 11.0
        });
        counts(
            sandbox,
            "mesh_metrics_series_dropped_total",
            &DROPPED,
            |value| value == 10.0,
        );
        denied_calls(sandbox, counted + 1.0);
        for part in 0..PARTS {
            let path = sandbox
                .path("conf.d")
                .join(format!("{}-many.toml", 50 + part));
            std::fs::remove_file(path).expect("removed");
        }
        until(NOTICE, "they are gone", || {
            status(sandbox).expect("status").1["policy"]["services"] == 3
        });
        // What was in force before is kept until it is written over.
        sandbox
            .write_policy(DROP_IN, &services(0, 1))
            .expect("written");
        until(TIDIED, "it is below again", || {
            status(sandbox).expect("status").1["memory"]["shedding"] == false
        });
        shop.is_guarded();
    });
}

#[test]
fn what_an_earlier_agent_left_is_freed_and_everything_else_is_counted() {
    /// Maps of the policy that grow with it, each with a copy in each slot.
    const MAPS: [&str; 4] = ["DESTINATIONS", "RULES", "ENDPOINTS", "SELECTORS"];
    let told = |sandbox: &Sandbox, map: &str| {
        let document = status(sandbox).expect("status").1;
        let maps = document["maps"].as_array().expect("maps").clone();
        let found = maps.iter().find(|found| found["map"] == map);
        found.expect("the map")["memory_bytes"].as_u64()
    };
    let held = |sandbox: &Sandbox, map: &str| {
        kernel::memory_with_inner(sandbox, map).expect("the kernel tells")
    };
    host::run("weight", move |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        limit(sandbox, "128MiB");
        sandbox
            .write_policy(DROP_IN, &services(0, 2000))
            .expect("written");
        let agent = start(sandbox);
        shop.is_guarded();
        for map in MAPS {
            assert_eq!(told(sandbox, map), Some(held(sandbox, map)), "{map}");
        }
        let once = held(sandbox, "DESTINATIONS");
        // Its own copies are both counted.
        sandbox
            .write_policy(DROP_IN, &services(0, 2001))
            .expect("written");
        until(NOTICE, "it is in force", || {
            status(sandbox).expect("status").1["policy"]["services"] == 2004
        });
        for map in MAPS {
            assert_eq!(told(sandbox, map), Some(held(sandbox, map)), "{map}");
        }
        let twice = held(sandbox, "DESTINATIONS");
        assert!(twice > once * 3 / 2, "{twice}, {once}");
        // The next agent may not look at what this one leaves.
        drop(agent);
        assert_eq!(held(sandbox, "DESTINATIONS"), twice);
        let _agent = start(sandbox);
        shop.is_guarded();
        for map in MAPS {
            assert_eq!(told(sandbox, map), Some(held(sandbox, map)), "{map}");
        }
        let left = held(sandbox, "DESTINATIONS");
        assert!(left < twice * 3 / 4, "{left}, {twice}");
        // What takes the place of a freed copy is as good as any.
        for count in [2002, 2003] {
            sandbox
                .write_policy(DROP_IN, &services(0, count))
                .expect("written");
            until(NOTICE, "it is in force", || {
                status(sandbox).expect("status").1["policy"]["services"] == count + 3
            });
            shop.is_guarded();
            let last = shop.intruder.dial_once(Dial::tcp(vip(count - 1)));
            assert_eq!(last.expect("an outcome").errno(), Some("EPERM"));
            for map in MAPS {
                assert_eq!(told(sandbox, map), Some(held(sandbox, map)), "{map}");
            }
        }
    });
}

#[test]
fn a_small_host_with_a_hundred_services_and_two_thousand_flows_fits() {
    /// What the agent's code, stacks and its view of the ring buffers take in RAM; measured with
    /// a release build by `cargo xtask bench memory`, which this build is not.
    const CODE: u64 = 8 << 20;
    /// What the kernel keeps with a socket for the mesh.
    const SOCKET: u64 = 256;
    const FLOWS: u32 = 2000;
    host::run("small", |sandbox| {
        limit(sandbox, "32MiB");
        let mut policy = services(0, 100);
        policy.push_str("[[service]]\nname = \"caller\"\nnamespace = \"many\"\nworkload = { systemd = \"caller.service\" }\n[[allow]]\nname = \"calls\"\nfrom = [\"many/caller\"]\nto = [\"many/*\"]\n");
        sandbox
            .write_policy("10-many.toml", &policy)
            .expect("written");
        let mut server = Peer::spawn(&sandbox.cgroup, "system.slice/many.service").expect("a peer");
        for number in 0..100 {
            let address = format!("127.0.0.1:{}", 10_000 + number);
            server.serve_tcp(&address, "many").expect("served");
        }
        let _agent = start(sandbox);
        let mut callers: Vec<Peer> = (0..5)
            .map(|_| Peer::spawn(&sandbox.cgroup, "system.slice/caller.service"))
            .collect::<Result<_, _>>()
            .expect("peers");
        for number in 0..100 {
            let caller = &mut callers[number as usize % 5];
            let to = Dial::tcp(vip(number)).then(After::Keep);
            for outcome in caller.dial(to.times(FLOWS / 100)).expect("outcomes") {
                assert_eq!(outcome.answered(), "many", "{outcome:?}");
            }
        }
        counts(sandbox, "mesh_tcp_connections_opened_total", &[], |value| {
            value >= f64::from(FLOWS)
        });
        let (code, document) = status(sandbox).expect("status");
        assert_eq!(code, Some(0), "{document:#}");
        let memory = &document["memory"];
        let bytes = |name: &str| memory[name].as_u64().expect("a number");
        let sockets = 2 * u64::from(FLOWS) * SOCKET;
        let usher = bytes("usher_bytes");
        assert!(usher > 0 && usher < 2 << 20, "{memory:#}");
        let all = bytes("heap_bytes") + usher + bytes("maps_bytes") + sockets + CODE;
        assert!(all < 32 << 20, "{all}: {memory:#}");
        assert_eq!(memory["shedding"], false);
        // What was set aside for the policy is enough for its maps.
        let policy = memory["uses"][0].clone();
        assert_eq!(policy["use"], "policy");
        let taken = policy["bytes"].as_u64().expect("a number");
        assert!(taken > 0 && taken <= bytes("policy_bytes"), "{memory:#}");
        assert!(bytes("policy_bytes") <= bytes("policy_limit_bytes"));
    });
}
