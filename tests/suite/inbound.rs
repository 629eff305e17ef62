//! The server's side: what reaches a protected endpoint without having been allowed.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread::sleep;
use std::time::Duration;

use mesh_tests::mesh::{Call, Decision, Mesh};
use mesh_tests::names::{CHECKOUT, HOST, INTRUDER, PAYMENTS, address};
use mesh_tests::patience::scaled;
use mesh_tests::peer::{Dial, Options, Outcome, Peer, Way};
use mesh_tests::{Cgroup, Sandbox, host, netns};
use rustix::net::{AddressFamily, RawProtocol, SendFlags, SocketFlags, SocketType};

/// Endpoints at loopback, at this host's address and in a container.
const SHOP: &str = r#"
[mesh]
default = "deny"

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
ports = [{ name = "tcp", listen = 80 }, { name = "udp", listen = 53, protocol = "udp" }]
workload = { systemd = "payments.service" }
endpoints = [
  { address = "127.0.0.1:8081", port = "tcp", version = "v1" },
  { address = "127.0.0.1:8053", port = "udp", version = "v1" },
]

[[service]]
name = "boxed"
namespace = "shop"
vip = "10.96.0.11"
ports = [{ name = "tcp", listen = 80 }]
workload = { systemd = "boxed.service" }
endpoints = [{ address = "10.88.0.2:9000", version = "v1", node = "edge-1" }]

[[service]]
name = "six"
namespace = "shop"
vip = "fd00:96::10"
ports = [{ name = "tcp", listen = 80 }]
endpoints = [{ address = "[::1]:8082", version = "v1" }]

[[allow]]
name = "checkout-pays"
from = ["shop/checkout"]
to = ["shop/*"]
"#;

/// Servers of [`SHOP`] in the host's network namespace, at every address.
fn serve(mesh: &Mesh<'_>) -> Peer {
    let mut server = mesh.peer(PAYMENTS);
    for port in [8081, 8082] {
        let address = host::anywhere(port);
        server.serve_tcp(&address, "v1").expect("a server");
    }
    let udp = host::anywhere(8053);
    server.serve_udp(&udp, "v1").expect("a server");
    server
}

/// Another host: a network namespace of its own behind a pair of interfaces, in a cgroup that
/// no program of the mesh acts on.
fn another_host(outside: &Cgroup) -> Peer {
    let options = Options {
        own_netns: true,
        ..Options::default()
    };
    let peer = Peer::spawn_at(&outside.child("far").expect("a cgroup"), options);
    let peer = peer.expect("a peer");
    netns::join(peer.pid());
    peer
}

/// The denial of a packet that nobody has announced.
fn dropped(mesh: &mut Mesh<'_>, destination: &str, dialled: &str, udp: bool) {
    let call = if udp {
        Call::udp(dialled)
    } else {
        Call::tcp(dialled)
    };
    let decision = Decision::of_reason("no-ticket", "outside", destination);
    mesh.expect_record(decision, call.at("ingress"));
}

fn not_answered(outcome: &Outcome, what: &str) {
    assert_eq!(outcome.answered(), "", "{what}: {outcome:?}");
    let given_up = matches!(
        outcome.errno(),
        Some("EINPROGRESS" | "EAGAIN" | "ETIMEDOUT")
    );
    assert!(given_up, "{what}: {outcome:?}");
}

#[test]
fn a_client_that_no_hook_has_seen_is_dropped() {
    host::run("unseen", |sandbox| {
        host::sh("ip address add 10.77.0.1/32 dev lo");
        let mut mesh = Mesh::start(sandbox, SHOP);
        let mut server = serve(&mesh);
        let outside = Cgroup::new("unseen-outside").expect("a cgroup");
        let mut stranger = Peer::spawn(&outside, "somebody").expect("a peer");
        for (to, shown, service) in [
            ("127.0.0.1:8081", "127.0.0.1:8081", "shop/payments"),
            ("127.9.9.9:8081", "127.9.9.9:8081", "shop/payments"),
            ("10.77.0.1:8081", "10.77.0.1:8081", "shop/payments"),
            ("[::ffff:127.0.0.1]:8081", "127.0.0.1:8081", "shop/payments"),
            ("[::1]:8082", "[::1]:8082", "shop/six"),
        ] {
            if !host::can_dial(&address(to)) {
                continue;
            }
            let outcome = stranger.dial_once(Dial::tcp(address(to)).impatiently());
            not_answered(&outcome.expect("an outcome"), to);
            dropped(&mut mesh, service, shown, false);
        }
        for way in [Way::SendTo, Way::Connect] {
            let dial = Dial::udp(address("127.0.0.1:8053")).by(way).impatiently();
            not_answered(&stranger.dial_once(dial).expect("an outcome"), "udp");
            dropped(&mut mesh, "shop/payments", "127.0.0.1:8053", true);
        }
        assert_eq!(server.served().expect("a number"), 0, "nothing came in");

        // Those who were allowed come in, by each address.
        let mut checkout = mesh.peer(CHECKOUT);
        for dial in [
            Dial::tcp(address("10.96.0.10:80")),
            Dial::tcp(address("127.0.0.1:8081")),
            Dial::tcp(address("0.0.0.0:8081")),
            Dial::tcp(address("10.77.0.1:8081")),
            Dial::udp(address("10.96.0.10:53")),
            Dial::udp(address("127.0.0.1:8053")).by(Way::SendTo),
            Dial::udp(address("0.0.0.0:8053")).by(Way::SendTo),
        ] {
            let outcome = checkout.dial_once(dial).expect("an outcome");
            let decision =
                Decision::of_rule("allowed", "checkout-pays", "shop/checkout", "shop/payments");
            mesh.expect_allowed(&outcome, "v1", decision);
        }
        mesh.settle();
    });
}

#[test]
fn another_host_comes_in_by_a_rule_for_its_address_only() {
    host::run("far", |sandbox| {
        let mut mesh = Mesh::start(sandbox, SHOP);
        let _server = serve(&mesh);
        let outside = Cgroup::new("far-outside").expect("a cgroup");
        let mut far = another_host(&outside);
        sleep(scaled(Duration::from_millis(200)));
        let dials = [
            (
                Dial::tcp(address("10.88.0.1:8081")),
                "10.88.0.1:8081",
                "shop/payments",
            ),
            (
                Dial::udp(address("10.88.0.1:8053")).by(Way::SendTo),
                "10.88.0.1:8053",
                "shop/payments",
            ),
            (
                Dial::tcp(address("[fd88::1]:8082")),
                "[fd88::1]:8082",
                "shop/six",
            ),
        ];
        let dials = dials.into_iter();
        let dials: Vec<_> = dials
            .filter(|(dial, ..)| host::can_dial(&dial.to))
            .collect();
        for (dial, shown, service) in &dials {
            let outcome = far
                .dial_once(dial.clone().impatiently())
                .expect("an outcome");
            not_answered(&outcome, shown);
            dropped(&mut mesh, service, shown, dial.kind.udp);
        }
        mesh.settle();

        let terminals = |from: &str| {
            format!(
                "{SHOP}\n[[allow]]\nname = \"terminals\"\nfrom = [{from}]\nto = [\"shop/payments\", \"shop/six\"]\n"
            )
        };
        mesh.reload(&terminals(
            "{ cidr = \"10.88.0.0/24\" }, { cidr = \"fd88::/64\" }",
        ));
        for (dial, shown, service) in &dials {
            let outcome = far.dial_once(dial.clone()).expect("an outcome");
            assert_eq!(outcome.answered(), "v1", "{shown}: {outcome:?}");
            if !dial.kind.udp {
                mesh.enter(
                    Decision::of_rule("allowed", "terminals", "outside", service),
                    1,
                );
            }
        }
        // Neither another address nor a caller of this host.
        mesh.reload(&terminals(
            "{ cidr = \"10.88.0.3/32\" }, { cidr = \"fd88::3/128\" }",
        ));
        let (dial, shown, service) = &dials[0];
        let outcome = far
            .dial_once(dial.clone().impatiently())
            .expect("an outcome");
        not_answered(&outcome, shown);
        dropped(&mut mesh, service, shown, false);
        let deny = "[[deny]]\nname = \"not-him\"\nfrom = [{ cidr = \"10.88.0.2/32\" }]\nto = [\"shop/*\"]\n";
        mesh.reload(&(terminals("{ cidr = \"0.0.0.0/0\" }") + deny));
        let outcome = far
            .dial_once(dial.clone().impatiently())
            .expect("an outcome");
        not_answered(&outcome, shown);
        let decision = Decision::of_rule("denied", "not-him", "outside", service);
        mesh.expect_record(decision, Call::tcp(shown).at("ingress"));
        let mut intruder = mesh.peer(INTRUDER);
        let dial = Dial::tcp(address("127.0.0.1:8081"));
        let outcome = intruder.dial_once(dial).expect("an outcome");
        let decision = Decision::of_rule("denied", "default", "dev/intruder", "shop/payments");
        mesh.expect_denied(&outcome, decision, Call::tcp("127.0.0.1:8081"));
        mesh.settle();
    });
}

/// A process in a network namespace of its own that is joined to this one.
fn boxed(sandbox: &Sandbox, cgroup: &str) -> Peer {
    let options = Options {
        own_netns: true,
        ..Options::default()
    };
    let cgroup = sandbox.cgroup.child(cgroup).expect("a cgroup");
    let peer = Peer::spawn_at(&cgroup, options).expect("a peer");
    netns::join(peer.pid());
    peer
}

#[test]
fn a_service_in_a_container_is_guarded_as_well() {
    host::run("boxed", |sandbox| {
        let mut mesh = Mesh::start(sandbox, SHOP);
        let mut server = boxed(sandbox, "system.slice/boxed.service");
        server.serve_tcp("0.0.0.0:9000", "v1").expect("a server");
        sleep(scaled(Duration::from_millis(200)));
        let mut checkout = mesh.peer(CHECKOUT);
        let allowed =
            || Decision::of_rule("allowed", "checkout-pays", "shop/checkout", "shop/boxed");
        for to in ["10.96.0.11:80", "10.88.0.2:9000", "[::ffff:10.88.0.2]:9000"] {
            if !host::can_dial(&address(to)) {
                continue;
            }
            let outcome = checkout
                .dial_once(Dial::tcp(address(to)))
                .expect("an outcome");
            mesh.expect_allowed(&outcome, "v1", allowed());
        }
        let outcomes = checkout.dial(Dial::tcp(address("10.96.0.11:80")).times(50));
        for outcome in outcomes.expect("outcomes") {
            mesh.expect_allowed(&outcome, "v1", allowed());
        }
        let before = server.served().expect("a number");
        let outside = Cgroup::new("boxed-outside").expect("a cgroup");
        let mut stranger = Peer::spawn(&outside, "somebody").expect("a peer");
        let dial = Dial::tcp(address("10.88.0.2:9000"));
        let outcome = stranger
            .dial_once(dial.clone().impatiently())
            .expect("an outcome");
        not_answered(&outcome, "unseen");
        dropped(&mut mesh, "shop/boxed", "10.88.0.2:9000", false);
        let mut intruder = mesh.peer(INTRUDER);
        let outcome = intruder.dial_once(dial).expect("an outcome");
        let decision = Decision::of_rule("denied", "default", "dev/intruder", "shop/boxed");
        mesh.expect_denied(&outcome, decision, Call::tcp("10.88.0.2:9000"));
        assert_eq!(server.served().expect("a number"), before);
        // Tickets are taken back.
        mesh.expect_metric("mesh_bpf_map_entries", &[("map", "TICKETS")], 0.0);
        mesh.settle();
    });
}

#[test]
fn a_client_in_a_container_calls_the_host() {
    host::run("boxed-client", |sandbox| {
        let mut mesh = Mesh::start(sandbox, SHOP);
        let mut server = serve(&mesh);
        let mut checkout = boxed(sandbox, CHECKOUT);
        sleep(scaled(Duration::from_millis(200)));
        // The agent learns of the new address by rtnetlink.
        let dial = Dial::tcp(address("10.88.0.1:8081"));
        let outcome = checkout.dial_once(dial.clone()).expect("an outcome");
        let decision =
            Decision::of_rule("allowed", "checkout-pays", "shop/checkout", "shop/payments");
        mesh.expect_allowed(&outcome, "v1", decision);
        assert_eq!(server.served().expect("a number"), 1);
        mesh.settle();
    });
}

#[test]
fn a_squatter_from_before_the_mesh_gets_nothing() {
    host::run("squatter", |sandbox| {
        let mut squatter = Peer::spawn(&sandbox.cgroup, HOST).expect("a peer");
        squatter
            .serve_tcp("127.0.0.1:8081", "squatter")
            .expect("a server");
        squatter
            .serve_udp("127.0.0.1:8053", "squatter")
            .expect("a server");
        let mut mesh = Mesh::start(sandbox, SHOP);
        let mut checkout = mesh.peer(CHECKOUT);
        for dial in [
            Dial::tcp(address("10.96.0.10:80")),
            Dial::udp(address("10.96.0.10:53")).by(Way::SendTo),
        ] {
            let udp = dial.kind.udp;
            let outcome = checkout.dial_once(dial.impatiently()).expect("an outcome");
            not_answered(&outcome, "squatter");
            let allowed =
                Decision::of_rule("allowed", "checkout-pays", "shop/checkout", "shop/payments");
            mesh.enter(allowed, 1);
            let decision = Decision::of_reason("port-owner", "shop/checkout", "shop/payments");
            let call = if udp {
                Call::udp("127.0.0.1:8053")
            } else {
                Call::tcp("127.0.0.1:8081")
            };
            mesh.expect_record(decision, call.at("ingress"));
        }
        assert_eq!(squatter.served().expect("a number"), 0);
        mesh.settle();
    });
}

#[test]
fn a_workload_from_before_the_mesh_serves_on() {
    host::run("earlier", |sandbox| {
        let mut server = Peer::spawn(&sandbox.cgroup, PAYMENTS).expect("a peer");
        server.serve_tcp("0.0.0.0:8081", "v1").expect("a server");
        let mut mesh = Mesh::start(sandbox, SHOP);
        let mut checkout = mesh.peer(CHECKOUT);
        let outcome = checkout.dial_once(Dial::tcp(address("10.96.0.10:80")));
        let decision =
            Decision::of_rule("allowed", "checkout-pays", "shop/checkout", "shop/payments");
        mesh.expect_allowed(&outcome.expect("an outcome"), "v1", decision);
        mesh.settle();
    });
}

/// Sends a TCP packet that asks for a connection, from a raw socket.
fn forge(from: SocketAddrV4, to: SocketAddrV4) -> io::Result<()> {
    let mut segment = [0u8; 20];
    segment[0..2].copy_from_slice(&from.port().to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[4..8].copy_from_slice(&0x1234_5678u32.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 0x02;
    segment[14..16].copy_from_slice(&1024u16.to_be_bytes());
    let sum = checksum(*from.ip(), *to.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut packet = [0u8; 40];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&40u16.to_be_bytes());
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..].copy_from_slice(&segment);
    let raw = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        RawProtocol::new(255).map(rustix::net::Protocol::from_raw),
    )?;
    rustix::net::sendto(&raw, &packet, SendFlags::empty(), &to)?;
    Ok(())
}

fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let pseudo = [
        &from.octets()[..],
        &to.octets(),
        &[0, 6],
        &20u16.to_be_bytes(),
        segment,
    ]
    .concat();
    let words = pseudo
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn a_forged_packet_is_dropped_also_from_an_allowed_clients_address() {
    host::run("forged", |sandbox| {
        let mut mesh = Mesh::start(sandbox, SHOP);
        let mut server = serve(&mesh);
        let server_address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8081);
        forge(
            SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_000),
            server_address,
        )
        .expect("sent");
        dropped(&mut mesh, "shop/payments", "127.0.0.1:8081", false);
        // A client that is allowed, but from a port of its own.
        let mut checkout = mesh.peer(CHECKOUT);
        let dial = Dial::tcp(address("10.96.0.10:80"));
        let outcome = checkout.dial_once(dial).expect("an outcome");
        let decision =
            Decision::of_rule("allowed", "checkout-pays", "shop/checkout", "shop/payments");
        mesh.expect_allowed(&outcome, "v1", decision);
        forge(
            SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_001),
            server_address,
        )
        .expect("sent");
        dropped(&mut mesh, "shop/payments", "127.0.0.1:8081", false);
        assert_eq!(server.served().expect("a number"), 1);
        mesh.settle();
    });
}

#[test]
fn what_is_not_protected_is_open_to_all() {
    host::run("open", |sandbox| {
        let policy = SHOP.replace("default = \"deny\"", "default = \"allow\"");
        let mesh = Mesh::start(sandbox, &policy);
        let _server = serve(&mesh);
        let outside = Cgroup::new("open-outside").expect("a cgroup");
        let mut stranger = Peer::spawn(&outside, "somebody").expect("a peer");
        for dial in [
            Dial::tcp(address("127.0.0.1:8081")),
            Dial::udp(address("127.0.0.1:8053")).by(Way::SendTo),
        ] {
            let outcome = stranger.dial_once(dial).expect("an outcome");
            assert_eq!(outcome.answered(), "v1");
        }
        mesh.settle();
    });
}
