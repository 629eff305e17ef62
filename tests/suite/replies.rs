//! Programs are shown what they dialled.

use std::net::SocketAddr;

use mesh_tests::host;
use mesh_tests::mesh::Mesh;
use mesh_tests::names::{CHECKOUT, address};
use mesh_tests::peer::{After, Dial, Kind, Outcome, Peer, Request, Way};

const SERVICES: usize = 12;

/// Services at 10.96.0.1 and fd00:96::1 and following, with TCP 80 and UDP 53.
fn policy() -> String {
    let mut policy = "[mesh]\ndefault = \"deny\"\n[[service]]\nname = \"checkout\"\n\
                      workload = { systemd = \"checkout.service\" }\n"
        .to_owned();
    for number in 1..=SERVICES {
        for (name, vip, local) in [
            (
                format!("four-{number}"),
                format!("10.96.0.{number}"),
                "127.0.0.1",
            ),
            (
                format!("six-{number}"),
                format!("fd00:96::{number:x}"),
                "[::1]",
            ),
        ] {
            policy += &format!(
                "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\n\
                 ports = [{{ name = \"tcp\", listen = 80 }}, \
                 {{ name = \"udp\", listen = 53, protocol = \"udp\" }}]\nendpoints = [\n\
                 {{ address = \"{local}:{}\", port = \"tcp\", version = \"v1\" }},\n\
                 {{ address = \"{local}:{}\", port = \"udp\", version = \"v1\" }},\n]\n",
                8000 + number,
                8500 + number,
            );
        }
    }
    policy + "[[allow]]\nname = \"all\"\nfrom = [\"*\"]\nto = [\"default/*\"]\n"
}

fn serve(mesh: &Mesh<'_>) -> Peer {
    let mut server = mesh.peer("system.slice/servers.service");
    for number in 1..=SERVICES {
        for (local, family) in [("127.0.0.1", "four"), ("[::1]", "six")] {
            if family == "six" && !host::has_ipv6() {
                continue;
            }
            let label = format!("{family}-{number}");
            let tcp = format!("{local}:{}", 8000 + number);
            server.serve_tcp(&tcp, &label).expect("a server");
            let udp = format!("{local}:{}", 8500 + number);
            server.serve_udp(&udp, &label).expect("a server");
        }
    }
    server
}

/// Connects, and asks for the peer after connecting, after an exchange, and once more.
fn check_connected(peer: &mut Peer, dial: Dial, label: &str) {
    if !host::can_dial(&dial.to) {
        return;
    }
    let to = dial.to;
    let outcome = peer
        .dial_once(dial.clone().then(After::Keep))
        .expect("an outcome");
    assert_eq!(outcome.answered(), label, "{dial:?}: {outcome:?}");
    assert_eq!(outcome.peer, Some(to), "{dial:?}");
    let socket = outcome.socket.expect("a socket");
    let again = peer.exchange(&[socket], "y").expect("an outcome");
    assert_eq!(again[0].answered(), label);
    if dial.kind.udp {
        assert_eq!(again[0].peer, Some(to), "sender: {dial:?}");
    }
    let shown: Option<SocketAddr> = peer.ask(&Request::PeerName(socket)).expect("an answer");
    assert_eq!(shown, Some(to), "{dial:?}");
    peer.ask::<()>(&Request::Close(vec![socket]))
        .expect("closed");
}

#[test]
fn a_connection_shows_the_vip() {
    host::run("peername", |sandbox| {
        let mesh = Mesh::start(sandbox, &policy());
        let _server = serve(&mesh);
        let mut peer = mesh.peer(CHECKOUT);
        for (to, label) in [
            ("10.96.0.1:80", "four-1"),
            ("[::ffff:10.96.0.2]:80", "four-2"),
            ("[fd00:96::3]:80", "six-3"),
            ("127.0.0.1:8004", "four-4"),
            ("[::1]:8005", "six-5"),
        ] {
            for way in [Way::Connect, Way::NonBlocking, Way::Uring] {
                check_connected(&mut peer, Dial::tcp(address(to)).by(way), label);
            }
        }
        let mut dial = Dial::tcp(address("[fd00:96::6]:80"));
        dial.kind.v6_only = true;
        check_connected(&mut peer, dial, "six-6");
        for (to, label) in [
            ("10.96.0.1:53", "four-1"),
            ("[::ffff:10.96.0.2]:53", "four-2"),
            ("[fd00:96::3]:53", "six-3"),
        ] {
            check_connected(&mut peer, Dial::udp(address(to)), label);
        }
    });
}

#[test]
fn a_socket_that_is_connected_anew_shows_the_new_peer() {
    host::run("anew", |sandbox| {
        let mesh = Mesh::start(sandbox, &policy());
        let mut server = serve(&mesh);
        server.serve_tcp("127.0.0.1:9000", "other").expect("tcp");
        server.serve_udp("127.0.0.1:9053", "other").expect("udp");
        let mut peer = mesh.peer(CHECKOUT);
        for (udp, targets) in [
            (
                false,
                [
                    ("10.96.0.1:80", "four-1"),
                    ("10.96.0.2:80", "four-2"),
                    ("127.0.0.1:9000", "other"),
                    ("10.96.0.3:80", "four-3"),
                ],
            ),
            (
                true,
                [
                    ("10.96.0.1:53", "four-1"),
                    ("10.96.0.2:53", "four-2"),
                    ("127.0.0.1:9053", "other"),
                    ("10.96.0.3:53", "four-3"),
                ],
            ),
        ] {
            let kind = Kind {
                udp,
                ..Kind::default()
            };
            let socket = peer.open(kind).expect("a socket");
            for (to, label) in targets {
                let outcome = peer.connect(socket, to, "x").expect("an outcome");
                assert_eq!(outcome.answered(), label, "{to}: {outcome:?}");
                assert_eq!(outcome.peer, Some(address(to)));
                peer.ask::<()>(&Request::Disconnect(socket))
                    .expect("disconnected");
            }
        }
    });
}

#[test]
fn a_datagram_comes_from_the_vip_it_was_sent_to() {
    host::run("datagrams", |sandbox| {
        let mesh = Mesh::start(sandbox, &policy());
        let _server = serve(&mesh);
        let mut peer = mesh.peer(CHECKOUT);
        for (ipv6, targets) in [
            (
                false,
                [
                    ("10.96.0.1:53", "four-1"),
                    ("10.96.0.2:53", "four-2"),
                    ("127.0.0.1:8503", "four-3"),
                ],
            ),
            (
                true,
                [
                    ("[fd00:96::1]:53", "six-1"),
                    ("[::ffff:10.96.0.2]:53", "four-2"),
                    ("[fd00:96::3]:53", "six-3"),
                ],
            ),
        ] {
            if ipv6 && !host::has_ipv6() {
                continue;
            }
            let kind = Kind {
                ipv6,
                udp: true,
                ..Kind::default()
            };
            let socket = peer.open(kind).expect("a socket");
            for _ in 0..3 {
                for (to, _) in targets {
                    let sent = peer.send_to(socket, to, "x").expect("an outcome");
                    assert_eq!(sent.failure, None, "{to}");
                }
                // All are under way before the first answer is read.
                let answers: Vec<Outcome> = targets
                    .iter()
                    .map(|_| peer.receive(socket).expect("an answer"))
                    .collect();
                let mut shown: Vec<_> = answers
                    .iter()
                    .map(|answer| (answer.peer, answer.answered()))
                    .collect();
                let mut dialled: Vec<_> = targets
                    .iter()
                    .map(|(to, label)| (Some(address(to)), *label))
                    .collect();
                shown.sort_unstable();
                dialled.sort_unstable();
                assert_eq!(shown, dialled);
            }
        }
    });
}

#[test]
fn one_socket_may_talk_to_more_services_than_it_remembers() {
    host::run("displaced", |sandbox| {
        let mesh = Mesh::start(sandbox, &policy());
        let _server = serve(&mesh);
        let mut peer = mesh.peer(CHECKOUT);
        let families = if host::has_ipv6() { 2 } else { 1 };
        for ipv6 in [false, true].into_iter().take(families) {
            let kind = Kind {
                ipv6,
                udp: true,
                ..Kind::default()
            };
            let socket = peer.open(kind).expect("a socket");
            for number in (1..=SERVICES).chain(1..=SERVICES) {
                let (to, label) = if ipv6 {
                    (format!("[fd00:96::{number:x}]:53"), format!("six-{number}"))
                } else {
                    (format!("10.96.0.{number}:53"), format!("four-{number}"))
                };
                let sent = peer.send_to(socket, &to, "x").expect("an outcome");
                assert_eq!(sent.failure, None, "{to}");
                let answer = peer.receive(socket).expect("an answer");
                assert_eq!(answer.peer, Some(address(&to)));
                assert_eq!(answer.answered(), label);
            }
        }
        // Each socket remembers eight; of 24 flows on each, 16 displaced another.
        assert_eq!(
            mesh.status().losses.udp_flows_displaced,
            16 * families as u64
        );
    });
}
