//! Connections between nodes: one TLS 1.3 connection carries one flow at a time.

mod admission;
mod broken;
mod control;
mod dial;
mod link;
mod outgoing;
mod relay;
mod scratch;
mod session;
mod socket;
#[cfg(test)]
mod testing;
mod tls;
pub mod wire;

pub use self::admission::{Admission, AdmissionCounters, AdmissionLimits, Admitted, Handshaking};
pub use self::broken::Broken;
pub use self::control::Control;
pub use self::dial::{DialError, Peer};
pub use self::relay::{End, Outcome, Relay};
pub use self::session::{Accepted, Client, NotOpened, Role, Server, Session};
pub use self::tls::HandshakeError;
