//! Flows as they are told: what the kernel saw, with names, and nothing that it did not.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use mesh_tests::agent::{self, AgentProcess};
use mesh_tests::observe::until;
use mesh_tests::peer::{After, Dial, Peer, Step, play};
use mesh_tests::shop::{ENDPOINT, FILE, POLICY, Shop, VIP, to_vip};
use mesh_tests::{Sandbox, host};
use serde_json::{Value, json};

/// How long records may take to be shown.
const SHOWN: Duration = Duration::from_secs(5);

/// The flows that a query gets.
fn flows(sandbox: &Sandbox, query: &str) -> Vec<Value> {
    let document = document(sandbox, query);
    document["flows"].as_array().expect("a list").clone()
}

fn document(sandbox: &Sandbox, query: &str) -> Value {
    let answer = agent::get(sandbox, &format!("/api/v1/flows?{query}")).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).expect("JSON")
}

/// Waits for `count` records of `query`.
#[track_caller]
fn wait_for(sandbox: &Sandbox, query: &str, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    until(SHOWN, &format!("{count} of {query}"), || {
        found = flows(sandbox, query);
        found.len() >= count
    });
    assert_eq!(found.len(), count, "{found:#?}");
    found
}

/// Panics unless `flow` has all of the fields of `expected`.
#[track_caller]
fn says(flow: &Value, expected: &Value) {
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(&flow[field], value, "{field} of {flow:#}");
    }
}

fn start(sandbox: &Sandbox) -> AgentProcess {
    AgentProcess::start(sandbox).expect("the agent starts")
}

/// Line of the rule `checkout-pays` of the shop's policy.
fn line_of_rule() -> usize {
    let lines: Vec<&str> = POLICY.lines().collect();
    lines
        .iter()
        .position(|line| *line == "[[allow]]")
        .expect("a rule")
        + 1
}

#[test]
fn a_close_says_who_called_whom_by_which_rule_and_how_much() {
    host::run("flows-close", |sandbox| {
        sandbox.write_policy(FILE, POLICY).expect("written");
        let listener = TcpListener::bind(ENDPOINT).expect("bound");
        let mut client =
            Peer::spawn(&sandbox.cgroup, "system.slice/checkout.service").expect("a peer");
        let _agent = start(sandbox);
        let ends: [(Vec<Step>, Vec<Step>, Value); 3] = [
            (
                vec![Step::Send(70_000), Step::Receive(30_000)],
                vec![Step::Receive(70_000), Step::Send(30_000), Step::Drain],
                json!({"end": "fin", "ended_by": "client", "response_flags": "-"}),
            ),
            (
                vec![Step::Send(70_000), Step::Receive(30_000), Step::Drain],
                vec![Step::Receive(70_000), Step::Send(30_000)],
                json!({"end": "fin", "ended_by": "server", "response_flags": "-"}),
            ),
            (
                vec![
                    Step::Send(70_000),
                    Step::Receive(30_000),
                    Step::Pause(60),
                    Step::Abort,
                ],
                vec![Step::Receive(70_000), Step::Send(30_000), Step::Drain],
                json!({"end": "reset", "ended_by": null, "response_flags": "RESET"}),
            ),
        ];
        for (number, (of_client, of_server, expected)) in ends.iter().enumerate() {
            thread::scope(|scope| {
                let server = scope.spawn(|| {
                    let (stream, _) = listener.accept().expect("accepted");
                    play(stream, of_server)
                });
                client.play(VIP, of_client).expect("played");
                server.join().expect("no panic");
            });
            let found = wait_for(sandbox, "event=close", number + 1);
            let flow = &found[number];
            says(flow, expected);
            says(
                flow,
                &json!({
                    "schema_version": 1,
                    "protocol": "tcp",
                    "reporter": "source",
                    "source_service": "shop/checkout",
                    "source_identity": "spiffe://mesh.local/ns/shop/sa/checkout",
                    "destination_service": "shop/payments",
                    "destination_identity": "spiffe://mesh.local/ns/shop/sa/payments",
                    "destination_version": "v1",
                    "dialled": VIP,
                    "endpoint": ENDPOINT,
                    "node": null,
                    "connection_security_policy": "none",
                    "verdict": "allowed",
                    "reason": "policy",
                    "rule": "checkout-pays",
                    "file": FILE,
                    "line": line_of_rule(),
                    "hook": null,
                    "sent_bytes": 70_000,
                    "received_bytes": 30_000,
                    "pid": client.pid(),
                    "uid": 0,
                    "comm": null,
                }),
            );
            let cgroup = flow["cgroup"].as_str().expect("a cgroup");
            assert!(
                cgroup.ends_with("/system.slice/checkout.service"),
                "{cgroup}"
            );
            let number = |field: &str| flow[field].as_f64().expect("a number");
            assert!(number("rtt_seconds") > 0.0 && number("rtt_seconds") < 1.0);
            assert!(number("connect_seconds") > 0.0 && number("connect_seconds") < 1.0);
            assert!(number("duration_seconds") >= number("connect_seconds") / 10.0);
        }
    });
}

#[test]
fn what_was_never_established_says_how() {
    host::run("flows-failed", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        // Nobody listens at one endpoint; the other one is full and answers nothing.
        let full = TcpListener::bind("127.0.0.3:9").expect("bound");
        let policy = format!(
            "{POLICY}{}{}",
            service("dead", "10.96.0.11", "127.0.0.2:9"),
            service("mute", "10.96.0.12", "127.0.0.3:9")
        );
        sandbox.write_policy(FILE, &policy).expect("written");
        let _agent = start(sandbox);
        let dead = Dial::tcp(([10, 96, 0, 11], 80).into());
        let outcome = shop.checkout.dial_once(dead).expect("an outcome");
        assert_eq!(outcome.errno(), Some("ECONNREFUSED"));
        let found = wait_for(sandbox, "event=failed", 1);
        says(
            &found[0],
            &json!({
                "destination_service": "shop/dead", "end": "refused", "ended_by": null,
                "response_flags": "CONNECT", "verdict": "allowed", "rule": "to-dead",
                "connect_seconds": null, "sent_bytes": 0, "received_bytes": 0,
            }),
        );
        let denied = shop.intruder.dial(to_vip().times(2)).expect("outcomes");
        assert!(
            denied
                .iter()
                .all(|outcome| outcome.errno() == Some("EPERM"))
        );
        let found = wait_for(sandbox, "verdict=denied", 2);
        for flow in found {
            says(
                &flow,
                &json!({
                    "event": "denied", "source_service": "dev/intruder",
                    "destination_service": "shop/payments", "rule": "default",
                    "reason": "policy", "hook": "connect4", "dialled": VIP,
                    "response_flags": "DENY", "comm": "mesh-peer", "id": null,
                    "pid": shop.intruder.pid(),
                }),
            );
        }
        drop(full);
    });
}

/// A service without a workload, and the rule that lets checkout in.
fn service(name: &str, vip: &str, endpoint: &str) -> String {
    format!(
        r#"
[[service]]
name = "{name}"
namespace = "shop"
vip = "{vip}"
ports = [{{ name = "http", listen = 80 }}]
endpoints = [{{ address = "{endpoint}", version = "v1" }}]
[[allow]]
name = "to-{name}"
from = ["shop/checkout"]
to = ["shop/{name}"]
"#
    )
}

#[test]
fn a_cursor_sees_every_record_once() {
    host::run("flows-cursor", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        let call = |shop: &mut Shop, times| {
            let dial = to_vip().times(times).then(After::Close);
            let outcomes = shop.checkout.dial(dial).expect("outcomes");
            assert!(outcomes.iter().all(|outcome| outcome.failure.is_none()));
        };
        call(&mut shop, 3);
        let before = wait_for(sandbox, "event=close", 3);
        let cursor = document(sandbox, "")["next"].clone();
        assert_eq!(
            flows(sandbox, &format!("after={cursor}")),
            Vec::<Value>::new()
        );
        call(&mut shop, 4);
        let after = wait_for(sandbox, &format!("event=close&after={cursor}"), 4);
        let seq = |flow: &Value| flow["seq"].as_u64().expect("a number");
        assert!(before.iter().map(seq).max() < after.iter().map(seq).min());
        assert_eq!(flows(sandbox, "event=close&last=5").len(), 5);
        assert_eq!(flows(sandbox, "service=shop/payments&event=close").len(), 7);
        assert_eq!(
            flows(sandbox, "destination=shop/checkout"),
            Vec::<Value>::new()
        );
        assert_eq!(flows(sandbox, "event=open"), Vec::<Value>::new());
    });
}
