//! SPIFFE ids of services and nodes.
//!
//! Source: SPIFFE-ID (github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md), section 2.

use std::fmt;
use std::sync::Arc;

use crate::policy::model::ServiceName;

/// A member of the mesh, within a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// `/ns/<namespace>/sa/<name>`
    Service(ServiceName),
    /// `/node/<name>`: the local processes of no service on a node.
    Node(Arc<str>),
}

/// Why a URI is no [`Identity`] of a trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// It does not begin with `spiffe://<trust domain>/`.
    #[error("it is not in this trust domain")]
    TrustDomain,
    /// The path is neither a service's nor a node's.
    #[error("its path is neither /ns/<namespace>/sa/<name> nor /node/<name>")]
    Path,
}

impl Identity {
    /// What follows a node's name in its [`Self::readable_name`], and in the DNS name by which
    /// certificates name nodes.
    pub const NODE_SUFFIX: &str = ".node.mesh";

    /// Reads a SPIFFE id of `trust_domain`, byte for byte: nothing is decoded or folded, so there is one spelling of each.
    ///
    /// # Errors
    ///
    /// The URI is something else.
    pub fn parse(uri: &str, trust_domain: &str) -> Result<Self, InvalidIdentity> {
        let path = uri
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.strip_prefix(trust_domain))
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or(InvalidIdentity::TrustDomain)?;
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["ns", namespace, "sa", name] if is_segment(namespace) && is_segment(name) => {
                Ok(Self::Service(ServiceName {
                    namespace: namespace.into(),
                    name: name.into(),
                }))
            }
            ["node", name] if is_segment(name) => Ok(Self::Node(name.into())),
            _ => Err(InvalidIdentity::Path),
        }
    }

    /// The SPIFFE id in `trust_domain`.
    pub fn uri(&self, trust_domain: &str) -> String {
        match self {
            Self::Service(ServiceName { namespace, name }) => {
                format!("spiffe://{trust_domain}/ns/{namespace}/sa/{name}")
            }
            Self::Node(name) => format!("spiffe://{trust_domain}/node/{name}"),
        }
    }

    /// A name that people can read, for files and the like.
    ///
    /// Where dots in names leave open which part is the namespace, the number of dots in the
    /// service's own name follows: no two services have the same.
    pub fn readable_name(&self) -> String {
        match self {
            Self::Service(ServiceName { namespace, name }) => {
                let dots = name.matches('.').count();
                match dots + namespace.matches('.').count() {
                    0 => format!("{name}.{namespace}.svc.mesh"),
                    _ => format!("{name}.{namespace}.{dots}.svc.mesh"),
                }
            }
            Self::Node(name) => format!("{name}{}", Self::NODE_SUFFIX),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => name.fmt(f),
            Self::Node(name) => write!(f, "node {name}"),
        }
    }
}

/// Whether this is a path segment of a SPIFFE id that is no `.` or `..`.
fn is_segment(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !text.is_empty() && text != "." && text != ".." && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_are_of_one_each() {
        let mut seen = std::collections::BTreeSet::new();
        let parts = [
            "a", "b", "1", "a.b", "b.1", "b.0", "a.b.1", "a.b.0", "b.a.0",
        ];
        for namespace in parts {
            for name in parts {
                let service = Identity::Service(ServiceName {
                    namespace: namespace.into(),
                    name: name.into(),
                });
                assert!(seen.insert(service.readable_name()), "{service}");
            }
        }
        assert!(seen.contains("b.a.svc.mesh") && seen.contains("a.b.a.1.svc.mesh"));
        let node = Identity::Node("edge-1".into());
        assert_eq!(node.readable_name(), "edge-1.node.mesh");
    }

    #[test]
    fn one_spelling_each() {
        for (uri, expected) in [
            ("spiffe://mesh.local/ns/shop/sa/cart", Ok("shop/cart")),
            ("spiffe://mesh.local/node/edge-1", Ok("node edge-1")),
            (
                "spiffe://mesh.local.evil/ns/shop/sa/cart",
                Err(InvalidIdentity::TrustDomain),
            ),
            (
                "spiffe://other/ns/shop/sa/cart",
                Err(InvalidIdentity::TrustDomain),
            ),
            (
                "SPIFFE://mesh.local/ns/shop/sa/cart",
                Err(InvalidIdentity::TrustDomain),
            ),
            (
                "spiffe://mesh.local/ns/shop/sa/cart/",
                Err(InvalidIdentity::Path),
            ),
            (
                "spiffe://mesh.local/ns/shop/sa/",
                Err(InvalidIdentity::Path),
            ),
            (
                "spiffe://mesh.local/ns/../sa/cart",
                Err(InvalidIdentity::Path),
            ),
            (
                "spiffe://mesh.local/ns/sh%6fp/sa/cart",
                Err(InvalidIdentity::Path),
            ),
            (
                "spiffe://mesh.local//ns/shop/sa/cart",
                Err(InvalidIdentity::Path),
            ),
            (
                "spiffe://mesh.local/node/edge-1?x",
                Err(InvalidIdentity::Path),
            ),
        ] {
            let parsed = Identity::parse(uri, "mesh.local");
            let shown = parsed
                .as_ref()
                .map(Identity::to_string)
                .map_err(|error| *error);
            assert_eq!(shown, expected.map(str::to_owned), "{uri}");
            if let Ok(identity) = parsed {
                assert_eq!(identity.uri("mesh.local"), uri);
            }
        }
    }
}
