//! Connections between nodes: one TLS 1.3 connection carries one flow at a time.
//!
//! The engine only: who may do what is decided by who uses it. A worker is one thread with a
//! current-thread runtime and a `LocalSet`, and shares nothing with other workers, so nothing
//! here is `Send` but the counters.
//!
//! - A caller's side: [`Pool::open`] gives a [`Session`] with a flow, [`Session::relay`] carries
//!   it, [`Pool::put`] takes the session back.
//! - A workload's side: [`Admission::admit`], [`Session::accept`], then [`Session::next_open`],
//!   which is answered by [`Session::refuse`] or carried by [`Session::relay`], again and again.
//! - [`Control`] cuts or drains a session from outside of its task.
//!
//! The protocol is `docs/mesh1.md`, in [`wire`].

mod admission;
mod broken;
mod chains;
mod control;
mod dial;
mod link;
mod outgoing;
mod pool;
mod relay;
mod scratch;
mod session;
mod socket;
mod tap;
#[cfg(test)]
mod testing;
mod tls;
pub mod wire;

pub use self::admission::{Admission, AdmissionCounters, AdmissionLimits, Admitted, Handshaking};
pub use self::broken::Broken;
pub use self::chains::Chain;
pub use self::control::Control;
pub use self::dial::{DialError, Peer};
pub use self::pool::{OpenError, Pool, PoolCounters, PoolLimits};
pub use self::relay::{End, Outcome, Relay};
pub use self::session::{Accepted, Client, NotOpened, Role, Server, Session};
pub use self::tap::Tap;
pub use self::tls::HandshakeError;
