//! Two hosts on one kernel: a network namespace, a cgroup subtree and an agent each, and a wire.
//!
//! checkout is on the first, as is version 1 of payments; version 2 is on the second. What must
//! hold: every hundredth call reaches version 2, nobody on the wire can read it, and whoever is
//! not checkout gets nowhere.

mod authority;
mod edge;
mod wire;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;

use self::authority::Authority;
use self::edge::{Edge, Plan};
use self::wire::{Capture, Seen};
use super::calls::Calls;
use super::{INTRUSIONS, POLICY, POLICY_FILE, VIP};
use crate::netns::{self, Namespace};

const NAMES: [&str; 2] = ["edge-1", "edge-2"];
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 88, 0, 1), Ipv4Addr::new(10, 88, 0, 2)];
/// Version of payments on each, and its port there.
const PAYMENTS: [(&str, u16); 2] = [("v1", 8081), ("v2", 8082)];
/// One of so many calls goes to version 2.
const CANARY: u64 = 100;
/// Where agents listen for each other.
const TUNNEL_PORT: u16 = 15008;
/// How long somebody on the wire waits for anything.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends `requests` from checkout; whether all went as it should.
pub(super) fn perform(requests: u64) -> Result<bool> {
    let [first, second] = set_up()?;
    println!("edge-1     {}: agent, checkout, payments v1", ADDRESSES[0]);
    println!("edge-2     {}: agent, payments v2\n", ADDRESSES[1]);
    let capture = Capture::start(&second.namespace, &second.sandbox.path("wire.pcap"))?;
    let paying = first.call("checkout", VIP, requests)?;
    let intruding = first.call("intruder", VIP, INTRUSIONS)?;
    let seen = capture.finish()?;
    // It sends readable text itself, so nobody listens any more.
    let on_the_wire = [TUNNEL_PORT, PAYMENTS[0].1].map(|port| (ADDRESSES[0], port).into());
    let got = second
        .namespace
        .run(|| Ok(on_the_wire.map(bytes_for_a_stranger)))?;
    Ok(tell(requests, &paying, &seen, &intruding, got.iter().sum()))
}

fn set_up() -> Result<[Edge; 2]> {
    let (first, second) = (Namespace::new()?, Namespace::new()?);
    netns::wire([&first, &second], ADDRESSES)?;
    let policy = policy();
    let authority = Authority::new()?;
    let plan = |number: usize| Plan {
        name: NAMES[number],
        address: ADDRESSES[number],
        policy: &policy,
        authority: &authority,
        payments: (
            PAYMENTS[number].0,
            (Ipv4Addr::LOCALHOST, PAYMENTS[number].1).into(),
        ),
    };
    Ok([Edge::start(first, plan(0))?, Edge::start(second, plan(1))?])
}

/// The example, the same for both, with its endpoints on one node each.
fn policy() -> String {
    let mut policy = POLICY.to_owned();
    for ((name, address), (version, _)) in NAMES.iter().zip(ADDRESSES).zip(PAYMENTS) {
        let endpoint = format!("version = \"{version}\"");
        policy = policy.replace(&endpoint, &format!("{endpoint}, node = \"{name}\""));
        policy += &format!("\n[[node]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    policy
}

/// How many bytes of an answer a process gets that has no certificate and that no agent knows.
fn bytes_for_a_stranger(to: SocketAddr) -> usize {
    let mut answer = Vec::new();
    if let Ok(mut stream) = TcpStream::connect_timeout(&to, PATIENCE) {
        // Being cut off is as good as being ignored.
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: payments.shop\r\n\r\n");
        let _ = stream.read_to_end(&mut answer);
    }
    // A TLS alert says no.
    let is_alert = answer.first() == Some(&21);
    if is_alert { 0 } else { answer.len() }
}

/// Prints what came of it; whether it is what it should be.
fn tell(requests: u64, paying: &Calls, seen: &Seen, intruding: &Calls, got: usize) -> bool {
    let answered = |version: &str| paying.answers.get(version).copied().unwrap_or_default();
    let (v1, v2) = (answered("v1"), answered("v2"));
    let whole = v1 + v2 == requests && v2 == requests / CANARY;
    let mut shares = format!("{v1} answered by v1 on edge-1, {v2} by v2 on edge-2");
    for (why, count) in paying.refused.iter().chain(&paying.failed) {
        shares += &format!("; {count} not at all: {why}");
    }
    let secret = seen.packets > 0 && seen.readable.is_empty();
    let (packets, bytes) = (seen.packets, seen.bytes);
    let mut crossed = format!("{packets} packets, {bytes} bytes");
    for word in &seen.readable {
        crossed += &format!("; {word:?} can be read");
    }
    let kept_out = intruding.answers.is_empty();
    let refusals = intruding.unanswered();
    let findings = [
        ("checkout", shares, whole),
        ("wire", crossed, secret),
        (
            "intruder",
            format!("{refusals} of {INTRUSIONS} calls refused"),
            kept_out,
        ),
        (
            "stranger",
            format!("{got} bytes for somebody on the wire"),
            got == 0,
        ),
    ];
    for (what, found, right) in &findings {
        let verdict = if *right {
            "as it should be"
        } else {
            "NOT as it should be"
        };
        println!("{what:<10} {found}: {verdict}");
    }
    findings.iter().all(|(_, _, right)| *right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_on_a_node() {
        let policy = policy();
        assert_eq!(policy.matches(", node = \"edge-").count(), 2);
        assert_eq!(policy.matches("[[node]]").count(), 2);
    }
}
