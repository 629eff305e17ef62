//! What was counted in, TOML out.

use std::sync::Arc;

use super::*;
use crate::policy::parse::LocalNode;
use crate::telemetry::denials::DenialView;
use crate::telemetry::observed::DecisionView;

const SERVICES: &str = r#"
[mesh]
default = "allow"

[[service]]
name = "checkout"
namespace = "shop"
workload = { uid = 1001 }

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
  { address = "127.0.0.1:8080", port = "http" },
  { address = "127.0.0.1:8081", port = "admin" },
  { address = "127.0.0.1:8053", port = "dns" },
]
"#;

fn policy(rules: &str) -> Policy {
    let sources = SourceSet::from_texts([("shop.toml", format!("{SERVICES}{rules}"))]);
    let local = LocalNode {
        name: "n".into(),
        address: None,
        trust_domain: Arc::from("mesh.local"),
    };
    let parsed = parse::parse(&sources, &local);
    parsed.policy.expect("a valid policy")
}

/// A series of `verdict protocol source destination reason rule count`.
fn decision(line: &str) -> DecisionView {
    let fields: Vec<&str> = line.split(' ').collect();
    let [verdict, protocol, source, destination, reason, rule, count] = fields[..] else {
        panic!("{line}");
    };
    DecisionView {
        verdict: verdict.into(),
        reason: reason.into(),
        rule: rule.into(),
        source_service: source.into(),
        destination_service: destination.into(),
        protocol: protocol.into(),
        count: count.parse().expect("a number"),
    }
}

/// A record of calls to `dialled` by TCP under `default = "allow"`.
fn record(dialled: &str, count: u64) -> DenialView {
    DenialView {
        verdict: "would-deny".into(),
        reason: "policy".into(),
        rule: "default".into(),
        source_service: "shop/checkout".into(),
        destination_service: "shop/payments".into(),
        dialled: dialled.into(),
        protocol: "tcp".into(),
        count,
        ..DenialView::default()
    }
}

const WOULD_DENY: &str = "would-deny tcp shop/checkout shop/payments policy default 5";

/// Rules as `from to [ports] known`, and what is left as `from to calls`.
fn suggested(
    rules: &str,
    decisions: &[&str],
    recorded: &[DenialView],
    denied: bool,
) -> Vec<String> {
    let observed = Observed {
        schema_version: SCHEMA_VERSION,
        since_unix_seconds: 0.0,
        decisions: decisions.iter().map(|line| decision(line)).collect(),
        recorded: recorded.to_vec(),
    };
    let suggestions = rules::suggestions(&policy(rules), &observed, denied);
    let rules = suggestions.rules.iter().map(|rule| {
        let ports = rule.ports.join(",");
        format!("{} {} [{ports}] {:?}", rule.from, rule.to, rule.known)
    });
    let left = suggestions.not_suggested.iter();
    let left = left.map(|left| format!("{} {} {}", left.from, left.to, left.calls));
    rules.chain(left).collect()
}

fn allow(ports: &str) -> String {
    format!(
        "[[allow]]\nname = \"now\"\nfrom = [\"shop/checkout\"]\nto = [\"shop/payments\"]\nports = [{ports}]\n"
    )
}

#[test]
fn ports_are_as_narrow_as_is_known() {
    let http = record("10.96.0.10:80", 5);
    let around = record("127.0.0.1:8080", 5);
    let some = record("10.96.0.10:80", 4);
    let (by_http, by_admin) = (allow("\"http\""), allow("\"admin\""));
    let udp = "would-deny udp shop/checkout shop/payments policy default 2";
    let pair = "shop/checkout shop/payments";
    for (rules, decisions, recorded, expected) in [
        ("", vec![WOULD_DENY], vec![http.clone()], "[http] Exactly"),
        ("", vec![WOULD_DENY], vec![around], "[http] Exactly"),
        ("", vec![WOULD_DENY], vec![some.clone()], "[http,admin] All"),
        ("", vec![WOULD_DENY], vec![], "[http,admin] All"),
        ("", vec![udp], vec![], "[dns] Exactly"),
        ("", vec![WOULD_DENY, udp], vec![], "[http,admin,dns] All"),
        (&by_http, vec![WOULD_DENY], vec![http.clone()], ""),
        (&by_admin, vec![WOULD_DENY], vec![http], "[http] Exactly"),
        (&by_admin, vec![WOULD_DENY], vec![some], "[http] AtLeast"),
        (&by_admin, vec![WOULD_DENY], vec![], "5"),
    ] {
        let found = suggested(rules, &decisions, &recorded, false);
        let expected = match expected {
            "" => vec![],
            _ => vec![format!("{pair} {expected}")],
        };
        assert_eq!(found, expected, "{rules} {decisions:?} {recorded:?}");
    }
}

#[test]
fn what_no_rule_helps_is_said() {
    let deny =
        "[[deny]]\nname = \"no\"\nfrom = [\"*\"]\nto = [\"shop/payments\"]\nmode = \"audit\"\n";
    let by_default = "denied tcp host shop/payments policy default 3";
    for (rules, line, denied, expected) in [
        ("", "allowed tcp host shop/payments policy now 9", false, ""),
        ("", by_default, false, "host shop/payments 3"),
        ("", by_default, true, "host shop/payments [http,admin] All"),
        ("", "denied tcp host shop/payments no-tunnel - 3", true, ""),
        (
            "",
            "would-deny tcp host shop/payments policy now 0",
            true,
            "",
        ),
        (deny, WOULD_DENY, false, "shop/checkout shop/payments 5"),
        (
            "",
            "allowed tcp unknown shop/payments unknown-caller - 4",
            false,
            "unknown shop/payments 4",
        ),
        (
            "",
            "denied tcp unknown shop/payments unknown-caller - 4",
            false,
            "unknown shop/payments 4",
        ),
        (
            "",
            "allowed tcp host shop/payments missing-entry - 4",
            false,
            "host shop/payments 4",
        ),
        (
            "",
            "would-deny tcp shop/checkout - policy out 4",
            false,
            "shop/checkout - 4",
        ),
        ("", "denied tcp shop/checkout - egress - 4", true, ""),
        (
            "",
            "would-deny tcp shop/gone shop/payments policy default 4",
            false,
            "shop/gone shop/payments 4",
        ),
        (
            "",
            "would-deny tcp host shop/gone policy default 4",
            false,
            "host shop/gone 4",
        ),
    ] {
        let found = suggested(rules, &[line], &[], denied);
        let expected: Vec<&str> = Some(expected)
            .filter(|text| !text.is_empty())
            .into_iter()
            .collect();
        assert_eq!(found, expected, "{rules} {line}");
    }
}

#[test]
fn callers_outside_the_mesh_are_named_by_address() {
    let counted = "would-deny tcp outside shop/payments policy default 2";
    let from = |peer: &str| DenialView {
        source_service: "outside".into(),
        peer: Some(peer.into()),
        ..record("127.0.0.1:8080", 1)
    };
    let records = [from("192.0.2.7:4000"), from("192.0.2.9:4000")];
    let rule = "[[allow]]\nname = \"lan\"\nfrom = [{ cidr = \"192.0.2.0/29\" }]\nto = [\"shop/payments\"]\n";
    let wider = rule.replace("/29", "/24");
    for (rules, recorded, expected) in [
        ("", &records[..0], Some("name the addresses by")),
        (
            "",
            &records,
            Some("name the addresses (such as 192.0.2.7, 192.0.2.9) by"),
        ),
        (
            rule,
            &records,
            Some("name the addresses (such as 192.0.2.9) by"),
        ),
        (&wider, &records, None),
    ] {
        let observed = Observed {
            decisions: vec![decision(counted)],
            recorded: recorded.to_vec(),
            ..Observed::default()
        };
        let found = rules::suggestions(&policy(rules), &observed, false);
        assert_eq!(found.rules, []);
        let why = found.not_suggested.first().map(|left| &*left.why);
        assert_eq!(why.is_some(), expected.is_some(), "{rules}");
        assert!(
            why.unwrap_or_default()
                .contains(expected.unwrap_or_default()),
            "{why:?}"
        );
    }
}

#[test]
fn what_is_printed_is_a_file_of_the_policy() {
    let taken = "[[allow]]\nname = \"suggested-shop-checkout-to-shop-payments\"\nfrom = [\"host\"]\n\
        to = [\"shop/payments\"]\nports = [\"dns\"]\n";
    let observed = Observed {
        decisions: [
            WOULD_DENY,
            "would-deny tcp host shop/payments policy default 1",
        ]
        .map(decision)
        .to_vec(),
        since_unix_seconds: 1_795_253_400.0,
        recorded: vec![record("10.96.0.10:80", 5)],
        ..Observed::default()
    };
    let found = rules::suggestions(&policy(taken), &observed, false);
    let text = render::toml(&found, "edge-1");
    let expected = r#"# From `mesh-agent suggest` on edge-1: calls since 2026-11-21T09:30:00Z that no rule allows.
# These rules allow what happened, whether it should have or not: read them first.

# 1 connection since 2026-11-21T09:30:00Z; to which ports is not known, so these are all of them
[[allow]]
name = "suggested-host-to-shop-payments"
from = ["host"]
to = ["shop/payments"]
ports = ["http", "admin"]

# 5 connections since 2026-11-21T09:30:00Z
[[allow]]
name = "suggested-shop-checkout-to-shop-payments-2"
from = ["shop/checkout"]
to = ["shop/payments"]
ports = ["http"]
"#;
    assert_eq!(text, expected);
    let with_them = policy(&format!("{taken}{text}"));
    assert_eq!(with_them.rules.len(), 3);
    let again = rules::suggestions(&with_them, &observed, false);
    assert_eq!(again.rules, []);
    assert_eq!(again.not_suggested, []);
}

#[test]
fn long_names_are_cut() {
    let (namespace, name) = ("n".repeat(63), "a".repeat(63));
    let text = format!(
        "{SERVICES}[[service]]\nname = \"{name}\"\nnamespace = \"{namespace}\"\nworkload = {{ uid = 9 }}\n"
    );
    let line = format!("would-deny tcp {namespace}/{name} shop/payments policy default 1");
    let line2 = line.replace("would-deny tcp", "would-deny udp");
    let observed = Observed {
        decisions: vec![decision(&line), decision(&line2)],
        ..Observed::default()
    };
    let policy = policy(text.strip_prefix(SERVICES).expect("more"));
    let found = rules::suggestions(&policy, &observed, false);
    let [rule] = &found.rules[..] else {
        panic!("{found:?}");
    };
    assert_eq!(rule.name.len(), 63);
    assert_eq!(rule.ports, ["http", "admin", "dns"]);
}
