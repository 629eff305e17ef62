//! A small mesh that many tests are about: checkout may call payments, intruder may not.

use std::io;
use std::net::SocketAddr;

use crate::names::callers;
use crate::peer::{After, Dial, Peer};
use crate::sandbox::Sandbox;

pub use crate::names::VIP;
/// Where payments listens.
pub const ENDPOINT: &str = "127.0.0.1:8081";
/// Name of the policy's file.
pub const FILE: &str = "10-shop.toml";
/// The policy.
pub const POLICY: &str = concat!(
    "\n",
    callers!(),
    r#"[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "http", listen = 80 }]
workload = { systemd = "payments.service" }
endpoints = [{ address = "127.0.0.1:8081", version = "v1" }]

[[allow]]
name = "checkout-pays"
from = ["shop/checkout"]
to = ["shop/payments"]
"#
);
/// A rule that lets intruder in as well.
pub const OPEN: &str = r#"
[[allow]]
name = "intruder-too"
from = ["dev/intruder"]
to = ["shop/payments"]
"#;

/// The processes.
#[derive(Debug)]
pub struct Shop {
    /// Serves at [`ENDPOINT`] as `v1`.
    pub payments: Peer,
    /// May call it.
    pub checkout: Peer,
    /// May not.
    pub intruder: Peer,
}

impl Shop {
    /// Writes the policy and starts the processes. The agent is not started.
    ///
    /// # Errors
    ///
    /// Something cannot be started.
    pub fn open(sandbox: &Sandbox) -> io::Result<Self> {
        sandbox.write_policy(FILE, POLICY)?;
        let peer =
            |unit: &str| Peer::spawn(&sandbox.cgroup, &format!("system.slice/{unit}.service"));
        let mut shop = Self {
            payments: peer("payments")?,
            checkout: peer("checkout")?,
            intruder: peer("intruder")?,
        };
        shop.payments.serve_tcp(ENDPOINT, "v1")?;
        Ok(shop)
    }

    /// Panics unless checkout is let in and intruder is not.
    #[track_caller]
    pub fn is_guarded(&mut self) {
        assert_eq!(dial(&mut self.checkout), Ok("v1".into()), "checkout");
        assert_eq!(dial(&mut self.intruder), Err("EPERM".into()), "intruder");
    }
}

/// A call to the VIP.
pub fn to_vip() -> Dial {
    Dial::tcp(SocketAddr::from(([10, 96, 0, 10], 80))).then(After::Abort)
}

/// Calls the VIP: who answered, or the error.
///
/// # Errors
///
/// The name of the error, such as `EPERM`.
pub fn dial(peer: &mut Peer) -> Result<String, String> {
    let outcome = peer
        .dial_once(to_vip())
        .map_err(|error| error.to_string())?;
    match outcome.failure {
        Some(failure) => Err(failure.errno),
        None => Ok(outcome.label.unwrap_or_default()),
    }
}
