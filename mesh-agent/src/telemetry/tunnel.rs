//! How connections between nodes are, for the status document and for metrics.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::time::unix_seconds;

/// How long before its end a certificate is a problem, seconds.
const SOON: f64 = 3.0 * 24.0 * 3600.0;

/// How connections between nodes are; counts since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TunnelView {
    /// Flows to other nodes that are open.
    pub outbound_flows: u64,
    /// Flows from other nodes that are open.
    pub inbound_flows: u64,
    /// Handshakes by role (`client`, `server`) and outcome (`ok`, `failed`).
    pub handshakes: BTreeMap<String, BTreeMap<String, u64>>,
    /// Connections to other nodes that were not made, by cause.
    pub dial_failures: BTreeMap<String, u64>,
    /// Connections of other hosts that were turned away before a handshake, by cause.
    pub turned_away: BTreeMap<String, u64>,
    /// Connections kept ready.
    pub pool: PoolView,
    /// Sessions that were cut because their peer is no longer trusted.
    pub sessions_revoked: u64,
    /// Flows that ended because the connection between the agents did.
    pub flows_broken: u64,
    /// Flows that were refused because there were too many.
    pub flows_refused: u64,
    /// Connections to a listener for redirected calls that nobody had redirected.
    pub strays: u64,
    /// Refusals that were counted and not recorded because there were too many.
    pub records_dropped: u64,
    /// Network namespaces whose calls to other nodes are taken.
    pub namespaces: u64,
    /// Network namespaces whose calls to other nodes are refused.
    pub namespaces_failed: u64,
    /// Certificates, roots and revocation lists, and when they end.
    pub certificates: Vec<CertificateView>,
    /// What is wrong, and what to do.
    pub problems: Vec<String>,
}

/// Connections kept ready.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolView {
    /// Flows that found one.
    pub hits: u64,
    /// Flows that did not.
    pub misses: u64,
    /// How many there are.
    pub idle: u64,
    /// How many were closed, by cause.
    pub closed: BTreeMap<String, u64>,
}

/// Something that ends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CertificateView {
    /// `own`, `root` or `crl`.
    pub kind: String,
    /// Whose.
    pub name: String,
    /// When, seconds since 1970.
    pub not_after_unix_seconds: f64,
}

impl TunnelView {
    /// What is wrong now.
    pub(super) fn problems(&self) -> Vec<String> {
        let now = unix_seconds(std::time::SystemTime::now());
        let ending = self
            .certificates
            .iter()
            .filter_map(|certificate| certificate.problem(now));
        self.problems.iter().cloned().chain(ending).collect()
    }
}

impl CertificateView {
    fn problem(&self, now: f64) -> Option<String> {
        let left = self.not_after_unix_seconds - now;
        let (what, remedy) = match &*self.kind {
            "crl" => ("the revocation list of", "publish a new one"),
            "root" => ("the root", "add its successor beside it"),
            _ => ("the certificate of", "renew it (mesh-agent ca renew)"),
        };
        let name = &self.name;
        if left <= 0.0 {
            Some(format!("{what} {name} has ended: {remedy}"))
        } else if left < SOON {
            let hours = (left / 3600.0).floor();
            Some(format!("{what} {name} ends in {hours} h: {remedy}"))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_soon_is_a_problem() {
        let of = |kind: &str, left: f64| {
            let view = CertificateView {
                kind: kind.into(),
                name: "shop/cart".into(),
                not_after_unix_seconds: 1000.0 + left,
            };
            view.problem(1000.0).unwrap_or_default()
        };
        for (kind, left, expected) in [
            ("own", 30.0 * 86400.0, ""),
            (
                "own",
                7200.5,
                "the certificate of shop/cart ends in 2 h: renew it (mesh-agent ca renew)",
            ),
            (
                "own",
                -1.0,
                "the certificate of shop/cart has ended: renew it (mesh-agent ca renew)",
            ),
            (
                "crl",
                -1.0,
                "the revocation list of shop/cart has ended: publish a new one",
            ),
        ] {
            assert_eq!(of(kind, left), expected);
        }
    }
}
