//! A host is migrated: what it does is counted, suggested, put in force, and nothing breaks.

use std::thread::sleep;
use std::time::Duration;

use mesh_tests::mesh::{Call, Decision};
use mesh_tests::names::{CHECKOUT, HOST, INTRUDER, tcp};
use mesh_tests::peer::Peer;
use mesh_tests::{Mesh, Sandbox, agent, host};

/// More than the least time between two records of a series.
const RECORDED_AGAIN: Duration = Duration::from_millis(150);

const SERVICES: &str = r#"
[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout.service" }

[[service]]
name = "intruder"
namespace = "dev"
workload = { systemd = "intruder.service" }

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [
  { name = "http", listen = 80 },
  { name = "admin", listen = 81 },
  { name = "dns", listen = 53, protocol = "udp" },
]
endpoints = [
  { address = "127.0.0.1:8080", port = "http", version = "v1" },
  { address = "127.0.0.1:8081", port = "admin", version = "v1" },
  { address = "127.0.0.1:8053", port = "dns", version = "v1" },
]

[[service]]
name = "ledger"
namespace = "shop"
vip = "10.96.0.11"
ports = [{ name = "sql", listen = 5432 }]
endpoints = [{ address = "127.0.0.1:8054", version = "v1" }]

[[allow]]
name = "suggested-host-to-shop-ledger"
from = ["shop/checkout"]
to = ["shop/payments"]
ports = ["dns"]
"#;

const AUDIT: &str = r#"
[[allow]]
name = "so-far"
from = ["*", { cidr = "0.0.0.0/0" }, { cidr = "::/0" }]
to = ["shop/*"]
mode = "audit"
"#;

/// Who calls what, and the rule that is suggested for it.
const CALLS: &[(&str, &str, &str, &str, &str)] = &[
    (
        CHECKOUT,
        "shop/checkout",
        "10.96.0.10:80",
        "shop/payments",
        "suggested-shop-checkout-to-shop-payments",
    ),
    // Around the VIP.
    (
        CHECKOUT,
        "shop/checkout",
        "127.0.0.1:8080",
        "shop/payments",
        "suggested-shop-checkout-to-shop-payments",
    ),
    (
        CHECKOUT,
        "shop/checkout",
        "10.96.0.11:5432",
        "shop/ledger",
        "suggested-shop-checkout-to-shop-ledger",
    ),
    (
        HOST,
        "host",
        "10.96.0.10:81",
        "shop/payments",
        "suggested-host-to-shop-payments",
    ),
    (
        HOST,
        "host",
        "10.96.0.11:5432",
        "shop/ledger",
        "suggested-host-to-shop-ledger-2",
    ),
];

const SUGGESTED: &str = r#"
# 1 connection
[[allow]]
name = "suggested-host-to-shop-ledger-2"
from = ["host"]
to = ["shop/ledger"]
ports = ["sql"]

# 1 connection
[[allow]]
name = "suggested-host-to-shop-payments"
from = ["host"]
to = ["shop/payments"]
ports = ["admin"]

# 1 connection
[[allow]]
name = "suggested-shop-checkout-to-shop-ledger"
from = ["shop/checkout"]
to = ["shop/ledger"]
ports = ["sql"]

# 2 connections
[[allow]]
name = "suggested-shop-checkout-to-shop-payments"
from = ["shop/checkout"]
to = ["shop/payments"]
ports = ["http"]
"#;

fn serve(mesh: &Mesh<'_>) -> Peer {
    let mut server = mesh.peer("system.slice/servers.service");
    for port in [8080, 8081, 8054] {
        let address = format!("127.0.0.1:{port}");
        server.serve_tcp(&address, "v1").expect("a server");
    }
    server
}

/// Standard output of `mesh-agent suggest`.
fn suggest(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let output = agent::command(sandbox, &[&["suggest"], arguments].concat()).expect("suggest");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The rules and their comments, but for the time.
fn without_times(text: &str) -> String {
    let rules = text.split_once("\n\n").map_or("", |(_, rules)| rules);
    let lines = rules.lines().map(|line| match line.split_once(" since ") {
        Some((comment, time)) => {
            assert!(time.ends_with('Z'), "{line}");
            comment
        }
        None => line,
    });
    lines.fold(String::new(), |text, line| text + "\n" + line) + "\n"
}

/// Every call, as it was before anything is enforced: it gets through, and is noticed.
fn call_unruled(mesh: &mut Mesh<'_>, rule: &str) {
    for (cgroup, name, to, service, _) in CALLS {
        let outcome = mesh.peer(cgroup).dial_once(tcp(to)).expect("an outcome");
        assert_eq!(outcome.answered(), "v1", "{name} {to}: {outcome:?}");
        let decision = Decision::of_rule("would-deny", rule, name, service);
        mesh.expect_record(decision, Call::tcp(to).from_cgroup(cgroup));
        sleep(RECORDED_AGAIN);
    }
}

/// Every call, let through by its rule.
fn call_ruled(mesh: &mut Mesh<'_>) {
    for (cgroup, name, to, service, rule) in CALLS {
        let outcome = mesh.peer(cgroup).dial_once(tcp(to)).expect("an outcome");
        let decision = Decision::of_rule("allowed", rule, name, service);
        mesh.expect_allowed(&outcome, "v1", decision);
    }
}

/// From a policy that counts as `rule` what it will deny to one that denies it.
fn migrate(sandbox: &Sandbox, before: &str, rule: &str, after: &str) {
    let mut mesh = Mesh::start(sandbox, before);
    let _server = serve(&mesh);
    assert!(suggest(sandbox, &[]).contains("# Nothing to suggest."));
    call_unruled(&mut mesh, rule);
    mesh.settle();

    let text = suggest(sandbox, &[]);
    assert_eq!(without_times(&text), SUGGESTED);
    assert_eq!(suggest(sandbox, &[]), text, "stable");
    sandbox
        .write_policy("50-suggested.toml", &text)
        .expect("written");
    let checked = agent::command(sandbox, &["check"]).expect("check");
    assert!(checked.status.success(), "{checked:?}");

    // The book holds all counters: those of would-be denials stay as they are.
    mesh.reload(&format!("{before}# suggestions are beside this\n"));
    call_ruled(&mut mesh);
    mesh.settle();
    assert!(suggest(sandbox, &["--denied"]).contains("# Nothing to suggest."));

    mesh.reload(after);
    call_ruled(&mut mesh);
    for (to, service) in [
        ("10.96.0.10:80", "shop/payments"),
        ("10.96.0.11:5432", "shop/ledger"),
    ] {
        let outcome = mesh.peer(INTRUDER).dial_once(tcp(to)).expect("an outcome");
        let decision = Decision::of_rule("denied", "default", "dev/intruder", service);
        mesh.expect_denied(&outcome, decision, Call::tcp(to).from_cgroup(INTRUDER));
    }
    mesh.settle();
    refused_calls_are_suggested_on_request(sandbox);
    nobody_to_ask(sandbox, &mut mesh);
}

fn refused_calls_are_suggested_on_request(sandbox: &Sandbox) {
    let quiet = suggest(sandbox, &[]);
    assert!(quiet.contains("# Nothing to suggest."), "{quiet}");
    assert!(quiet.contains("# dev/intruder -> shop/payments, 1 connection: denied by default"));
    let json = suggest(sandbox, &["--denied", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("a document");
    assert_eq!(json["schema_version"], 1);
    let rules = json["rules"].as_array().expect("rules");
    let shown: Vec<_> = rules
        .iter()
        .map(|rule| [&rule["from"], &rule["to"], &rule["ports"][0]])
        .collect();
    assert_eq!(
        shown,
        [
            ["dev/intruder", "shop/ledger", "sql"],
            ["dev/intruder", "shop/payments", "http"],
        ]
    );
}

fn nobody_to_ask(sandbox: &Sandbox, mesh: &mut Mesh<'_>) {
    mesh.agent.take().expect("running").kill().expect("killed");
    let output = agent::command(sandbox, &["suggest"]).expect("suggest");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(output.stdout.is_empty());
}

#[test]
fn from_default_allow() {
    host::run("allow", |sandbox| {
        let policy = |default: &str| format!("[mesh]\ndefault = \"{default}\"\n{SERVICES}");
        migrate(sandbox, &policy("allow"), "default", &policy("deny"));
    });
}

#[test]
fn from_an_audit_rule() {
    host::run("audit", |sandbox| {
        let after = format!("[mesh]\ndefault = \"deny\"\n{SERVICES}");
        migrate(sandbox, &format!("{after}{AUDIT}"), "so-far", &after);
    });
}
