//! What the kernel has decided so far, as `suggest` reads it.

use serde::{Deserialize, Serialize};

use super::denials::DenialView;
use super::snapshot::{DecisionSeries, Transport};

/// Version of the document's form.
pub const SCHEMA_VERSION: u32 = 1;

/// Decisions counted since they began to be, and the latest that were recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Since when the counters count, seconds since 1970.
    pub since_unix_seconds: f64,
    /// Every series.
    pub decisions: Vec<DecisionView>,
    /// The latest denials and would-be denials. Not all are recorded.
    pub recorded: Vec<DenialView>,
}

/// A series of decisions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DecisionView {
    /// `allowed`, `denied` or `would-deny`.
    pub verdict: String,
    /// Why, such as `policy`.
    pub reason: String,
    /// The rule that decided, `default`, or `-` where the reason is not policy.
    pub rule: String,
    /// Who called.
    pub source_service: String,
    /// Who was called; `-` outside the mesh.
    pub destination_service: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// How often.
    pub count: u64,
}

impl From<&DecisionSeries> for DecisionView {
    fn from(series: &DecisionSeries) -> Self {
        Self {
            verdict: series.verdict.name().into(),
            reason: series.reason.name().into(),
            rule: series.rule.to_string(),
            source_service: series.source_service.to_string(),
            destination_service: series.destination_service.to_string(),
            protocol: match series.protocol {
                Transport::Tcp => "tcp".into(),
                Transport::Udp => "udp".into(),
            },
            count: series.count,
        }
    }
}
