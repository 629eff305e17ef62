//! Metrics are what the clients counted.

use std::net::TcpListener;
use std::thread;

use mesh_tests::agent::{AgentProcess, metric};
use mesh_tests::observe::counts;
use mesh_tests::peer::{After, Dial, Kind, Peer, Played, Request, Step, play};
use mesh_tests::shop::{ENDPOINT, FILE, POLICY, Shop, VIP, to_vip};
use mesh_tests::{Sandbox, host};

const OPENED: &str = "mesh_tcp_connections_opened_total";
const CLOSED: &str = "mesh_tcp_connections_closed_total";
const FAILED: &str = "mesh_tcp_connections_failed_total";
const OPEN: &str = "mesh_tcp_connections_open";
const SENT: &str = "mesh_tcp_sent_bytes_total";
const RECEIVED: &str = "mesh_tcp_received_bytes_total";
const CHECKOUT: [(&str, &str); 3] = [
    ("source_service", "shop/checkout"),
    ("destination_service", "shop/payments"),
    ("destination_version", "v1"),
];

fn start(sandbox: &Sandbox) -> AgentProcess {
    AgentProcess::start(sandbox).expect("the agent starts")
}

#[track_caller]
fn is(sandbox: &Sandbox, name: &str, labels: &[(&str, &str)], expected: u64) {
    counts(sandbox, name, labels, |value| value == expected as f64);
}

#[test]
fn connections_are_counted_as_the_clients_see_them() {
    host::run("connections", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        // One of two endpoints is dead.
        let dead = r#"
[[service]]
name = "dead"
namespace = "shop"
vip = "10.96.0.11"
ports = [{ name = "http", listen = 80 }]
endpoints = [{ address = "127.0.0.1:9", version = "v1" }]
[[allow]]
name = "dead"
from = ["shop/checkout"]
to = ["shop/dead"]
"#;
        sandbox
            .write_policy(FILE, &format!("{POLICY}{dead}"))
            .expect("written");
        let _agent = start(sandbox);
        let kept = shop
            .checkout
            .dial(to_vip().times(7).then(After::Keep))
            .expect("outcomes");
        let sockets: Vec<_> = kept.iter().filter_map(|outcome| outcome.socket).collect();
        assert_eq!(sockets.len(), 7);
        let closed = shop.checkout.dial(to_vip().times(23).then(After::Close));
        assert!(
            closed
                .expect("outcomes")
                .iter()
                .all(|outcome| outcome.failure.is_none())
        );
        let denied = shop.intruder.dial(to_vip().times(11)).expect("outcomes");
        assert!(
            denied
                .iter()
                .all(|outcome| outcome.errno() == Some("EPERM"))
        );
        let dead = Dial::tcp("10.96.0.11:80".parse().expect("an address")).times(5);
        let refused = shop.checkout.dial(dead).expect("outcomes");
        assert!(
            refused
                .iter()
                .all(|outcome| outcome.errno() == Some("ECONNREFUSED"))
        );

        is(sandbox, OPENED, &CHECKOUT, 30);
        is(sandbox, CLOSED, &CHECKOUT, 23);
        is(sandbox, OPEN, &CHECKOUT, 7);
        is(
            sandbox,
            FAILED,
            &[
                ("response_flags", "CONNECT"),
                ("destination_service", "shop/dead"),
            ],
            5,
        );
        is(
            sandbox,
            FAILED,
            &[
                ("response_flags", "DENY"),
                ("source_service", "dev/intruder"),
            ],
            11,
        );
        is(sandbox, FAILED, &[], 16);
        is(sandbox, OPENED, &[], 30);
        is(sandbox, "mesh_denials_total", &[], 11);
        let decisions = "mesh_authorization_decisions_total";
        is(
            sandbox,
            decisions,
            &[("rule", "checkout-pays"), ("verdict", "allowed")],
            30,
        );
        is(
            sandbox,
            decisions,
            &[("rule", "default"), ("verdict", "denied")],
            11,
        );
        let connects = "mesh_tcp_connect_duration_seconds";
        is(sandbox, &format!("{connects}_count"), &CHECKOUT, 30);
        let all = [CHECKOUT.as_slice(), &[("le", "+Inf")]].concat();
        is(sandbox, &format!("{connects}_bucket"), &all, 30);
        let sum = metric(sandbox, &format!("{connects}_sum"), &CHECKOUT).expect("metrics");
        assert!(sum > 0.0 && sum < 5.0, "{sum}");

        let () = shop.checkout.ask(&Request::Close(sockets)).expect("closed");
        is(sandbox, OPEN, &CHECKOUT, 0);
        is(sandbox, CLOSED, &CHECKOUT, 30);
        // Every connection said `x` and a line's end, and was answered `v1 x` and one.
        is(sandbox, SENT, &CHECKOUT, 30 * 2);
        is(sandbox, RECEIVED, &CHECKOUT, 30 * 5);
    });
}

/// How a connection ends, for both ends: `up` bytes to the server, `down` bytes back.
type Scripts = fn(up: u64, down: u64) -> (Vec<Step>, Vec<Step>);

const ENDS: [(&str, Scripts); 6] = [
    ("the client closes first", |up, down| {
        let client = vec![Step::Send(up), Step::Receive(down)];
        (
            client,
            vec![Step::Receive(up), Step::Send(down), Step::Drain],
        )
    }),
    ("the server closes first", |up, down| {
        let client = vec![Step::Send(up), Step::Drain];
        (client, vec![Step::Receive(up), Step::Send(down)])
    }),
    ("the client finishes and reads on", |up, down| {
        let client = vec![Step::Send(up), Step::Finish, Step::Drain];
        (client, vec![Step::Drain, Step::Send(down)])
    }),
    ("the server finishes and reads on", |up, down| {
        let client = vec![Step::Drain, Step::Send(up)];
        (client, vec![Step::Send(down), Step::Finish, Step::Drain])
    }),
    ("the client aborts", |up, down| {
        let client = vec![
            Step::Send(up),
            Step::Receive(down),
            Step::Pause(60),
            Step::Abort,
        ];
        (
            client,
            vec![Step::Receive(up), Step::Send(down), Step::Drain],
        )
    }),
    ("the server aborts", |up, down| {
        let client = vec![Step::Send(up), Step::Receive(down), Step::Drain];
        let server = vec![
            Step::Receive(up),
            Step::Send(down),
            Step::Pause(60),
            Step::Abort,
        ];
        (client, server)
    }),
];

const SIZES: [(u64, u64); 7] = [
    (0, 0),
    (1, 0),
    (0, 1),
    (1, 1),
    (65_536, 1),
    (1, 1_048_576),
    (1_048_576, 65_536),
];

#[test]
fn bytes_are_exact_however_a_connection_ends() {
    host::run("bytes", |sandbox| {
        sandbox.write_policy(FILE, POLICY).expect("written");
        let listener = TcpListener::bind(ENDPOINT).expect("bound");
        let mut client =
            Peer::spawn(&sandbox.cgroup, "system.slice/checkout.service").expect("a peer");
        let _agent = start(sandbox);
        let (mut count, mut sent, mut received) = (0, 0, 0);
        for (end, scripts) in ENDS {
            for (up, down) in SIZES {
                let (of_client, of_server) = scripts(up, down);
                let played: Played = thread::scope(|scope| {
                    let server = scope.spawn(|| {
                        let (stream, _) = listener.accept().expect("accepted");
                        play(stream, &of_server)
                    });
                    let played = client.play(VIP, &of_client).expect("played");
                    let served = server.join().expect("no panic");
                    assert_eq!(
                        (served.sent, served.received),
                        (down, up),
                        "{end}: {served:?}"
                    );
                    played
                });
                assert_eq!(
                    (played.sent, played.received),
                    (up, down),
                    "{end}: {played:?}"
                );
                count += 1;
                sent += up;
                received += down;
                eprintln!("{end}, {up} up, {down} down");
                is(sandbox, CLOSED, &CHECKOUT, count);
                is(sandbox, SENT, &CHECKOUT, sent);
                is(sandbox, RECEIVED, &CHECKOUT, received);
            }
        }
        is(sandbox, OPENED, &CHECKOUT, count);
        is(sandbox, OPEN, &CHECKOUT, 0);
        is(sandbox, FAILED, &[], 0);
    });
}

#[test]
fn udp_flows_and_datagrams_are_counted() {
    host::run("udp", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let text = POLICY.replace(r#"listen = 80 }"#, r#"listen = 80, protocol = "udp" }"#);
        sandbox.write_policy(FILE, &text).expect("written");
        shop.payments.serve_udp(ENDPOINT, "v1").expect("served");
        let _agent = start(sandbox);
        let flows = "mesh_udp_flows_total";
        let datagrams = "mesh_udp_datagrams_total";

        let socket = shop
            .checkout
            .open(Kind {
                udp: true,
                ..Kind::default()
            })
            .expect("made");
        for _ in 0..13 {
            let sent = shop.checkout.send_to(socket, VIP, "x").expect("an outcome");
            assert_eq!(sent.failure, None);
            let answer = shop.checkout.receive(socket).expect("an outcome");
            assert_eq!(answer.answered(), "v1");
        }
        is(sandbox, flows, &CHECKOUT, 1);
        is(sandbox, datagrams, &CHECKOUT, 13);
        // A connected socket is a flow.
        let connected = Dial::udp(VIP.parse().expect("an address")).times(4);
        let outcomes = shop.checkout.dial(connected.clone()).expect("outcomes");
        assert!(outcomes.iter().all(|outcome| outcome.answered() == "v1"));
        is(sandbox, flows, &CHECKOUT, 5);
        let denied = shop.intruder.dial(connected).expect("outcomes");
        assert!(
            denied
                .iter()
                .all(|outcome| outcome.errno() == Some("EPERM"))
        );
        is(sandbox, FAILED, &[("response_flags", "DENY")], 4);
        is(sandbox, OPENED, &[], 0);
    });
}
