use std::sync::Arc;

use super::*;
use crate::policy::parse::LocalNode;

const POLICY: &str = r#"
[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout.service" }

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "http", listen = 80 }]
endpoints = [
  { address = "127.0.0.1:8081", version = "v1", node = "n" },
  { address = "127.0.0.1:8082", version = "v2", node = "n" },
]

[[split]]
service = "shop/payments"
weights = { v1 = 99, v2 = 1 }

[[allow]]
name = "checkout-pays"
from = ["shop/checkout"]
to = ["shop/payments"]

[[allow]]
name = "terminals"
from = [{ cidr = "192.168.1.0/24" }]
to = ["shop/payments"]

[[node]]
name = "edge-2"
address = "10.0.0.12"

[[allow]]
name = "the-other-host"
from = [{ node = "edge-2" }]
to = ["shop/payments"]
"#;

fn ask(source: &str, destination: &str) -> Result<Answer, String> {
    let sources = SourceSet::from_texts([("shop.toml", POLICY)]);
    let local = LocalNode {
        name: "n".into(),
        address: None,
        trust_domain: Arc::from("mesh.local"),
    };
    let policy = parse::parse(&sources, &local)
        .policy
        .expect("a valid policy");
    let args = Args {
        source: source.into(),
        destination: destination.into(),
        directory: None,
        live: false,
        output: Output::Table,
    };
    let question = Question::parse(&policy, source, destination)?;
    Ok(Answer::new(&policy, &question, &args))
}

#[test]
fn answers_name_the_rule_and_its_line() {
    for (source, destination, verdict, rule, at) in [
        (
            "shop/checkout",
            "shop/payments:http",
            "allowed",
            "checkout-pays",
            Some("shop.toml:21"),
        ),
        (
            "shop/checkout",
            "shop/payments:80",
            "allowed",
            "checkout-pays",
            Some("shop.toml:21"),
        ),
        (
            "shop/checkout",
            "10.96.0.10:80",
            "allowed",
            "checkout-pays",
            Some("shop.toml:21"),
        ),
        (
            "shop/checkout",
            "127.0.0.1:8082",
            "allowed",
            "checkout-pays",
            Some("shop.toml:21"),
        ),
        (
            "node:edge-2",
            "shop/payments:80",
            "allowed",
            "the-other-host",
            Some("shop.toml:35"),
        ),
        ("host", "127.9.9.9:8081", "denied", "default", None),
        ("host", "[::1]:8081", "denied", "default", None),
        ("host", "10.96.0.10:81", "denied", "-", None),
        ("host", "192.0.2.1:8081", "allowed", "-", None),
        (
            "192.168.1.5",
            "127.0.0.1:8081",
            "allowed",
            "terminals",
            Some("shop.toml:26"),
        ),
        ("192.168.2.5", "shop/payments:80", "denied", "default", None),
    ] {
        let answer = ask(source, destination).expect("an answer");
        assert_eq!(
            (answer.verdict, &*answer.rule, answer.at.as_deref()),
            (verdict, rule, at),
            "{source} -> {destination}"
        );
    }
}

#[test]
fn senseless_questions_are_told_from_denials() {
    for (source, destination, expected) in [
        (
            "shop/chekout",
            "shop/payments:80",
            "did you mean shop/checkout?",
        ),
        ("host", "shop/payments", "give a port"),
        ("node:edge-9", "shop/payments:80", "no node edge-9"),
        ("host", "shop/payments:81", "it declares: 80 (http)"),
    ] {
        let problem = ask(source, destination).expect_err("a problem");
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn shares_follow_the_split() {
    let answer = ask("shop/checkout", "shop/payments:80").expect("an answer");
    let shares: Vec<_> = answer
        .endpoints
        .iter()
        .map(|endpoint| (&*endpoint.version, endpoint.share))
        .collect();
    assert_eq!(shares, [("v1", 0.99), ("v2", 0.01)]);
}
