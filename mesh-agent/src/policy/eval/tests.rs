//! Verdicts: the rules, the flow, what is expected.

use super::{Caller, Decision, evaluate, evaluate_egress, split_for};
use crate::policy::model::{Policy, ServiceName};
use crate::policy::parse::{LocalNode, parse};
use crate::policy::source::SourceSet;

const SERVICES: &str = r#"
[[service]]
name = "checkout"
namespace = "shop"
workload = { uid = 1001 }
egress = "deny"
[[service]]
name = "cart"
namespace = "shop"
workload = { uid = 1002 }
[[service]]
name = "job"
namespace = "dev"
workload = { uid = 1003 }
egress = "deny"
[[service]]
name = "payments"
namespace = "shop"
ports = [{ name = "http", listen = 80 }, { name = "admin", listen = 81 }]
endpoints = [
  { address = "127.0.0.1:1", port = "http", version = "v1" },
  { address = "127.0.0.1:2", port = "admin", version = "v1" },
]
"#;

fn policy(rules: &str) -> Policy {
    let local = LocalNode {
        name: "edge-1".into(),
        address: None,
        trust_domain: "mesh.local".into(),
    };
    let parsed = parse(
        &SourceSet::from_texts([("a.toml", rules), ("b.toml", SERVICES)]),
        &local,
    );
    let shown: String = parsed.diagnostics.iter().map(|d| d.render(false)).collect();
    parsed.policy.expect(&shown)
}

fn name(text: &str) -> ServiceName {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    ServiceName {
        namespace: namespace.into(),
        name: name.into(),
    }
}

/// `verdict rule matched,matched`; the default is `-`.
fn shown(decision: &Decision<'_>) -> String {
    let rule = decision.rule.map_or("-", |rule| &*rule.name);
    let matched: Vec<&str> = decision.matched.iter().map(|rule| &*rule.name).collect();
    format!("{} {rule} {}", decision.verdict.name(), matched.join(","))
        .trim_end()
        .to_owned()
}

fn with_caller<T>(caller: &str, then: impl FnOnce(Caller<'_>) -> T) -> T {
    match caller {
        "host" => then(Caller::Host),
        service => then(Caller::Service(&name(service))),
    }
}

/// Each line of `rules`: `allow|deny[?] name from to ports`, a `?` for audit.
fn rules(lines: &[&str]) -> String {
    let rule = |line: &&str| {
        let mut words = line.split_whitespace();
        let mut next = || words.next().unwrap_or_default().to_owned();
        let (kind, name, from, to, ports) = (next(), next(), next(), next(), next());
        let list = |items: &str| {
            let quoted = |item: &str| match item.parse::<u16>() {
                Ok(number) => number.to_string(),
                Err(_) if item.starts_with(|c: char| c.is_ascii_digit()) => {
                    format!("{{ cidr = \"{item}\" }}")
                }
                Err(_) => format!("\"{item}\""),
            };
            items
                .split(',')
                .filter(|item| !item.is_empty())
                .map(quoted)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let mode = if kind.ends_with('?') {
            "audit"
        } else {
            "enforce"
        };
        format!(
            "[[{}]]\nname = \"{name}\"\nmode = \"{mode}\"\nfrom = [{}]\nto = [{}]\nports = [{}]\n",
            kind.trim_end_matches('?'),
            list(&from),
            list(&to),
            list(&ports),
        )
    };
    lines.iter().map(rule).collect()
}

#[track_caller]
fn check(lines: &[&str], flows: &[(&str, &str, &str)]) {
    check_with("", lines, flows);
}

#[track_caller]
fn check_with(mesh: &str, lines: &[&str], flows: &[(&str, &str, &str)]) {
    let policy = policy(&format!("{mesh}{}", rules(lines)));
    let payments = name("shop/payments");
    for (caller, port, expected) in flows {
        let ports = &policy.services[&payments].ports;
        let port = ports.iter().find(|p| &*p.name == *port).expect("a port");
        let decision = with_caller(caller, |caller| {
            shown(&evaluate(&policy, caller, &payments, port))
        });
        assert_eq!(decision, *expected, "{caller} {}", port.name);
    }
}

const ALLOW: &str = "[mesh]\ndefault = \"allow\"\n";

#[test]
fn without_rules_the_default_decides() {
    check(
        &[],
        &[
            ("shop/cart", "http", "denied -"),
            ("host", "http", "denied -"),
        ],
    );
    check_with(ALLOW, &[], &[("shop/cart", "http", "would-deny -")]);
}

#[test]
fn callers_and_ports() {
    check(
        &[
            "allow a shop/checkout shop/payments http",
            "allow b shop/* shop/payments 81",
            "allow c host shop/*",
        ],
        &[
            ("shop/checkout", "http", "allowed a a"),
            ("shop/cart", "http", "denied -"),
            ("shop/cart", "admin", "allowed b b"),
            ("dev/job", "admin", "denied -"),
            ("host", "http", "allowed c c"),
            ("host", "admin", "allowed c c"),
        ],
    );
    check(
        &["allow a * shop/payments"],
        &[
            ("host", "http", "allowed a a"),
            ("dev/job", "http", "allowed a a"),
        ],
    );
}

#[test]
fn deny_beats_allow_whatever_the_order_and_the_rank() {
    let denied = [("shop/cart", "http", "denied d a,d")];
    check(
        &["allow a shop/cart shop/payments", "deny d * shop/payments"],
        &denied,
    );
    check(
        &["deny d * shop/*", "allow a shop/cart shop/payments"],
        &[("shop/cart", "http", "denied d d,a")],
    );
    check(
        &["deny? x shop/cart shop/payments", "deny d * shop/*"],
        &[("shop/cart", "http", "denied d x,d")],
    );
}

#[test]
fn audit_rules_deny_nothing() {
    check(
        &["allow a * shop/*", "deny? x * shop/*"],
        &[("host", "http", "would-deny x a,x")],
    );
    check(
        &["allow? y * shop/*"],
        &[("host", "http", "would-deny y y")],
    );
    check(
        &["allow? y * shop/*", "deny? x * shop/*"],
        &[("host", "http", "would-deny x y,x")],
    );
    check(
        &["allow? y * shop/*", "allow a * shop/*"],
        &[("host", "http", "allowed a y,a")],
    );
    check(&["deny? x * shop/*"], &[("host", "http", "denied - x")]);
    check_with(
        ALLOW,
        &["deny? x * shop/*"],
        &[("host", "http", "would-deny x x")],
    );
    check_with(
        ALLOW,
        &["allow? y * shop/*"],
        &[("host", "http", "would-deny y y")],
    );
    check_with(
        ALLOW,
        &["allow a host shop/*"],
        &[
            ("host", "http", "allowed a a"),
            ("shop/cart", "http", "would-deny -"),
        ],
    );
}

#[test]
fn the_rule_named_is_the_nearest_then_the_first() {
    let lines = [
        "allow everyone * shop/*",
        "allow namespace shop/* shop/*",
        "allow first shop/cart shop/*",
        "allow second shop/cart shop/payments",
        "allow host dev/*,host shop/*",
    ];
    check(
        &lines,
        &[
            (
                "shop/cart",
                "http",
                "allowed first everyone,namespace,first,second",
            ),
            (
                "shop/checkout",
                "http",
                "allowed namespace everyone,namespace",
            ),
            ("dev/job", "http", "allowed host everyone,host"),
            ("host", "http", "allowed host everyone,host"),
        ],
    );
    // A rule's nearest source counts, wherever it stands in the list.
    check(
        &["allow a shop/* shop/*", "allow b *,shop/cart shop/*"],
        &[("shop/cart", "http", "allowed b a,b")],
    );
}

#[test]
fn sources_outside_match_no_local_caller() {
    check(
        &["allow a 0.0.0.0/0 shop/*"],
        &[
            ("host", "http", "denied -"),
            ("shop/cart", "http", "denied -"),
        ],
    );
}

#[test]
fn egress() {
    let lines = [
        "allow web shop/checkout 192.0.2.0/24 443",
        "allow any * 198.51.100.0/24",
        "deny one shop/* 198.51.100.7/32",
        "allow? try dev/* 203.0.113.0/24",
    ];
    let policy = policy(&rules(&lines));
    for (caller, address, port, expected) in [
        ("shop/checkout", "192.0.2.9", 443, "allowed web web"),
        ("shop/checkout", "192.0.2.9", 80, "denied -"),
        ("shop/checkout", "192.0.3.9", 443, "denied -"),
        ("shop/checkout", "198.51.100.8", 1, "allowed any any"),
        ("shop/checkout", "198.51.100.7", 1, "denied one any,one"),
        ("dev/job", "198.51.100.7", 1, "allowed any any"),
        ("dev/job", "203.0.113.1", 1, "would-deny try try"),
        ("dev/job", "2001:db8::1", 1, "denied -"),
        ("shop/cart", "192.0.2.9", 80, "allowed -"),
        ("host", "198.51.100.7", 80, "allowed -"),
    ] {
        let address = address.parse().expect("an address");
        let decision = with_caller(caller, |caller| {
            shown(&evaluate_egress(&policy, caller, address, port))
        });
        assert_eq!(decision, expected, "{caller} {address} {port}");
    }
}

#[test]
fn egress_is_denied_by_default_even_while_migrating() {
    let policy = policy(ALLOW);
    let address = "192.0.2.1".parse().expect("an address");
    let decision = with_caller("dev/job", |caller| {
        shown(&evaluate_egress(&policy, caller, address, 1))
    });
    assert_eq!(decision, "denied -");
}

#[test]
fn the_nearest_split_holds() {
    let split = |from: &str| {
        format!("[[split]]\nservice = \"shop/payments\"\n{from}\nweights = {{ v1 = 1 }}\n")
    };
    let text = [
        split(""),
        split("from = [\"shop/*\"]"),
        split("from = [\"shop/cart\", \"host\"]"),
    ]
    .concat();
    let policy = policy(&text);
    let payments = name("shop/payments");
    for (caller, expected) in [
        ("shop/cart", 2),
        ("shop/checkout", 1),
        ("dev/job", 0),
        ("host", 2),
    ] {
        let found = with_caller(caller, |caller| {
            split_for(&policy, caller, &payments).map(|split| split.place.line)
        });
        assert_eq!(found, Some(policy.splits[expected].place.line), "{caller}");
    }
    assert!(split_for(&policy, Caller::Host, &name("shop/cart")).is_none());
}
