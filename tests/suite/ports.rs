//! Who may bind an endpoint's address.

use std::net::SocketAddr;

use mesh_tests::mesh::{Call, Decision, Mesh};
use mesh_tests::names::{HOST, INTRUDER, PAYMENTS, address};
use mesh_tests::peer::{Dial, Kind, Options, Peer, Request, Socket};
use mesh_tests::{host, kernel};

const SHOP: &str = r#"
[mesh]
default = "deny"

[[service]]
name = "intruder"
namespace = "dev"
workload = { systemd = "intruder.service" }

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "tcp", listen = 80 }, { name = "udp", listen = 53, protocol = "udp" }]
workload = { systemd = "payments.service" }
endpoints = [
  { address = "127.0.0.1:8081", port = "tcp", version = "v1" },
  { address = "127.0.0.1:8053", port = "udp", version = "v1" },
]

[[service]]
name = "anybodys"
namespace = "shop"
vip = "10.96.0.11"
ports = [{ name = "tcp", listen = 80 }]
endpoints = [{ address = "127.0.0.1:8090", version = "v1" }]

[[allow]]
name = "itself"
from = ["shop/payments"]
to = ["shop/payments"]
"#;

/// Every way to take an endpoint's port in its network namespace.
const TAKEN: &[&str] = &[
    "127.0.0.1:8081",
    "0.0.0.0:8081",
    "127.9.9.9:8081",
    "10.77.0.1:8081",
    "[::]:8081",
    "[::1]:8081",
    "[fd77::1]:8081",
    "[::ffff:127.0.0.1]:8081",
    "[::ffff:0.0.0.0]:8081",
    "[::ffff:10.77.0.1]:8081",
];

fn add_addresses() {
    for address in ["10.77.0.1", "fd77::1"] {
        host::add_address(address.parse().expect("an address"));
    }
}

fn open(peer: &mut Peer, address: SocketAddr, udp: bool) -> Socket {
    let kind = Kind {
        udp,
        reuse: true,
        ..Kind::tcp(address)
    };
    peer.open(kind).expect("a socket")
}

fn bind(peer: &mut Peer, socket: Socket, address: SocketAddr) -> Option<String> {
    peer.ask(&Request::Bind { socket, address })
        .expect("an answer")
}

/// Makes a socket and binds it.
fn take(peer: &mut Peer, text: &str, udp: bool) -> Option<String> {
    let socket = open(peer, address(text), udp);
    let refused = bind(peer, socket, address(text));
    peer.ask::<()>(&Request::Close(vec![socket]))
        .expect("an answer");
    refused
}

fn record(text: &str, udp: bool, cgroup: &str) -> Call {
    let bound = address(text);
    let shown = SocketAddr::new(bound.ip().to_canonical(), bound.port()).to_string();
    let call = if udp {
        Call::udp(&shown)
    } else {
        Call::tcp(&shown)
    };
    let hook = if bound.is_ipv6() { "bind6" } else { "bind4" };
    call.at(hook).from_cgroup(cgroup)
}

#[test]
fn only_the_workload_takes_its_port() {
    host::run("ports", |sandbox| {
        add_addresses();
        let mut mesh = Mesh::start(sandbox, SHOP);
        let mut payments = mesh.peer(PAYMENTS);
        let rows = TAKEN.iter().map(|text| (*text, false));
        let rows: Vec<_> = rows
            .chain([("0.0.0.0:8053", true), ("[::]:8053", true)])
            .filter(|(text, _)| host::can_dial(&address(text)))
            .collect();
        for (name, cgroup) in [("dev/intruder", INTRUDER), ("host", HOST)] {
            let mut squatter = mesh.peer(cgroup);
            for (text, udp) in &rows {
                let refused = take(&mut squatter, text, *udp);
                assert_eq!(refused.as_deref(), Some("EPERM"), "{name} {text}");
                let decision = Decision::of_reason("port-owner", name, "shop/payments");
                mesh.expect_record(decision, record(text, *udp, cgroup));
            }
            // What is nobody's, or of another protocol, or any free port.
            for (text, udp) in [
                ("127.0.0.1:8082", false),
                ("127.0.0.1:8053", false),
                ("0.0.0.0:8081", true),
                ("127.0.0.1:0", false),
                ("127.0.0.1:8090", false),
            ] {
                assert_eq!(take(&mut squatter, text, udp), None, "{name} {text}");
            }
        }
        for (text, udp) in &rows {
            assert_eq!(take(&mut payments, text, *udp), None, "{text}");
        }
        mesh.settle();
    });
}

#[test]
fn nobody_joins_the_port_of_a_workload() {
    host::run("ports-join", |sandbox| {
        add_addresses();
        let mut mesh = Mesh::start(sandbox, SHOP);
        let mut payments = mesh.peer(PAYMENTS);
        let everywhere = address("0.0.0.0:8081");
        let socket = open(&mut payments, everywhere, false);
        assert_eq!(bind(&mut payments, socket, everywhere), None);
        payments
            .ask::<()>(&Request::Listen(socket))
            .expect("listens");
        let mut intruder = mesh.peer(INTRUDER);
        for text in ["0.0.0.0:8081", "127.0.0.1:8081", "10.77.0.1:8081"] {
            // SO_REUSEPORT would share, a more specific address would win.
            let refused = take(&mut intruder, text, false);
            assert_eq!(refused.as_deref(), Some("EPERM"), "{text}");
            let decision = Decision::of_reason("port-owner", "dev/intruder", "shop/payments");
            mesh.expect_record(decision, record(text, false, INTRUDER));
        }
        mesh.settle();
    });
}

#[test]
fn a_socket_of_another_maker_is_not_the_workloads() {
    host::run("ports-passed", |sandbox| {
        let mut mesh = Mesh::start(sandbox, SHOP);
        let (mut payments, mut intruder) = (mesh.peer(PAYMENTS), mesh.peer(INTRUDER));
        let wanted = address("127.0.0.1:8081");
        let pass = |from: &mut Peer, to: &mut Peer, inbox: &str| {
            let inbox = sandbox.path(inbox);
            to.ask::<()>(&Request::Inbox(inbox.clone()))
                .expect("an inbox");
            let socket = open(from, wanted, false);
            from.ask::<()>(&Request::Pass { socket, inbox })
                .expect("passed");
            to.ask::<Socket>(&Request::Take).expect("a socket")
        };
        // Made by the intruder, who still holds it, bound by the workload.
        let passed = pass(&mut intruder, &mut payments, "in");
        let refused = bind(&mut payments, passed, wanted);
        assert_eq!(refused.as_deref(), Some("EPERM"));
        let decision = Decision::of_reason("port-owner", "shop/payments", "shop/payments");
        mesh.expect_record(decision, record("127.0.0.1:8081", false, PAYMENTS));
        // And the other way round.
        let passed = pass(&mut payments, &mut intruder, "out");
        let refused = bind(&mut intruder, passed, wanted);
        assert_eq!(refused.as_deref(), Some("EPERM"));
        let decision = Decision::of_reason("port-owner", "dev/intruder", "shop/payments");
        mesh.expect_record(decision, record("127.0.0.1:8081", false, INTRUDER));
        mesh.settle();
    });
}

#[test]
fn a_socket_unit_of_the_workload_listens_for_it() {
    host::run("ports-unit", |sandbox| {
        let mut mesh = Mesh::start(sandbox, SHOP);
        // As systemd does it: a helper in the cgroup of the socket unit makes the socket, the
        // service gets it, and the helper's cgroup goes.
        let mut unit = mesh.peer("system.slice/payments.socket");
        let wanted = address("127.0.0.1:8081");
        let socket = open(&mut unit, wanted, false);
        assert_eq!(bind(&mut unit, socket, wanted), None);
        unit.ask::<()>(&Request::Listen(socket)).expect("listens");
        let mut payments = mesh.peer(PAYMENTS);
        let inbox = sandbox.path("inbox");
        payments
            .ask::<()>(&Request::Inbox(inbox.clone()))
            .expect("an inbox");
        unit.ask::<()>(&Request::Pass { socket, inbox })
            .expect("passed");
        payments.ask::<Socket>(&Request::Take).expect("a socket");
        drop(unit);
        let gone = sandbox.cgroup.path().join("system.slice/payments.socket");
        kernel::remove_cgroup(&gone).expect("removed");
        // A caller that may call is let in, by the kernel that is: nobody accepts here.
        let mut caller = mesh.peer(PAYMENTS);
        let dial = Dial::tcp(address("10.96.0.10:80")).saying("");
        let outcome = caller.dial_once(dial).expect("an outcome");
        assert_eq!(outcome.failure, None);
        mesh.enter(
            Decision::of_rule("allowed", "itself", "shop/payments", "shop/payments"),
            1,
        );
        mesh.settle();
    });
}

#[test]
fn another_network_namespace_has_ports_of_its_own() {
    host::run("ports-netns", |sandbox| {
        let mesh = Mesh::start(sandbox, SHOP);
        let cgroup = sandbox.cgroup.child(HOST).expect("a cgroup");
        let options = Options {
            own_netns: true,
            ..Options::default()
        };
        let mut peer = Peer::spawn_at(&cgroup, options).expect("a peer");
        for text in ["127.0.0.1:8081", "0.0.0.0:8081", "[::]:8081"] {
            if !host::can_dial(&address(text)) {
                continue;
            }
            assert_eq!(take(&mut peer, text, false), None, "{text}");
        }
        mesh.settle();
    });
}

#[test]
fn while_nothing_is_protected_squatters_are_counted_only() {
    host::run("ports-audit", |sandbox| {
        let policy = SHOP.replace("default = \"deny\"", "default = \"allow\"");
        let mut mesh = Mesh::start(sandbox, &policy);
        let mut intruder = mesh.peer(INTRUDER);
        assert_eq!(take(&mut intruder, "127.0.0.1:8081", false), None);
        let mut decision = Decision::of_reason("port-owner", "dev/intruder", "shop/payments");
        decision.verdict = "would-deny".into();
        mesh.expect_record(decision, record("127.0.0.1:8081", false, INTRUDER));
        mesh.settle();
    });
}
