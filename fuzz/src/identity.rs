//! Identities, without what reads certificates.

#[path = "../../mesh-agent/src/identity/name.rs"]
mod name;

pub use name::{Identity, InvalidIdentity};
