//! Who a certificate says its holder is, and whether to believe it.
//!
//! Files -> what this node can prove and whom it trusts ([`Bundle`], replaced by a
//! [`Store`]) -> TLS configurations ([`client_config`], [`server_config`]). [`verify()`] judges the
//! chains of others; it can be asked again about a live connection whenever the trust changes.

mod bundle;
mod certificate;
mod digest;
mod name;
mod peer;
mod refusal;
mod revocation;
mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod trust;
mod verify;

pub use self::bundle::{Bundle, Expiry, ExpiryKind, Loaded, Own, Problem};
pub(crate) use self::certificate::sha256;
pub use self::certificate::{Facts, Fingerprint, Serial, Unreadable};
pub(crate) use self::digest::hex;
pub use self::name::{Identity, InvalidIdentity};
pub use self::peer::{Expected, Peer};
pub use self::refusal::{Refusal, refused_by_peer};
pub use self::store::{Changes, Reload, Store};
pub use self::tls::{ALPN, client_config, guest_config, server_config, server_name};
pub use self::trust::Trust;
pub use self::verify::{Role, verify};
