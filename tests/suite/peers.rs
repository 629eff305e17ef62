//! The peers that the other suites rely on, without a mesh.

use std::net::{Ipv4Addr, SocketAddr};

use mesh_tests::host;
use mesh_tests::peer::{After, Dial, Kind, Options, Outcome, Peer, Request, Way};

const TFO: &str = "echo 1543 > /proc/sys/net/ipv4/tcp_fastopen";

#[test]
fn every_way_to_connect_reaches_an_echo_server() {
    host::run("peers", |sandbox| {
        host::sh(TFO);
        let mut server = Peer::spawn(&sandbox.cgroup, "server").expect("a server");
        let tcp = server.serve_tcp(&host::anywhere(0), "v1").expect("tcp");
        let udp = server.serve_udp(&host::anywhere(0), "v2").expect("udp");
        let mut client = Peer::spawn(&sandbox.cgroup, "client").expect("a client");
        let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        for way in [
            Way::Connect,
            Way::NonBlocking,
            Way::FastOpen,
            Way::FastOpenConnect,
            Way::Uring,
            Way::UringAsync,
            Way::UringPolled,
        ] {
            let to = local(tcp.port());
            let outcome = client.dial_once(Dial::tcp(to).by(way)).expect("an outcome");
            assert_eq!(outcome.answered(), "v1", "{way:?}: {outcome:?}");
            assert_eq!(outcome.peer, Some(to), "{way:?}");
        }
        for way in [Way::Connect, Way::SendTo, Way::UringSendTo, Way::Uring] {
            let to = local(udp.port());
            let outcome = client.dial_once(Dial::udp(to).by(way)).expect("an outcome");
            assert_eq!(outcome.answered(), "v2", "{way:?}: {outcome:?}");
            assert_eq!(outcome.peer, Some(to), "{way:?}");
        }
        let mapped = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), tcp.port());
        if host::can_dial(&mapped) {
            let outcome = client.dial_once(Dial::tcp(mapped)).expect("an outcome");
            assert_eq!(outcome.peer, Some(mapped), "{outcome:?}");
        }
        let refused = client.dial_once(Dial::tcp(local(1))).expect("an outcome");
        assert_eq!(refused.errno(), Some("ECONNREFUSED"));
        let child: Vec<Outcome> = client
            .ask(&Request::DialFromChild(Dial::tcp(local(tcp.port()))))
            .expect("a child");
        assert_eq!(child[0].answered(), "v1");
        assert_eq!(
            server.served().expect("a number"),
            12 + u64::from(host::has_ipv6())
        );
    });
}

#[test]
fn thousands_of_connections_are_held() {
    host::run("held", |sandbox| {
        let mut server = Peer::spawn(&sandbox.cgroup, "server").expect("a server");
        let address = server.serve_tcp("127.0.0.1:0", "v1").expect("tcp");
        let mut client = Peer::spawn(&sandbox.cgroup, "client").expect("a client");
        let dial = Dial::tcp(address).times(3000).then(After::Keep);
        let outcomes = client.dial(dial).expect("outcomes");
        let sockets: Vec<_> = outcomes.iter().filter_map(|it| it.socket).collect();
        assert_eq!(sockets.len(), 3000);
        let later = client.exchange(&sockets, "still there").expect("outcomes");
        assert!(later.iter().all(|it| it.answered() == "v1"));
    });
}

#[test]
fn sockets_can_be_kept_passed_and_reconnected() {
    host::run("passed", |sandbox| {
        let mut server = Peer::spawn(&sandbox.cgroup, "server").expect("a server");
        let one = server.serve_tcp("127.0.0.1:0", "one").expect("tcp");
        let two = server.serve_tcp("127.0.0.1:0", "two").expect("tcp");
        let mut maker = Peer::spawn(&sandbox.cgroup, "maker").expect("a peer");
        let mut user = Peer::spawn(&sandbox.cgroup, "user").expect("a peer");
        let inbox = sandbox.path("inbox");
        user.ask::<()>(&Request::Inbox(inbox.clone()))
            .expect("an inbox");
        let socket = maker.open(Kind::default()).expect("a socket");
        maker
            .ask::<()>(&Request::Pass { socket, inbox })
            .expect("passed");
        let socket = user.ask(&Request::Take).expect("taken");
        let outcome = user.connect(socket, &one.to_string(), "x").expect("one");
        assert_eq!(outcome.answered(), "one");
        user.ask::<()>(&Request::Disconnect(socket))
            .expect("disconnected");
        let outcome = user.connect(socket, &two.to_string(), "x").expect("two");
        assert_eq!(outcome.answered(), "two");
        assert_eq!(outcome.peer, Some(two));
    });
}

#[test]
fn a_peer_is_somebody_else_in_a_place_of_its_own() {
    host::run("places", |sandbox| {
        let mut server = Peer::spawn(&sandbox.cgroup, "server").expect("a server");
        let address = server.serve_tcp("127.0.0.1:0", "v1").expect("tcp");
        let elsewhere = sandbox.cgroup.child("elsewhere").expect("a cgroup");
        let options = Options {
            user: Some((65_534, 65_534)),
            own_netns: true,
        };
        let mut client = Peer::spawn_at(&elsewhere, options).expect("a client");
        let outcome = client.dial_once(Dial::tcp(address)).expect("an outcome");
        assert_eq!(outcome.errno(), Some("ECONNREFUSED"));
        let pids = std::fs::read_to_string(elsewhere.join("cgroup.procs")).expect("readable");
        assert_eq!(pids.trim(), client.pid().to_string());
        let status = std::fs::read_to_string(format!("/proc/{}/status", client.pid()));
        assert!(status.expect("readable").contains("Uid:\t65534\t65534"));
    });
}
