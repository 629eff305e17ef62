//! Files that are broken or cannot be trusted: told apart by name, and nothing else happens.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use mesh_tests::agent::{AgentProcess, get, log};
use mesh_tests::observe::{NOTICE, problems, status, until};
use mesh_tests::shop::{OPEN, Shop, dial};
use mesh_tests::{Sandbox, host, kernel};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// A drop-in beside the policy.
const DROP_IN: &str = "20-more.toml";

fn start(sandbox: &Sandbox) -> AgentProcess {
    AgentProcess::start(sandbox).expect("the agent starts")
}

fn write(sandbox: &Sandbox, text: &str) {
    sandbox.write_policy(DROP_IN, text).expect("written");
}

fn revision(sandbox: &Sandbox) -> u64 {
    let header = kernel::policy(sandbox).expect("a header");
    header.expect("a policy").revision
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
            write(sandbox, &format!("{text}\n{OPEN}"));
            agent.signal(Signal::SIGHUP).expect("signalled");
            rejected(sandbox, &mut shop, code);
            fs::remove_file(sandbox.path("conf.d").join(DROP_IN)).expect("removed");
            agent.signal(Signal::SIGHUP).expect("signalled");
            recovers(sandbox);
        }
        assert_eq!(revision(sandbox), before, "nothing new was ever in force");
        assert_eq!(kernel::links(sandbox).expect("links"), links);
        write(sandbox, OPEN);
        until(NOTICE, "a right one is applied", || {
            dial(&mut shop.intruder).is_ok()
        });
    });
}
