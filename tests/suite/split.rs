//! Which endpoint answers: shares are exact, not random.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use mesh_tests::names::{CHECKOUT, VIP, VIP_UDP};
use mesh_tests::peer::{After, Dial, Kind, Outcome, Peer, Way};
use mesh_tests::{Mesh, host};

/// A policy with payments at four TCP ports and two UDP ports, and what `extra` says.
fn policy(service: &str, versions: [&str; 4], extra: &str) -> String {
    let [a, b, c, d] = versions;
    format!(
        r#"
[mesh]
default = "deny"

[[service]]
name = "checkout"
namespace = "shop"
workload = {{ systemd = "checkout.service" }}

[[service]]
name = "workers"
namespace = "shop"
workload = {{ systemd = "worker-*.service" }}

[[service]]
name = "tester"
namespace = "dev"
workload = {{ systemd = "tester.service" }}

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{{ name = "tcp", listen = 80 }}, {{ name = "udp", listen = 53, protocol = "udp" }}]
{service}
endpoints = [
  {{ address = "127.0.0.1:8081", port = "tcp", {a} }},
  {{ address = "127.0.0.1:8082", port = "tcp", {b} }},
  {{ address = "127.0.0.1:8083", port = "tcp", {c} }},
  {{ address = "127.0.0.1:8084", port = "tcp", {d} }},
  {{ address = "127.0.0.1:8051", port = "udp", version = "v1" }},
  {{ address = "127.0.0.1:8052", port = "udp", version = "v2" }},
]

[[allow]]
name = "all-pay"
from = ["*"]
to = ["shop/payments"]
{extra}
"#
    )
}

/// v1 at `a`, v2 at `b`, v3 at `c`, and v4 without a share at `d`.
const VERSIONS: [&str; 4] = [
    r#"version = "v1""#,
    r#"version = "v2""#,
    r#"version = "v3""#,
    r#"version = "v4""#,
];

fn split(weights: &str) -> String {
    let text = format!("\n[[split]]\nservice = \"shop/payments\"\nweights = {{ {weights} }}\n");
    policy("", VERSIONS, &text)
}

/// Servers that answer as `a`, `b`, `c` and `d`; over UDP as `a` and `b`.
fn serve(mesh: &Mesh<'_>) -> Peer {
    let mut server = mesh.peer("system.slice/payments.service");
    for (port, label) in [(8081, "a"), (8082, "b"), (8083, "c"), (8084, "d")] {
        let address = format!("127.0.0.1:{port}");
        server.serve_tcp(&address, label).expect("a server");
    }
    for (port, label) in [(8051, "a"), (8052, "b")] {
        let address = format!("127.0.0.1:{port}");
        server.serve_udp(&address, label).expect("a server");
    }
    server
}

fn many(count: u32) -> Dial {
    let dial = Dial::tcp(VIP.parse().expect("an address"));
    dial.times(count).then(After::Abort)
}

fn udp(count: u32) -> Dial {
    Dial::udp(VIP_UDP.parse().expect("an address")).times(count)
}

/// How many of the outcomes each endpoint answered; none failed.
fn shares(outcomes: &[Outcome]) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for outcome in outcomes {
        assert_eq!(outcome.failure, None, "{outcome:?}");
        *shares.entry(outcome.answered()).or_default() += 1;
    }
    shares
}

fn expected<const N: usize>(shares: [(&'static str, usize); N]) -> BTreeMap<&'static str, usize> {
    shares.into()
}

/// Dials from all the peers at the same time.
fn at_once(peers: &mut [Peer], dial: &Dial) -> Vec<Outcome> {
    thread::scope(|scope| {
        let start = |peer| scope.spawn(|| dial_with(peer, dial.clone()));
        let threads: Vec<_> = peers.iter_mut().map(start).collect();
        let outcomes = threads.into_iter().map(|it| it.join().expect("outcomes"));
        outcomes.flatten().collect()
    })
}

fn dial_with(peer: &mut Peer, dial: Dial) -> Vec<Outcome> {
    peer.dial(dial).expect("outcomes")
}

#[test]
fn one_of_every_hundred_goes_to_the_canary() {
    host::run("canary", |sandbox| {
        let mesh = Mesh::start(sandbox, &split("v1 = 99, v2 = 1"));
        let _server = serve(&mesh);
        let outcomes = dial_with(&mut mesh.peer(CHECKOUT), many(10_000));
        for hundred in outcomes.chunks(100) {
            assert_eq!(shares(hundred), expected([("a", 99), ("b", 1)]));
        }
        for (version, count) in [("v1", 9900.0), ("v2", 100.0)] {
            let labels = [
                ("source_service", "shop/checkout"),
                ("destination_service", "shop/payments"),
                ("destination_version", version),
            ];
            mesh.expect_metric("mesh_tcp_connections_opened_total", &labels, count);
            mesh.expect_metric("mesh_tcp_connections_closed_total", &labels, count);
        }
        let labels = [("rule", "all-pay"), ("verdict", "allowed")];
        mesh.expect_metric("mesh_authorization_decisions_total", &labels, 10_000.0);
    });
}

#[test]
fn processes_of_one_service_share_its_turn() {
    host::run("share", |sandbox| {
        let mesh = Mesh::start(sandbox, &split("v1 = 99, v2 = 1"));
        let _server = serve(&mesh);
        let mut peers = [(); 4].map(|()| mesh.peer(CHECKOUT));
        let outcomes = at_once(&mut peers, &many(2537));
        let canaries = shares(&outcomes)["b"];
        assert!((101..=102).contains(&canaries), "{canaries} of 10148");
        // What is left of the period.
        let outcomes = dial_with(&mut peers[0], many(10_200 - 10_148));
        let rest = shares(&outcomes).get("b").copied().unwrap_or(0);
        assert_eq!(canaries + rest, 102);
    });
}

#[test]
fn each_service_has_a_turn_of_its_own() {
    host::run("turns", |sandbox| {
        let mesh = Mesh::start(sandbox, &split("v1 = 9, v2 = 1"));
        let _server = serve(&mesh);
        let mut checkout = mesh.peer(CHECKOUT);
        let mut worker = mesh.peer("system.slice/worker-1.service");
        let mut outcomes = [Vec::new(), Vec::new()];
        for round in 1..20 {
            outcomes[0].extend(dial_with(&mut checkout, many(round)));
            outcomes[1].extend(dial_with(&mut worker, many(20 - round)));
        }
        for of_one in &outcomes {
            for ten in of_one.chunks_exact(10) {
                assert_eq!(shares(ten), expected([("a", 9), ("b", 1)]));
            }
        }
    });
}

#[test]
fn a_split_for_particular_callers_beats_the_common_one() {
    host::run("callers", |sandbox| {
        let splits = r#"
[[split]]
service = "shop/payments"
weights = { v1 = 9, v2 = 1 }

[[split]]
service = "shop/payments"
from = ["shop/*"]
weights = { v1 = 1, v2 = 1 }

[[split]]
service = "shop/payments"
from = ["shop/checkout", "host"]
weights = { v3 = 1 }
"#;
        let mesh = Mesh::start(sandbox, &policy("", VERSIONS, splits));
        let _server = serve(&mesh);
        for (cgroup, shares_of_it) in [
            (CHECKOUT, expected([("c", 100)])),
            ("user.slice/session-1.scope", expected([("c", 100)])),
            (
                "system.slice/worker-1.service",
                expected([("a", 50), ("b", 50)]),
            ),
            (
                "system.slice/tester.service",
                expected([("a", 90), ("b", 10)]),
            ),
        ] {
            let outcomes = dial_with(&mut mesh.peer(cgroup), many(100));
            assert_eq!(shares(&outcomes), shares_of_it, "{cgroup}");
        }
    });
}

#[test]
fn every_share_is_exact_over_a_period() {
    host::run("weights", |sandbox| {
        let mut mesh = Mesh::start(sandbox, &split("v1 = 5, v2 = 3, v3 = 2"));
        let _server = serve(&mesh);
        let mut peer = mesh.peer(CHECKOUT);
        let outcomes = dial_with(&mut peer, many(1000));
        for ten in outcomes.chunks(10) {
            assert_eq!(shares(ten), expected([("a", 5), ("b", 3), ("c", 2)]));
        }
        for (weights, shares_of_it) in [
            ("v1 = 1, v2 = 0", expected([("a", 200)])),
            ("v1 = 0, v2 = 7, v3 = 0", expected([("b", 200)])),
            ("v1 = 100, v2 = 100", expected([("a", 100), ("b", 100)])),
            (
                "v1 = 197, v2 = 1, v3 = 1, v4 = 1",
                expected([("a", 197), ("b", 1), ("c", 1), ("d", 1)]),
            ),
        ] {
            mesh.reload(&split(weights));
            let outcomes = dial_with(&mut peer, many(200));
            assert_eq!(shares(&outcomes), shares_of_it, "{weights}");
        }
    });
}

#[test]
fn endpoints_of_one_version_share_its_weight() {
    host::run("members", |sandbox| {
        let members = [
            r#"version = "v1", weight = 2"#,
            r#"version = "v1""#,
            r#"version = "v1""#,
            r#"version = "v2""#,
        ];
        let weights = "\n[[split]]\nservice = \"shop/payments\"\nweights = { v1 = 3, v2 = 1 }\n";
        let mut mesh = Mesh::start(sandbox, &policy("", members, weights));
        let _server = serve(&mesh);
        let mut peer = mesh.peer(CHECKOUT);
        let outcomes = dial_with(&mut peer, many(1600));
        let exact = expected([("a", 600), ("b", 300), ("c", 300), ("d", 400)]);
        assert_eq!(shares(&outcomes), exact);
        for four in outcomes.chunks(4) {
            assert_eq!(shares(four)["d"], 1);
        }
        // Without a split versions do not matter.
        mesh.reload(&policy("", members, ""));
        let outcomes = dial_with(&mut peer, many(1000));
        let exact = expected([("a", 400), ("b", 200), ("c", 200), ("d", 200)]);
        assert_eq!(shares(&outcomes), exact);
    });
}

#[test]
fn udp_flows_are_split_like_connections() {
    host::run("udp", |sandbox| {
        let mesh = Mesh::start(sandbox, &split("v1 = 9, v2 = 1"));
        let _server = serve(&mesh);
        let mut peer = mesh.peer(CHECKOUT);
        for way in [Way::Connect, Way::SendTo] {
            let outcomes = dial_with(&mut peer, udp(500).by(way));
            for ten in outcomes.chunks(10) {
                assert_eq!(shares(ten), expected([("a", 9), ("b", 1)]), "{way:?}");
            }
        }
        // A socket is one flow, however many datagrams it sends.
        let kind = Kind {
            udp: true,
            ..Kind::default()
        };
        let socket = peer.open(kind).expect("a socket");
        let mut labels: Vec<String> = (0..50)
            .map(|_| {
                peer.send_to(socket, VIP_UDP, "x").expect("sent");
                let answer = peer.receive(socket).expect("an answer");
                answer.answered().to_owned()
            })
            .collect();
        labels.dedup();
        assert_eq!(labels, ["a"]);
        for (name, count) in [
            ("mesh_udp_flows_total", 1001.0),
            ("mesh_udp_datagrams_total", 550.0),
        ] {
            mesh.expect_metric(name, &[("source_service", "shop/checkout")], count);
        }
    });
}

#[test]
fn a_client_keeps_its_endpoint_for_a_while() {
    host::run("affinity", |sandbox| {
        let service = "affinity = \"client\"\naffinity_timeout = \"2s\"";
        let weights = "\n[[split]]\nservice = \"shop/payments\"\nweights = { v1 = 1, v2 = 1 }\n";
        let mesh = Mesh::start(sandbox, &policy(service, VERSIONS, weights));
        let _server = serve(&mesh);
        let mut one = mesh.peer("system.slice/worker-1.service");
        let mut two = mesh.peer("system.slice/worker-2.service");
        let mut same = mesh.peer("system.slice/worker-1.service");
        // The turn is the service's, the place is each cgroup's.
        for _ in 0..5 {
            let of_one = dial_with(&mut one, many(20));
            assert_eq!(shares(&of_one), expected([("a", 20)]));
            let of_two = dial_with(&mut two, many(20));
            assert_eq!(shares(&of_two), expected([("b", 20)]));
            let of_same = dial_with(&mut same, many(20));
            assert_eq!(shares(&of_same), expected([("a", 20)]));
            // Being used keeps it: this is longer than the timeout in all.
            sleep(Duration::from_millis(500));
        }
        sleep(Duration::from_millis(2100));
        assert_eq!(shares(&dial_with(&mut two, many(5))), expected([("a", 5)]));
        assert_eq!(shares(&dial_with(&mut one, many(5))), expected([("b", 5)]));
    });
}

/// Dials until it is done, and often enough to tell something.
fn dial_until(done: &AtomicBool, peer: &mut Peer) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    while !done.load(Ordering::Relaxed) || outcomes.len() < 300 {
        outcomes.extend(dial_with(peer, many(100)));
    }
    outcomes
}

#[test]
fn weights_change_under_load_without_a_failure() {
    host::run("change", |sandbox| {
        let mut mesh = Mesh::start(sandbox, &split("v1 = 99, v2 = 1"));
        let _server = serve(&mesh);
        let mut peers = [(); 4].map(|()| mesh.peer(CHECKOUT));
        let done = AtomicBool::new(false);
        let outcomes: Vec<Outcome> = thread::scope(|scope| {
            let start = |peer| scope.spawn(|| dial_until(&done, peer));
            let load: Vec<_> = peers.iter_mut().map(start).collect();
            for weights in ["v1 = 1, v2 = 1", "v2 = 3, v3 = 7", "v1 = 90, v3 = 10"] {
                mesh.reload(&split(weights));
            }
            done.store(true, Ordering::Relaxed);
            let outcomes = load.into_iter().map(|it| it.join().expect("outcomes"));
            outcomes.flatten().collect()
        });
        let of_all = shares(&outcomes);
        assert!(of_all.values().sum::<usize>() > 1000, "{of_all:?}");
        assert_eq!(of_all.get("d"), None);
        let outcomes = at_once(&mut peers, &many(25));
        assert_eq!(shares(&outcomes), expected([("a", 90), ("c", 10)]));
    });
}
