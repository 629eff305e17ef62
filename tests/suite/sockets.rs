//! Kinds of sockets that go around the other hooks.

use std::fs;

use mesh_tests::host;
use mesh_tests::mesh::{Call, Decision, Mesh};
use mesh_tests::names::{CHECKOUT, HOST};
use mesh_tests::peer::{Peer, Request};

const POLICY: &str = r#"
[mesh]
default = "deny"

[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout.service" }
"#;

const STREAM: u32 = 1;
const DATAGRAM: u32 = 2;
const RAW: u32 = 3;

/// Name in `[sockets] allow`, type and protocol, and how a record tells of it.
const KINDS: [(&str, bool, u32, u32, &str, &str); 9] = [
    ("raw", false, RAW, 17, "raw socket", "udp"),
    ("raw", false, RAW, 255, "raw socket", "255"),
    ("raw", true, RAW, 6, "raw socket", "tcp"),
    ("ping", false, DATAGRAM, 1, "datagram socket", "icmp"),
    ("ping", true, DATAGRAM, 58, "datagram socket", "icmpv6"),
    ("mptcp", false, STREAM, 262, "stream socket", "mptcp"),
    (
        "udplite",
        false,
        DATAGRAM,
        136,
        "datagram socket",
        "udplite",
    ),
    ("sctp", false, STREAM, 132, "stream socket", "sctp"),
    ("smc", false, STREAM, 256, "stream socket", "smc"),
];

fn make(peer: &mut Peer, ipv6: bool, kind: u32, protocol: u32) -> Option<String> {
    let request = Request::Make {
        ipv6,
        kind,
        protocol,
    };
    peer.ask(&request).expect("an answer")
}

/// Lets everybody make ping sockets here, as distributions do.
fn let_everybody_ping() {
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")
        .expect("a setting of this network namespace");
}

#[test]
fn services_get_tcp_and_udp_only() {
    host::run("kinds", |sandbox| {
        let_everybody_ping();
        let mut mesh = Mesh::start(sandbox, POLICY);
        let (mut checkout, mut stranger) = (mesh.peer(CHECKOUT), mesh.peer(HOST));
        let mut known = 0;
        for (name, ipv6, kind, protocol, what, called) in KINDS {
            let without = make(&mut stranger, ipv6, kind, protocol);
            let refused = make(&mut checkout, ipv6, kind, protocol);
            if without.is_some() {
                // This kernel lacks it, and says so to everybody.
                assert_eq!(refused, without, "{name}");
                continue;
            }
            known += 1;
            assert_eq!(refused.as_deref(), Some("EPERM"), "{name}");
            let decision = Decision::of_reason("socket-kind", "shop/checkout", "-");
            let call = Call {
                protocol: called.into(),
                ..Call::tcp(what)
            };
            mesh.expect_record(decision, call.at("sock_create").from_cgroup(CHECKOUT));
        }
        assert!(known >= 5, "raw and ping sockets are everywhere: {known}");
        for (ipv6, kind, protocol) in [(false, STREAM, 6), (true, STREAM, 0), (true, DATAGRAM, 17)]
        {
            if !ipv6 || host::has_ipv6() {
                assert_eq!(make(&mut checkout, ipv6, kind, protocol), None);
            }
        }
        mesh.settle();
    });
}

#[test]
fn what_agent_toml_allows_is_allowed() {
    host::run("kinds-allowed", |sandbox| {
        let_everybody_ping();
        let settings = fs::read_to_string(sandbox.agent_toml()).expect("settings");
        let settings = settings + "[sockets]\nallow = [\"ping\", \"mptcp\"]\n";
        fs::write(sandbox.agent_toml(), settings).expect("a file");
        let mut mesh = Mesh::start(sandbox, POLICY);
        let (mut checkout, mut stranger) = (mesh.peer(CHECKOUT), mesh.peer(HOST));
        for (name, ipv6, kind, protocol, what, called) in KINDS {
            let without = make(&mut stranger, ipv6, kind, protocol);
            let with = make(&mut checkout, ipv6, kind, protocol);
            if without.is_some() || matches!(name, "ping" | "mptcp") {
                assert_eq!(with, without, "{name}");
                continue;
            }
            assert_eq!(with.as_deref(), Some("EPERM"), "{name}");
            let decision = Decision::of_reason("socket-kind", "shop/checkout", "-");
            let call = Call {
                protocol: called.into(),
                ..Call::tcp(what)
            };
            mesh.expect_record(decision, call.at("sock_create").from_cgroup(CHECKOUT));
        }
        mesh.settle();
    });
}

#[test]
fn protocols_that_call_nobody_are_untouched() {
    host::run("icmp", |sandbox| {
        let_everybody_ping();
        // An endpoint that takes datagrams makes the server's side look at every datagram.
        let endpoint = r#"
[[service]]
name = "names"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "dns", listen = 53, protocol = "udp" }]
endpoints = [{ address = "127.0.0.1:8053", version = "v1" }]
"#;
        let mesh = Mesh::start(sandbox, &format!("{POLICY}{endpoint}"));
        let mut stranger = mesh.peer(HOST);
        for raw in [false, true] {
            let came: bool = stranger.ask(&Request::Echo { raw }).expect("an answer");
            assert!(came, "raw: {raw}");
        }
        mesh.settle();
    });
}
