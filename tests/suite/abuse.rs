//! Somebody on the wire who means harm: half handshakes by the thousand.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use mesh_tests::hosts::EDGE_2;
use mesh_tests::nodes::{Nodes, call, keep};
use mesh_tests::patience::scaled;
use mesh_tests::peer::{Peer, Socket};
use mesh_tests::{host, netns};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many handshakes are begun and not ended.
const HALF: usize = 10_000;
/// Addresses they come from in the second half.
const SOURCES: usize = 1000;
/// The beginning of a ClientHello (RFC 8446, section 4.1.2), the rest of which never comes.
const BEGINNING: [u8; 11] = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
/// What the agent may need for all of that, KiB.
const ROOM: u64 = 8 * 1024;

/// The address number so and so of the attacker.
fn source(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a09_0001 + (number % SOURCES) as u32)
}

/// Begins a handshake from `from`.
fn half_handshake(from: Ipv4Addr) -> Result<OwnedFd> {
    let to = SocketAddr::from((EDGE_2, 15008));
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    bind(&socket, &SocketAddr::from((from, 0)))?;
    // It goes on in the background.
    let _ = connect(&socket, &to);
    Ok(socket)
}

/// Says the beginning of a ClientHello on those that are connected.
fn say(sockets: Vec<OwnedFd>) -> Vec<TcpStream> {
    let mut streams: Vec<TcpStream> = sockets.into_iter().map(TcpStream::from).collect();
    for stream in &mut streams {
        // Some are refused already.
        let _ = stream.write_all(&BEGINNING);
    }
    streams
}

/// Resident memory of a process, KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

/// The time that the slowest but two of 200 exchanges on a flow took.
fn slowest(peer: &mut Peer, socket: Socket) -> Duration {
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let began = Instant::now();
            let said = peer.exchange(&[socket], "hello").expect("an answer");
            assert!(said.iter().all(|outcome| outcome.failure.is_none()));
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[197]
}

#[test]
fn ten_thousand_half_handshakes_hurt_nobody() {
    host::run_for(Duration::from_secs(120), "abuse", |_| {
        let limit = getrlimit(Resource::Nofile);
        let enough = Some(HALF as u64 + 1000);
        let raised = Rlimit {
            current: enough.max(limit.current),
            maximum: enough.max(limit.maximum),
        };
        setrlimit(Resource::Nofile, raised).expect("descriptors");
        let mut nodes = Nodes::start();
        nodes.is_open();
        let flow = keep(&mut nodes.checkout);
        let way = || {
            netns::ip("route add local 10.9.0.0/16 dev lo")?;
            netns::ip("address add 10.9.0.1/32 dev wire")
        };
        nodes.here.namespace.run(way).expect("addresses");
        let back = || netns::ip("route add 10.9.0.0/16 via 10.7.0.1");
        nodes.there.namespace.run(back).expect("a way back");
        let pid = nodes.there.agent.as_ref().expect("an agent").pid();
        let calm = slowest(&mut nodes.checkout, flow);
        let before = resident(pid);
        let attack = || {
            let from = |number| {
                if number < HALF / 2 {
                    source(0)
                } else {
                    source(number)
                }
            };
            let sockets = (0..HALF).map(|number| half_handshake(from(number)));
            Ok(say(sockets.flatten().collect()))
        };
        let streams = nodes.here.namespace.run(attack).expect("begun");
        assert!(streams.len() > HALF * 9 / 10, "{}", streams.len());
        let busy = slowest(&mut nodes.checkout, flow);
        assert_eq!(call(&mut nodes.checkout), Ok("v2".into()), "a new flow");
        let grown = resident(pid).saturating_sub(before);
        assert!(grown < ROOM, "{grown} KiB more");
        // No handshake that never ends (4 s) is waited for. How much slower flows become is for
        // the benchmarks to say.
        let limit = scaled(Duration::from_millis(500));
        assert!(busy < limit, "{calm:?}, then {busy:?}");
        let away = |cause| [("cause", cause)];
        let turned = "mesh_tunnel_turned_away_total";
        nodes
            .there
            .counts(turned, &away("handshakes-of-source"), |value| value > 0.0);
        nodes
            .there
            .counts(turned, &away("handshakes"), |value| value > 0.0);
        drop(streams);
        nodes.is_open();
    });
}
