//! What the policy declares of services, as far as observers want to know it.

use std::net::IpAddr;
use std::sync::Arc;

/// A service of the policy in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declared {
    /// Its name, `namespace/name`.
    pub service: Arc<str>,
    /// Its SPIFFE id.
    pub identity: String,
    /// What clients dial.
    pub vip: Option<IpAddr>,
    /// Whether processes or endpoints of it are on this node.
    pub local: bool,
    /// Versions of its endpoints, in lexical order.
    pub versions: Vec<Arc<str>>,
}
