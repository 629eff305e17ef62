//! Two nodes with a service that is called across: what tests of the tunnel are about.

use std::time::{Duration, Instant};

use crate::authority::Authority;
use crate::hosts::{Host, two};
use crate::names::{CHECKOUT, PAYMENTS, VIP, address, callers};
use crate::observe::until;
use crate::patience::scaled;
use crate::peer::{After, Dial, Peer, Socket};

/// How long a connection may outlive what allowed it.
pub const AT_MOST: Duration = Duration::from_secs(1);
/// What checkout may call on the other node.
pub const ENDPOINT: &str = "127.0.0.1:8082";
/// Both nodes.
pub const NODES: &str = r#"
[[node]]
name = "edge-1"
address = "10.7.0.1"

[[node]]
name = "edge-2"
address = "10.7.0.2"
"#;
/// Services, of which payments is on the second node.
pub const SERVICES: &str = concat!(
    "\n",
    callers!(),
    r#"[[service]]
name = "ledger"
namespace = "shop"
ports = [{ name = "http", listen = 80 }]
workload = { systemd = "ledger.service" }
endpoints = [{ address = "127.0.0.1:9999", node = "edge-2" }]

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "http", listen = 80 }]
workload = { systemd = "payments.service" }
endpoints = [{ address = "127.0.0.1:8082", version = "v2", node = "edge-2" }]
"#
);
/// Who may call.
pub const ALLOW: &str = r#"
[[allow]]
name = "checkout-pays"
from = ["shop/checkout"]
to = ["shop/payments"]
"#;
/// Beats it.
pub const DENY: &str = r#"
[[deny]]
name = "no-more"
from = ["shop/checkout"]
to = ["shop/payments"]
"#;
/// Certificates of the first host; the serial number of checkout's comes first.
pub const HERE: [&str; 4] = [
    "shop/checkout",
    "dev/intruder",
    "node edge-1",
    "shop/ledger",
];
/// Those of the second.
pub const THERE: [&str; 3] = ["shop/payments", "shop/ledger", "node edge-2"];
/// Serial number of checkout's certificate.
pub const CHECKOUT_SERIAL: u64 = 100;
/// Serial number of payments'.
pub const PAYMENTS_SERIAL: u64 = 200;

/// The whole policy.
pub fn policy() -> String {
    [NODES, SERVICES, ALLOW].concat()
}

/// Two hosts with agents: callers on the first, payments on the second.
#[derive(Debug)]
pub struct Nodes {
    /// Where checkout is, which may call, and intruder, which may not.
    pub here: Host,
    /// Where payments is.
    pub there: Host,
    /// Whom both trust.
    pub authority: Authority,
    /// In its cgroup on the first node.
    pub checkout: Peer,
    /// Serves at [`ENDPOINT`] of the second node.
    pub payments: Peer,
}

impl Nodes {
    /// With the right certificates and policy on both.
    ///
    /// # Panics
    ///
    /// Something does not start.
    pub fn start() -> Self {
        Self::with(&policy(), &policy())
    }

    /// With a policy on each.
    ///
    /// # Panics
    ///
    /// Something does not start.
    pub fn with(here_says: &str, there_says: &str) -> Self {
        Self::prepared(here_says, there_says, |_, _, _| {})
    }

    /// With other certificates than the right ones.
    ///
    /// # Panics
    ///
    /// Something does not start.
    pub fn certified(prepare: impl FnOnce(&Authority, &Host, &Host)) -> Self {
        Self::prepared(&policy(), &policy(), prepare)
    }

    fn prepared(
        here_says: &str,
        there_says: &str,
        prepare: impl FnOnce(&Authority, &Host, &Host),
    ) -> Self {
        let [mut here, mut there] = two().expect("two hosts");
        let authority = Authority::new("root").expect("an authority");
        here.certify(&authority, &HERE, CHECKOUT_SERIAL)
            .expect("certificates");
        there
            .certify(&authority, &THERE, PAYMENTS_SERIAL)
            .expect("certificates");
        prepare(&authority, &here, &there);
        for (host, policy) in [(&mut here, here_says), (&mut there, there_says)] {
            host.write_policy(policy).expect("a policy");
            host.start();
        }
        let checkout = here.peer(CHECKOUT);
        let mut payments = there.peer(PAYMENTS);
        payments.serve_tcp(ENDPOINT, "v2").expect("served");
        let mut mesh = Self {
            here,
            there,
            authority,
            checkout,
            payments,
        };
        mesh.warm_up();
        mesh
    }

    /// Waits until calls are taken: listeners are opened where callers are.
    fn warm_up(&mut self) {
        let checkout = &mut self.checkout;
        until(Duration::from_secs(10), "calls are taken", || {
            call(checkout) != Err("EPERM".into())
        });
    }

    /// Panics unless a call is answered.
    #[track_caller]
    pub fn is_open(&mut self) {
        let answer = call(&mut self.checkout);
        let (here, there) = (self.here.log(), self.there.log());
        assert_eq!(answer, Ok("v2".into()), "{here}\n{there}");
    }
}

/// Calls the VIP: who answered, or the error's name.
///
/// # Errors
///
/// The call fails.
pub fn call(peer: &mut Peer) -> Result<String, String> {
    call_to(peer, VIP)
}

/// The same to any address.
///
/// # Errors
///
/// The call fails.
///
/// # Panics
///
/// The peer has ended.
pub fn call_to(peer: &mut Peer, to: &str) -> Result<String, String> {
    let dial = Dial::tcp(address(to)).then(After::Close);
    let outcome = peer.dial_once(dial).expect("an outcome");
    match outcome.failure {
        Some(failure) => Err(failure.errno),
        None => Ok(outcome.label.unwrap_or_default()),
    }
}

/// A flow that is kept.
///
/// # Panics
///
/// It is refused.
#[track_caller]
pub fn keep(peer: &mut Peer) -> Socket {
    let dial = Dial::tcp(address(VIP)).then(After::Keep);
    let outcome = peer.dial_once(dial).expect("an outcome");
    assert_eq!(outcome.failure, None, "{outcome:?}");
    outcome.socket.expect("kept")
}

/// Whether a flow still carries what is said.
///
/// # Panics
///
/// The peer has ended.
pub fn is_alive(peer: &mut Peer, socket: Socket) -> bool {
    let said = peer.exchange(&[socket], "still").expect("an outcome");
    said.iter().all(|outcome| outcome.failure.is_none())
}

/// Waits until a flow is cut, and holds that against [`AT_MOST`].
///
/// # Panics
///
/// It takes longer.
#[track_caller]
pub fn is_cut_in_time(peer: &mut Peer, socket: Socket, since: Instant) {
    until(Duration::from_secs(5), "cut", || !is_alive(peer, socket));
    let took = since.elapsed();
    assert!(took < scaled(AT_MOST), "{took:?}");
}
