//! Names that many tests use: cgroups as systemd lays them out, and addresses of the shop.

use std::net::SocketAddr;

use crate::peer::Dial;

/// Who calls: checkout, which may, and intruder, which may not.
macro_rules! callers {
    () => {
        r#"[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout.service" }

[[service]]
name = "intruder"
namespace = "dev"
workload = { systemd = "intruder.service" }

"#
    };
}
pub(crate) use callers;

/// Who calls, as a part of a policy.
pub const CALLERS: &str = callers!();

/// Cgroup of a service that calls.
pub const CHECKOUT: &str = "system.slice/checkout.service";
/// Cgroup of one that may not.
pub const INTRUDER: &str = "system.slice/intruder.service";
/// Cgroup of the service that is called.
pub const PAYMENTS: &str = "system.slice/payments.service";
/// Cgroup of no service.
pub const HOST: &str = "user.slice/user-1000.slice/session-1.scope";
/// What clients dial over TCP.
pub const VIP: &str = "10.96.0.10:80";
/// What clients dial over UDP.
pub const VIP_UDP: &str = "10.96.0.10:53";

/// The address that `text` is.
///
/// # Panics
///
/// It is none.
#[track_caller]
pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A TCP call to the address that `text` is.
///
/// # Panics
///
/// It is none.
#[track_caller]
pub fn tcp(text: &str) -> Dial {
    Dial::tcp(address(text))
}
