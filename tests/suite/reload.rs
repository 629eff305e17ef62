//! Changes of the files: taken over when they are whole and right, and only then.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mesh_tests::agent::{AgentProcess, get, log};
use mesh_tests::observe::{NOTICE, problems, status, until};
use mesh_tests::peer::Peer;
use mesh_tests::shop::{FILE, OPEN, POLICY, Shop, dial};
use mesh_tests::{Sandbox, host, kernel};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// A drop-in beside the policy.
const DROP_IN: &str = "20-more.toml";

fn start(sandbox: &Sandbox) -> AgentProcess {
    AgentProcess::start(sandbox).expect("the agent starts")
}

fn write(sandbox: &Sandbox, name: &str, text: &str) {
    sandbox.write_policy(name, text).expect("written");
}

fn revision(sandbox: &Sandbox) -> u64 {
    let header = kernel::policy(sandbox).expect("a header");
    header.expect("a policy").revision
}

#[track_caller]
fn becomes_open(peer: &mut Peer) {
    until(NOTICE, "the call is allowed", || dial(peer).is_ok());
}

#[track_caller]
fn becomes_closed(peer: &mut Peer) {
    until(NOTICE, "the call is denied", || {
        dial(peer) == Err("EPERM".into())
    });
}

#[test]
fn files_may_come_change_and_go_in_any_way() {
    host::run("dropins", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        shop.is_guarded();
        let intruder = &mut shop.intruder;
        let (path, shop_file) = (
            sandbox.path("conf.d").join(DROP_IN),
            sandbox.path("conf.d").join(FILE),
        );
        write(sandbox, DROP_IN, OPEN);
        becomes_open(intruder);
        fs::remove_file(&path).expect("removed");
        becomes_closed(intruder);
        fs::write(&path, OPEN).expect("written in place");
        becomes_open(intruder);
        fs::rename(&path, path.with_extension("off")).expect("renamed");
        becomes_closed(intruder);
        fs::hard_link(path.with_extension("off"), &path).expect("linked");
        becomes_open(intruder);
        fs::write(&path, "# nothing any more\n").expect("written in place");
        becomes_closed(intruder);
        fs::write(&shop_file, format!("{POLICY}{OPEN}")).expect("written in place");
        becomes_open(intruder);
        // As editors do it: the old file becomes the backup, a new one takes its name.
        fs::rename(&shop_file, shop_file.with_extension("toml~")).expect("renamed");
        fs::write(&shop_file, POLICY).expect("written");
        becomes_closed(intruder);
        symlink("20-more.off", path.with_file_name("30-link.toml")).expect("linked");
        write(sandbox, "20-more.off", OPEN);
        becomes_open(intruder);
        assert_eq!(status(sandbox).expect("status").0, Some(0));
    });
}

#[test]
fn what_is_not_policy_changes_nothing() {
    host::run("nopolicy", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        let before = revision(sandbox);
        for name in [
            "notes.txt",
            ".10-shop.toml.swp",
            ".hidden.toml",
            "a.toml.bak",
        ] {
            write(sandbox, name, "this is no policy");
        }
        // The same text again is the same policy.
        write(sandbox, FILE, POLICY);
        sleep(Duration::from_millis(800));
        assert_eq!(revision(sandbox), before);
        assert_eq!(status(sandbox).expect("status").0, Some(0));
        shop.is_guarded();
    });
}

#[test]
fn half_a_file_is_not_applied() {
    host::run("half", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let before = revision(sandbox);
        let path = sandbox.path("conf.d").join(DROP_IN);
        let mut file = File::create(&path).expect("created");
        file.write_all(OPEN.as_bytes()).expect("written");
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2600) {
            shop.is_guarded();
            sleep(Duration::from_millis(20));
        }
        assert_eq!(revision(sandbox), before);
        file.write_all(b"ports = [\"http\"]\n").expect("written");
        drop(file);
        becomes_open(&mut shop.intruder);

        // A file that is being written anew is empty at first.
        let before = revision(sandbox);
        let mut file = File::create(sandbox.path("conf.d").join(FILE)).expect("truncated");
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1200) {
            assert_eq!(dial(&mut shop.checkout), Ok("v1".into()));
            sleep(Duration::from_millis(20));
        }
        file.write_all(&POLICY.as_bytes()[..200]).expect("written");
        sleep(Duration::from_millis(500));
        assert_eq!(revision(sandbox), before);
        file.write_all(&POLICY.as_bytes()[200..]).expect("written");

        // Who asks for it by a signal gets what is there.
        fs::remove_file(&path).expect("removed");
        agent.signal(Signal::SIGHUP).expect("signalled");
        becomes_closed(&mut shop.intruder);
        drop(file);
        sleep(Duration::from_millis(400));
        shop.is_guarded();
        assert_eq!(status(sandbox).expect("status").0, Some(0));
    });
}

#[test]
fn sighup_applies_what_is_there_and_nothing_twice() {
    host::run("sighup", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let before = revision(sandbox);
        for _ in 0..3 {
            agent.signal(Signal::SIGHUP).expect("signalled");
            sleep(Duration::from_millis(100));
        }
        assert_eq!(revision(sandbox), before, "the files are the same");
        write(sandbox, DROP_IN, OPEN);
        agent.signal(Signal::SIGHUP).expect("signalled");
        becomes_open(&mut shop.intruder);
        sleep(Duration::from_millis(500));
        assert_eq!(
            revision(sandbox),
            before + 1,
            "once for the signal and the file"
        );
    });
}

#[test]
fn a_storm_of_changes_ends_in_the_last_one() {
    host::run("storm", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        let before = revision(sandbox);
        for number in 0..1000 {
            let open = if number % 2 == 0 { "" } else { OPEN };
            write(sandbox, DROP_IN, &format!("# {number}\n{open}"));
        }
        becomes_open(&mut shop.intruder);
        assert_eq!(dial(&mut shop.checkout), Ok("v1".into()));
        sleep(Duration::from_millis(600));
        let applied = revision(sandbox) - before;
        assert!(applied < 20, "{applied} of 1000 were applied");
        assert_eq!(status(sandbox).expect("status").0, Some(0));
    });
}

#[test]
fn more_events_than_the_kernel_keeps_end_in_the_last_state() {
    host::run("overflow", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events");
        let most: u32 = most.expect("readable").trim().parse().expect("a number");
        if most > 100_000 {
            // It would take too long.
            return;
        }
        agent.signal(Signal::SIGSTOP).expect("signalled");
        let name = |name: &str| sandbox.path("conf.d").join(name);
        File::create(name("0.toml")).expect("created");
        for number in 0..most / 2 + 500 {
            let (from, to) = (number % 2, (number + 1) % 2);
            fs::rename(name(&format!("{from}.toml")), name(&format!("{to}.toml")))
                .expect("renamed");
        }
        write(sandbox, DROP_IN, OPEN);
        shop.is_guarded();
        agent.signal(Signal::SIGCONT).expect("signalled");
        becomes_open(&mut shop.intruder);
        assert_eq!(status(sandbox).expect("status").0, Some(0));
    });
}

/// What the agent says while the drop-in is broken; then removes it and waits for its recovery.
#[track_caller]
fn rejected(sandbox: &Sandbox, shop: &mut Shop, code: &str) {
    let before = revision(sandbox);
    let expected = format!("error[{code}]");
    let mut document = serde_json::Value::Null;
    until(NOTICE, &expected, || {
        let (exit, now) = status(sandbox).expect("status");
        document = now;
        exit == Some(5)
    });
    let diagnostics = document["rejected"]["diagnostics"]
        .as_str()
        .unwrap_or_default();
    assert!(diagnostics.contains(&expected), "{expected}: {diagnostics}");
    let problems = problems(&document);
    assert!(problems.contains("policy set rejected"), "{problems}");
    assert!(problems.contains("stays in force"), "{problems}");
    assert!(log(sandbox).contains(&expected), "{expected} in the log");
    shop.is_guarded();
    assert_eq!(revision(sandbox), before, "{code}");
}

fn last_reload(sandbox: &Sandbox) -> Option<String> {
    let metrics = get(sandbox, "/metrics").expect("metrics");
    let value = |line: &str| {
        Some(
            line.strip_prefix("mesh_policy_last_reload_successful ")?
                .into(),
        )
    };
    metrics.lines().find_map(value)
}

#[track_caller]
fn recovers(sandbox: &Sandbox) {
    until(NOTICE, "the rest is applied", || {
        status(sandbox).expect("status").0 == Some(0)
    });
    until(NOTICE, "the metric says so", || {
        last_reload(sandbox).as_deref() == Some("1")
    });
}

#[test]
fn what_cannot_be_trusted_is_not_read() {
    type Make = fn(&Path);
    let kinds: [(&str, Make); 7] = [
        ("not-a-file", |path| {
            mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
        }),
        ("not-a-file", |path| {
            fs::create_dir(path).expect("a directory")
        }),
        ("symlink-outside", |path| {
            symlink("/etc/passwd", path).expect("a link");
        }),
        ("dangling-symlink", |path| {
            symlink("nowhere.off", path).expect("a link");
        }),
        ("unsafe-file", |path| {
            fs::write(path.with_extension("new"), OPEN).expect("written");
            let everyone = Permissions::from_mode(0o666);
            fs::set_permissions(path.with_extension("new"), everyone).expect("changed");
            fs::rename(path.with_extension("new"), path).expect("renamed");
        }),
        ("file-too-large", |path| {
            let text = format!("{OPEN}#{}", "x".repeat(1 << 20));
            fs::write(path, text).expect("written");
        }),
        ("not-utf8", |path| {
            let text = [OPEN.as_bytes(), b"# caf\xe9\n"].concat();
            fs::write(path, text).expect("written");
        }),
    ];
    host::run("distrust", move |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        let path = sandbox.path("conf.d").join(DROP_IN);
        for (code, make) in kinds {
            make(&path);
            rejected(sandbox, &mut shop, code);
            until(NOTICE, "the metric says so", || {
                last_reload(sandbox).as_deref() == Some("0")
            });
            if path.is_dir() {
                fs::remove_dir(&path).expect("removed");
            } else {
                fs::remove_file(&path).expect("removed");
            }
            recovers(sandbox);
        }
        shop.is_guarded();
    });
}

/// Broken drop-ins, and what they are called.
const BROKEN: &[(&str, &str)] = &[
    ("syntax", "[[service]\n"),
    ("syntax", "[mesh]\ndefault = deny\n"),
    ("syntax", "[[service]]\nname = \"a\n"),
    ("unknown-field", "wat = 1\n"),
    ("unknown-field", "[[services]]\nname = \"a\"\n"),
    (
        "unknown-field",
        "[[service]]\nnmae = \"a\"\nworkload = { uid = 7 }\n",
    ),
    ("unknown-value", "[mesh]\ndefault = \"denied\"\n"),
    ("wrong-type", "[mesh]\ndefault = true\n"),
    ("wrong-type", "mesh = 3\n"),
    (
        "missing-field",
        "[[service]]\nnamespace = \"a\"\nworkload = { uid = 7 }\n",
    ),
    (
        "missing-field",
        "[[allow]]\nfrom = [\"*\"]\nto = [\"shop/payments\"]\n",
    ),
    (
        "invalid-name",
        "[[service]]\nname = \"Shop\"\nworkload = { uid = 7 }\n",
    ),
    (
        "invalid-name",
        "[[service]]\nname = \"*\"\nworkload = { uid = 7 }\n",
    ),
    (
        "duplicate-service",
        "[[service]]\nname = \"payments\"\nnamespace = \"shop\"\nworkload = { uid = 7 }\n",
    ),
    (
        "duplicate-rule",
        "[[allow]]\nname = \"checkout-pays\"\nfrom = [\"*\"]\nto = [\"shop/payments\"]\n",
    ),
    (
        "unknown-service",
        "[[allow]]\nname = \"r\"\nfrom = [\"shop/chekout\"]\nto = [\"shop/payments\"]\n",
    ),
    (
        "unknown-service",
        "[[split]]\nservice = \"shop/payment\"\nweights = { v1 = 1 }\n",
    ),
    (
        "unknown-version",
        "[[split]]\nservice = \"shop/payments\"\nweights = { v1 = 1, v9 = 1 }\n",
    ),
    (
        "zero-weights",
        "[[split]]\nservice = \"shop/payments\"\nweights = { v1 = 0 }\n",
    ),
    (
        "invalid-weight",
        "[[split]]\nservice = \"shop/payments\"\nweights = { v1 = -1 }\n",
    ),
    (
        "unknown-port",
        "[[allow]]\nname = \"r\"\nfrom = [\"*\"]\nto = [\"shop/payments\"]\nports = [\"https\"]\n",
    ),
    (
        "invalid-port",
        "[[allow]]\nname = \"r\"\nfrom = [\"*\"]\nto = [\"shop/payments\"]\nports = [0]\n",
    ),
    (
        "unknown-value",
        "[[allow]]\nname = \"r\"\nmode = \"adit\"\nfrom = [\"*\"]\nto = [\"shop/payments\"]\n",
    ),
    (
        "never-matches",
        "[[allow]]\nname = \"r\"\nfrom = []\nto = [\"shop/payments\"]\n",
    ),
    (
        "never-matches",
        "[[allow]]\nname = \"r\"\nfrom = [\"shop/checkout\"]\nto = [{ cidr = \"192.0.2.0/24\" }]\n",
    ),
    (
        "never-matches",
        "[[allow]]\nname = \"r\"\nfrom = [\"*\"]\nto = [\"shop/checkout\"]\n",
    ),
    (
        "invalid-cidr",
        "[[allow]]\nname = \"r\"\nfrom = [{ cidr = \"192.168.1.1/24\" }]\nto = [\"shop/payments\"]\n",
    ),
    (
        "invalid-reference",
        "[[allow]]\nname = \"r\"\nfrom = [\"*\"]\nto = [\"payments\"]\n",
    ),
    (
        "invalid-vip-range",
        "[mesh]\nvip_range = \"127.0.0.0/16\"\n",
    ),
    (
        "invalid-uid",
        "[[service]]\nname = \"a\"\nworkload = { uid = -1 }\n",
    ),
    (
        "invalid-unit",
        "[[service]]\nname = \"a\"\nworkload = { systemd = \"a\" }\n",
    ),
    (
        "same-workload",
        "[[service]]\nname = \"a\"\nworkload = { systemd = \"checkout.service\" }\n",
    ),
    (
        "duplicate-endpoint",
        "[[service]]\nname = \"a\"\nports = [{ name = \"p\", listen = 1 }]\nendpoints = [{ address = \"127.0.0.1:8081\" }]\n",
    ),
    (
        "duplicate-vip",
        "[[service]]\nname = \"a\"\nvip = \"10.96.0.10\"\nports = [{ name = \"p\", listen = 1 }]\nendpoints = [{ address = \"127.0.0.1:9\" }]\n",
    ),
    (
        "invalid-vip",
        "[[service]]\nname = \"a\"\nvip = \"127.0.0.1\"\nports = [{ name = \"p\", listen = 1 }]\nendpoints = [{ address = \"127.0.0.1:9\" }]\n",
    ),
    (
        "invalid-address",
        "[[service]]\nname = \"a\"\nports = [{ name = \"p\", listen = 1 }]\nendpoints = [{ address = \"localhost:9\" }]\n",
    ),
    (
        "unknown-node",
        "[[service]]\nname = \"a\"\nports = [{ name = \"p\", listen = 1 }]\nendpoints = [{ address = \"10.0.0.9:9\", node = \"edge-9\" }]\n",
    ),
    (
        "duplicate-listen",
        "[[service]]\nname = \"a\"\nports = [{ name = \"p\", listen = 1 }, { name = \"q\", listen = 1 }]\nendpoints = [{ address = \"127.0.0.1:9\", port = \"p\" }]\n",
    ),
    (
        "invalid-node-address",
        "[[node]]\nname = \"edge-3\"\naddress = \"0.0.0.0\"\n",
    ),
];

#[test]
fn a_broken_drop_in_of_any_kind_changes_nothing() {
    host::run_for(Duration::from_secs(90), "broken", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let (links, before) = (kernel::links(sandbox).expect("links"), revision(sandbox));
        for (code, text) in BROKEN {
            write(sandbox, DROP_IN, &format!("{text}\n{OPEN}"));
            agent.signal(Signal::SIGHUP).expect("signalled");
            rejected(sandbox, &mut shop, code);
            fs::remove_file(sandbox.path("conf.d").join(DROP_IN)).expect("removed");
            agent.signal(Signal::SIGHUP).expect("signalled");
            recovers(sandbox);
        }
        assert_eq!(revision(sandbox), before, "nothing new was ever in force");
        assert_eq!(kernel::links(sandbox).expect("links"), links);
        write(sandbox, DROP_IN, OPEN);
        becomes_open(&mut shop.intruder);
    });
}
