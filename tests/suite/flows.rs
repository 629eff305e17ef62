//! Flows as they are told: what the kernel saw, with names, and nothing that it did not.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use mesh_tests::agent::{self, AgentProcess, metric};
use mesh_tests::nodes::{Nodes, call};
use mesh_tests::observe::{counts, until};
use mesh_tests::peer::{After, Dial, Outcome, Peer, Request, Socket, Step, play};
use mesh_tests::shop::{ENDPOINT, FILE, POLICY, Shop, VIP, to_vip};
use mesh_tests::{Sandbox, host};
use nix::sys::signal::Signal;
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

/// Lets the agent look at open flows every second.
fn look_often(sandbox: &Sandbox) {
    let settings = OpenOptions::new().append(true).open(sandbox.agent_toml());
    let written = settings.and_then(|mut file| file.write_all(b"[flows]\nupdates = \"1s\"\n"));
    written.expect("settings");
}

const SENT: &str = "mesh_tcp_sent_bytes_total";
const RECEIVED: &str = "mesh_tcp_received_bytes_total";
const TO_PAYMENTS: [(&str, &str); 2] = [
    ("source_service", "shop/checkout"),
    ("destination_service", "shop/payments"),
];

fn keep(shop: &mut Shop, count: u32) -> Vec<Socket> {
    let dial = to_vip().times(count).then(After::Keep);
    let outcomes = shop.checkout.dial(dial).expect("outcomes");
    let sockets: Vec<Socket> = outcomes
        .iter()
        .filter_map(|outcome| outcome.socket)
        .collect();
    assert_eq!(sockets.len(), count as usize);
    sockets
}

/// What a call says first, and hears: `x` and `v1 x`, each with a line's end.
const CALL: (u64, u64) = (2, 5);

fn exchange(shop: &mut Shop, sockets: &[Socket], payload: &str) {
    let outcomes = shop.checkout.exchange(sockets, payload).expect("outcomes");
    let failed = |outcome: &&Outcome| outcome.failure.is_some();
    assert_eq!(outcomes.iter().filter(failed).count(), 0);
}

#[test]
fn a_long_flow_is_seen_while_it_lives() {
    host::run("flows-live", |sandbox| {
        look_often(sandbox);
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let kept = keep(&mut shop, 1);
        exchange(&mut shop, &kept, &"y".repeat(50_000));
        let (sent, received) = (CALL.0 + 50_001, CALL.1 + 50_004);
        counts(sandbox, SENT, &TO_PAYMENTS, |value| value == sent as f64);
        counts(sandbox, RECEIVED, &TO_PAYMENTS, |value| {
            value == received as f64
        });
        counts(
            sandbox,
            "mesh_tcp_connections_open",
            &TO_PAYMENTS,
            |value| value == 1.0,
        );
        let mut updates = Vec::new();
        until(SHOWN, "an update", || {
            updates = flows(sandbox, "event=update");
            !updates.is_empty()
        });
        says(
            &updates[updates.len() - 1],
            &json!({
                "source_service": "shop/checkout", "destination_service": "shop/payments",
                "destination_version": "v1", "rule": "checkout-pays", "file": FILE,
                "line": line_of_rule(), "sent_bytes": sent, "received_bytes": received,
                "end": null, "verdict": "allowed", "pid": shop.checkout.pid(),
            }),
        );
        // Nothing more is told of a flow that nothing moves on.
        let seen = updates.len();
        thread::sleep(Duration::from_millis(2500));
        assert!(flows(sandbox, "event=update").len() <= seen + 1);
        assert_eq!(flows(sandbox, "event=close"), Vec::<Value>::new());

        // Another agent begins where this one was.
        agent.kill().expect("killed");
        let _agent = start(sandbox);
        let again = metric(sandbox, SENT, &TO_PAYMENTS).expect("metrics");
        assert_eq!(again, sent as f64);

        let () = shop.checkout.ask(&Request::Close(kept)).expect("closed");
        let close = wait_for(sandbox, "event=close", 1);
        says(
            &close[0],
            &json!({"sent_bytes": sent, "received_bytes": received}),
        );
        assert_eq!(
            metric(sandbox, SENT, &TO_PAYMENTS).expect("metrics"),
            sent as f64
        );
    });
}

#[test]
fn counters_never_go_back_while_flows_come_and_go() {
    host::run("flows-forward", |sandbox| {
        look_often(sandbox);
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        let done = AtomicBool::new(false);
        let (mut calls, mut said) = (0, 0);
        thread::scope(|scope| {
            let scraper = scope.spawn(|| {
                let (mut last, mut scrapes) = (0.0, 0);
                while !done.load(Ordering::Relaxed) {
                    let now = metric(sandbox, SENT, &TO_PAYMENTS).expect("metrics");
                    assert!(now >= last, "{now} after {last}");
                    (last, scrapes) = (now, scrapes + 1);
                }
                (last, scrapes)
            });
            for round in 0..12 {
                let kept = keep(&mut shop, 4);
                calls += 4;
                exchange(&mut shop, &kept, &"y".repeat(9999));
                said += 4;
                thread::sleep(Duration::from_millis(50 * (round % 7)));
                let () = shop.checkout.ask(&Request::Close(kept)).expect("closed");
            }
            let all = (calls * CALL.0 + said * 10_000) as f64;
            counts(sandbox, SENT, &TO_PAYMENTS, |value| value == all);
            done.store(true, Ordering::Relaxed);
            let (last, scrapes) = scraper.join().expect("never backwards");
            assert!(last <= all && scrapes > 5, "{last} of {all} in {scrapes}");
        });
    });
}

/// `mesh-agent flows -f`, and what it has printed so far.
struct Follower {
    child: Child,
    lines: Receiver<Value>,
}

impl Follower {
    fn start(sandbox: &Sandbox) -> Self {
        let mut child = Command::new(agent::binary())
            .args(["flows", "-f", "-o", "jsonl", "--config"])
            .arg(sandbox.agent_toml())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let output = child.stdout.take().expect("a pipe");
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = send.send(serde_json::from_str(&line).expect("JSON"));
            }
        });
        Self { child, lines }
    }

    /// The next record.
    #[track_caller]
    fn next(&self) -> Value {
        self.lines.recv_timeout(SHOWN).expect("a record")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn openings_are_told_to_who_follows() {
    host::run("flows-follow", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        let before = keep(&mut shop, 1);
        let follower = Follower::start(sandbox);
        // From now on they are wanted.
        until(SHOWN, "an opening", || {
            let kept = keep(&mut shop, 1);
            let () = shop.checkout.ask(&Request::Close(kept)).expect("closed");
            !flows(sandbox, "event=open").is_empty()
        });
        let opened = follower.next();
        let mut opened = opened;
        while opened["event"] != "open" {
            opened = follower.next();
        }
        says(
            &opened,
            &json!({
                "source_service": "shop/checkout", "destination_service": "shop/payments",
                "sent_bytes": 0, "end": null, "rule": "checkout-pays",
            }),
        );
        let mut closed = follower.next();
        while closed["id"] != opened["id"] {
            closed = follower.next();
        }
        says(
            &closed,
            &json!({"event": "close", "sent_bytes": CALL.0, "received_bytes": CALL.1}),
        );
        let denied = shop.intruder.dial_once(to_vip()).expect("an outcome");
        assert_eq!(denied.errno(), Some("EPERM"));
        let mut last = follower.next();
        while last["event"] != "denied" {
            last = follower.next();
        }
        says(
            &last,
            &json!({"source_service": "dev/intruder", "rule": "default"}),
        );
        let () = shop.checkout.ask(&Request::Close(before)).expect("closed");
    });
}

#[test]
fn a_full_ring_costs_records_and_nothing_else() {
    const CALLS: u32 = 1500;
    host::run("flows-full", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        agent.signal(Signal::SIGSTOP).expect("stopped");
        let outcomes = shop.checkout.dial(to_vip().times(CALLS)).expect("outcomes");
        let answered = outcomes.iter().filter(|outcome| outcome.answered() == "v1");
        assert_eq!(answered.count(), CALLS as usize);
        agent.signal(Signal::SIGCONT).expect("continued");
        let closed = "mesh_tcp_connections_closed_total";
        counts(sandbox, closed, &TO_PAYMENTS, |value| {
            value == f64::from(CALLS)
        });
        let lost = [("kind", "flow"), ("cause", "buffer-full")];
        let lost = metric(sandbox, "mesh_events_lost_total", &lost).expect("metrics");
        assert!(lost > 500.0, "{lost}");
        // Each was remembered, forgotten or lost, and all three say so.
        until(SHOWN, "every record is accounted for", || {
            let document = document(sandbox, "last=1");
            let number = |field: &str| document[field].as_f64().expect("a number");
            number("lost") == lost && number("seen") + lost == f64::from(CALLS)
        });
        let (_, status) = mesh_tests::observe::status(sandbox).expect("status");
        assert_eq!(status["losses"]["flow_records_lost"].as_f64(), Some(lost));
    });
}

#[test]
fn a_call_to_another_node_is_told_at_both_ends() {
    host::run("flows-tunnel", |_| {
        let mut nodes = Nodes::start();
        assert_eq!(call(&mut nodes.checkout), Ok("v2".into()));
        let pid = nodes.checkout.pid();
        let both = [
            (
                &nodes.here,
                json!({
                    "reporter": "source", "node": "edge-2", "endpoint": "127.0.0.1:8082",
                    "dialled": VIP, "rtt_seconds": null, "connect_seconds": null, "pid": pid,
                    "uid": 0,
                }),
            ),
            (
                &nodes.there,
                json!({
                    "reporter": "destination", "node": null, "endpoint": "127.0.0.1:8082",
                    "pid": null, "uid": null,
                }),
            ),
        ];
        for (host, expected) in both {
            let mut found = Vec::new();
            until(SHOWN, "a close at either end", || {
                found = host.flows(&["--to", "shop/payments", "--from", "shop/checkout"]);
                found.retain(|flow| flow["event"] == "close");
                found.iter().any(|flow| flow["sent_bytes"] == CALL.0)
            });
            let flow = found.iter().find(|flow| flow["sent_bytes"] == CALL.0);
            let flow = flow.expect("a flow");
            says(flow, &expected);
            says(
                flow,
                &json!({
                    "connection_security_policy": "mutual_tls", "verdict": "allowed",
                    "destination_version": "v2", "rule": "checkout-pays",
                    "received_bytes": CALL.1,
                    "source_identity": "spiffe://mesh.local/ns/shop/sa/checkout",
                    "destination_identity": "spiffe://mesh.local/ns/shop/sa/payments",
                }),
            );
        }
    });
}

#[test]
fn flows_of_ipv6_are_told_as_well() {
    host::run_with_ipv6("flows-v6", |sandbox| {
        let policy = POLICY
            .replace("10.96.0.10", "fd00:96::10")
            .replace("127.0.0.1:8081", "[::1]:8081");
        sandbox.write_policy(FILE, &policy).expect("written");
        let peer = |unit: &str| {
            let cgroup = format!("system.slice/{unit}.service");
            Peer::spawn(&sandbox.cgroup, &cgroup).expect("a peer")
        };
        let (mut payments, mut checkout, mut intruder) =
            (peer("payments"), peer("checkout"), peer("intruder"));
        payments.serve_tcp("[::1]:8081", "v1").expect("served");
        let _agent = start(sandbox);
        let vip = "[fd00:96::10]:80";
        let dial = Dial::tcp(vip.parse().expect("an address"));
        let outcome = checkout.dial_once(dial.clone()).expect("an outcome");
        assert_eq!(outcome.answered(), "v1");
        assert_eq!(
            intruder.dial_once(dial).expect("an outcome").errno(),
            Some("EPERM")
        );
        let close = wait_for(sandbox, "event=close", 1);
        says(
            &close[0],
            &json!({
                "dialled": vip, "endpoint": "[::1]:8081", "sent_bytes": CALL.0,
                "received_bytes": CALL.1, "rule": "checkout-pays",
            }),
        );
        let source = close[0]["source_address"].as_str().expect("an address");
        assert!(source.starts_with("[::1]:"), "{source}");
        let denied = wait_for(sandbox, "event=denied", 1);
        says(
            &denied[0],
            &json!({"dialled": vip, "hook": "connect6", "rule": "default"}),
        );
    });
}

#[test]
fn what_would_be_denied_and_datagrams_are_told_too() {
    host::run("flows-would", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let udp = r#"
[[service]]
name = "time"
namespace = "shop"
vip = "10.96.0.13"
ports = [{ name = "ntp", listen = 123, protocol = "udp" }]
endpoints = [{ address = "127.0.0.1:8123", version = "v1" }]
[[deny]]
name = "no-time"
from = ["dev/intruder"]
to = ["shop/time"]
"#;
        let policy = format!("[mesh]\ndefault = \"allow\"\n{POLICY}{udp}");
        sandbox.write_policy(FILE, &policy).expect("written");
        let _agent = start(sandbox);
        let outcome = shop.intruder.dial_once(to_vip()).expect("an outcome");
        assert_eq!(outcome.answered(), "v1");
        let found = wait_for(sandbox, "event=would-deny", 1);
        let expected = json!({
            "source_service": "dev/intruder", "verdict": "would-deny", "rule": "default",
            "file": FILE, "line": 2, "response_flags": "-", "hook": "connect4",
        });
        says(&found[0], &expected);
        // The flow itself remembers it as well.
        let close = wait_for(sandbox, "event=close", 1);
        says(
            &close[0],
            &json!({"verdict": "would-deny", "rule": "default", "line": 2}),
        );
        let datagram = Dial::udp(([10, 96, 0, 13], 123).into());
        let outcome = shop.intruder.dial_once(datagram).expect("an outcome");
        assert_eq!(outcome.errno(), Some("EPERM"));
        let denied = wait_for(sandbox, "event=denied", 1);
        says(
            &denied[0],
            &json!({
                "protocol": "udp", "rule": "no-time", "dialled": "10.96.0.13:123",
                "destination_service": "shop/time", "response_flags": "DENY",
            }),
        );
        assert!(denied[0]["line"].as_u64() > Some(2), "{:#}", denied[0]);
    });
}

#[test]
fn the_command_filters_and_says_what_it_does_not_show() {
    host::run("flows-command", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let run = |arguments: &[&str]| {
            let output = agent::command(sandbox, &[&["flows"], arguments].concat());
            let output = output.expect("started");
            (
                output.status.code(),
                String::from_utf8_lossy(&output.stdout).into_owned(),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            )
        };
        let (code, _, error) = run(&[]);
        assert_eq!(code, Some(4), "{error}");
        let agent = start(sandbox);
        let _ = shop.checkout.dial(to_vip().times(3)).expect("outcomes");
        let _ = shop.intruder.dial(to_vip().times(2)).expect("outcomes");
        wait_for(sandbox, "", 5);
        let (code, table, account) = run(&["--verdict", "denied"]);
        assert_eq!(code, Some(0));
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("TIME") && lines.len() == 3, "{table}");
        assert!(lines[1].contains("dev/intruder"), "{table}");
        assert!(account.starts_with("2 of 5 flows, oldest 20"), "{account}");
        assert!(account.ends_with(", 0 records lost\n"), "{account}");
        for (arguments, expected) in [
            (&["--service", "shop/payments"][..], 5),
            (&["--from", "shop/checkout"], 3),
            (&["--to", "shop/checkout"], 0),
            (&["--rule", "default", "--reason", "policy"], 2),
            (&["--since", "1h", "--last", "4"], 4),
            (&["--since", "2100-01-01T00:00:00Z"], 0),
        ] {
            let (code, lines, _) = run(&[arguments, &["-o", "jsonl"]].concat());
            assert_eq!(
                (code, lines.lines().count()),
                (Some(0), expected),
                "{arguments:?}"
            );
        }
        let (code, document, _) = run(&["-o", "json"]);
        let document: Value = serde_json::from_str(&document).expect("JSON");
        assert_eq!((code, document["kept"].as_u64()), (Some(0), Some(5)));
        for arguments in [
            &["--verdict", "maybe"][..],
            &["--since", "ago"],
            &["-f", "-o", "json"],
        ] {
            assert_eq!(run(arguments).0, Some(2), "{arguments:?}");
        }
        drop(agent);
    });
}
