//! Recorded flows under other policies.

use std::path::Path;

use super::Replay;
use super::recorded::Recorded;
use crate::config::AgentConfig;
use crate::policy::model::Policy;
use crate::policy::parse;
use crate::policy::source::Belief;

const SERVICES: &str = r#"
[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout.service" }

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "http", listen = 80 }]
workload = { systemd = "payments.service" }
endpoints = [{ address = "127.0.0.1:8081" }]
"#;

fn policy(rules: &str) -> Policy {
    let directory = tempfile::tempdir().expect("a directory");
    let text = [SERVICES, rules].concat();
    std::fs::write(directory.path().join("a.toml"), text).expect("a file");
    let config = AgentConfig::load(Path::new("/nonexistent"), false).expect("defaults");
    let (_, parsed) = parse::load(directory.path(), Belief::Anybody, &config.local_node());
    parsed.policy.expect("a policy")
}

/// What one recorded flow would become: verdict, rule and note; `None` if nothing changes.
fn becomes(
    rules: &str,
    source: &str,
    dialled: &str,
    verdict: &str,
) -> Option<(&'static str, String, Option<String>)> {
    let line = format!(
        r#"{{"event":"close","id":"1","protocol":"tcp","source_service":"{source}","source_address":"192.0.2.7:4000","destination_service":"shop/payments","dialled":"{dialled}","verdict":"{verdict}","reason":"policy","rule":"old"}}"#
    );
    let recorded = Recorded::read(line.as_bytes()).expect("read");
    let mut replay = Replay::of(&policy(rules), recorded);
    assert_eq!(replay.flows, 1);
    let change = replay.changes.pop()?;
    Some((change.verdict, change.rule, change.note))
}

const ALLOW: &str =
    "[[allow]]\nname = \"pays\"\nfrom = [\"shop/checkout\"]\nto = [\"shop/payments\"]\n";
const CIDR: &str =
    "[[allow]]\nname = \"lan\"\nfrom = [{ cidr = \"192.0.2.0/24\" }]\nto = [\"shop/payments\"]\n";
const AUDIT: &str =
    "[[allow]]\nname = \"try\"\nfrom = [\"*\"]\nto = [\"shop/payments\"]\nmode = \"audit\"\n";

#[test]
fn verdicts_under_another_policy() {
    let (vip, endpoint, moved) = ("10.96.0.10:80", "127.0.0.1:8081", "10.96.7.7:80");
    for (rules, source, dialled, before, after) in [
        (ALLOW, "shop/checkout", vip, "allowed", None),
        (ALLOW, "shop/checkout", endpoint, "allowed", None),
        // The service has another address by now.
        (ALLOW, "shop/checkout", moved, "allowed", None),
        ("", "shop/checkout", vip, "denied", None),
        (
            "",
            "shop/checkout",
            vip,
            "allowed",
            Some(("denied", "default")),
        ),
        (
            ALLOW,
            "shop/checkout",
            vip,
            "denied",
            Some(("allowed", "pays")),
        ),
        (ALLOW, "host", vip, "allowed", Some(("denied", "default"))),
        (AUDIT, "host", vip, "denied", Some(("would-deny", "try"))),
        (CIDR, "outside", vip, "denied", Some(("allowed", "lan"))),
        (
            ALLOW,
            "outside",
            vip,
            "allowed",
            Some(("denied", "default")),
        ),
        // A port that is not declared.
        (
            ALLOW,
            "shop/checkout",
            "10.96.0.10:81",
            "allowed",
            Some(("denied", "-")),
        ),
    ] {
        let became = becomes(rules, source, dialled, before);
        let became = became
            .as_ref()
            .map(|(verdict, rule, _)| (*verdict, &**rule));
        assert_eq!(became, after, "{rules} {source} {dialled} {before}");
    }
}

#[test]
fn a_caller_that_is_no_longer_declared_is_the_hosts() {
    let (verdict, _, note) =
        becomes(ALLOW, "shop/gone", "10.96.0.10:80", "allowed").expect("a change");
    assert_eq!(verdict, "denied");
    let note = note.expect("a note");
    assert!(note.contains("shop/gone is not declared"), "{note}");
}

#[test]
fn people_see_what_would_be_denied_first() {
    let line = |source: &str, verdict: &str| {
        format!(
            r#"{{"event":"denied","id":null,"protocol":"tcp","source_service":"{source}","source_address":null,"destination_service":"shop/payments","dialled":"10.96.0.10:80","verdict":"{verdict}","reason":"policy","rule":"old"}}"#
        )
    };
    let full = line("host", "denied").replace("policy", "map-full");
    let lines = [
        line("shop/checkout", "denied"),
        line("shop/checkout", "denied"),
        line("host", "allowed"),
        full,
        "x".into(),
    ];
    let recorded = Recorded::read(lines.join("\n").as_bytes()).expect("read");
    let replay = Replay::of(&policy(ALLOW), recorded);
    let mut out = Vec::new();
    replay.write(&mut out).expect("written");
    let out = String::from_utf8(out).expect("text");
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[1].starts_with("1      host"), "{out}");
    assert!(lines[1].ends_with("denied (default)"), "{out}");
    assert!(lines[2].ends_with("allowed (pays, a.toml:14)"), "{out}");
    assert_eq!(
        lines[3],
        "3 flows of 2 kinds: 0 unchanged, 1 would be denied, 2 would be allowed, 0 would be would-deny"
    );
    assert!(
        lines[4].starts_with("no flows: 1 lines, the first is line 5"),
        "{out}"
    );
    assert!(lines[5].starts_with("not looked at: 1 refusals"), "{out}");
}
