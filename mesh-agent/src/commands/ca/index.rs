//! What the authority remembers: `index.json`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::authority::seconds;
use crate::identity::{Identity, Serial};

/// The file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Index {
    pub(super) schema_version: u32,
    pub(super) trust_domain: Arc<str>,
    /// Number of the last revocation list.
    pub(super) crl_number: u64,
    pub(super) issued: Vec<Entry>,
}

/// A certificate that was issued. Times are seconds since 1970.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) serial: String,
    /// Its SPIFFE id.
    pub(super) identity: String,
    pub(super) node: Arc<str>,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
    /// Number of the root that issued it.
    pub(super) root: u32,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revoked: Option<u64>,
}

impl Index {
    pub(super) fn new(trust_domain: Arc<str>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            trust_domain,
            crl_number: 0,
            issued: Vec::new(),
        }
    }

    /// Forgets what expired long ago, so that the file does not grow for ever.
    pub(super) fn forget(&mut self) {
        let now = seconds(OffsetDateTime::now_utc());
        self.issued
            .retain(|entry| entry.not_after.saturating_add(REMEMBERED) >= now);
    }

    pub(super) fn find(&self, serial: &Serial) -> Option<&Entry> {
        let shown = serial.to_string();
        self.issued.iter().find(|entry| entry.serial == shown)
    }
}

impl Entry {
    pub(super) fn identity(&self, trust_domain: &str) -> Option<Identity> {
        Identity::parse(&self.identity, trust_domain).ok()
    }

    pub(super) fn state(&self, now: u64) -> &'static str {
        match self.revoked {
            Some(_) => "revoked",
            None if self.not_after < now => "expired",
            None => "valid",
        }
    }
}

pub(super) const SCHEMA_VERSION: u32 = 1;
/// Seconds after the end of a certificate: a year.
const REMEMBERED: u64 = 366 * 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expired_long_ago_is_forgotten() {
        let now = seconds(OffsetDateTime::now_utc());
        let entry = |serial: &str, not_after| Entry {
            serial: serial.into(),
            identity: "spiffe://mesh.local/node/edge-1".into(),
            node: "edge-1".into(),
            not_before: 0,
            not_after,
            root: 1,
            revoked: None,
        };
        let mut index = Index::new("mesh.local".into());
        index.issued = vec![
            entry("01", now - 367 * 86_400),
            entry("02", now - 86_400),
            entry("03", now),
        ];
        index.forget();
        let left: Vec<&str> = index.issued.iter().map(|entry| &*entry.serial).collect();
        assert_eq!(left, ["02", "03"]);
        assert_eq!(index.issued[0].state(now), "expired");
    }
}
