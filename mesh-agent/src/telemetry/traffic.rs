//! What one caller and one service have to do with each other, added up.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::{CONNECT_BUCKETS, REQUEST_BUCKETS, Verdict};

use super::series::{Count, Labels};
use super::snapshot::{
    Crossing, DecisionSeries, FlowSeries, RequestDurations, RequestSeries, Snapshot, Transport,
};

/// Who calls whom; a destination outside the mesh is [`OUTSIDE`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    pub(super) source: Arc<str>,
    pub(super) destination: Arc<str>,
}

/// What is not in the mesh, as a name.
pub(super) const OUTSIDE: &str = "outside";
/// What stands for pairs beyond the cap.
const OTHER: &str = "other";

impl Pair {
    fn new(source: &Arc<str>, destination: &Arc<str>) -> Self {
        let destination = match &**destination {
            "-" => OUTSIDE.into(),
            _ => destination.clone(),
        };
        Self {
            source: source.clone(),
            destination,
        }
    }
}

impl Labels for Pair {
    fn other(&self) -> Self {
        Self {
            source: OTHER.into(),
            destination: OTHER.into(),
        }
    }
}

/// Counts of a pair, since they began or over a while.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Traffic {
    /// TCP connections established and UDP flows begun.
    pub(super) opened: u64,
    /// Those of them that are UDP flows, whose end nobody tells.
    pub(super) udp: u64,
    /// TCP connections that ended.
    pub(super) closed: u64,
    /// Connections that were allowed and never established.
    pub(super) failed: u64,
    /// Calls that were denied.
    pub(super) denied: u64,
    /// Of `opened`, those that crossed the network by mTLS.
    pub(super) tls: u64,
    /// Bytes from the caller; TCP only.
    pub(super) sent_bytes: u64,
    /// Bytes to the caller; TCP only.
    pub(super) received_bytes: u64,
    /// Connect times by bucket.
    pub(super) connects: [u64; CONNECT_BUCKETS],
    /// `None` where no requests are measured.
    pub(super) requests: Option<Box<Requests>>,
}

/// Requests of a pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Requests {
    pub(super) total: u64,
    pub(super) errors: u64,
    /// Durations by bucket.
    pub(super) durations: [u64; REQUEST_BUCKETS],
}

impl Traffic {
    /// What was counted since `before`. A counter that is lower now has begun anew.
    pub(super) fn since(&self, before: &Self) -> Self {
        self.with(before, |now, then| now.checked_sub(then).unwrap_or(now))
    }

    /// TCP connections that are established.
    pub(super) fn open(&self) -> u64 {
        self.opened.saturating_sub(self.udp + self.closed)
    }

    fn with(&self, other: &Self, f: impl Fn(u64, u64) -> u64 + Copy) -> Self {
        let none = Requests::default();
        let requests = match (&self.requests, &other.requests) {
            (None, None) => None,
            (mine, theirs) => {
                let mine = mine.as_deref().unwrap_or(&none);
                Some(Box::new(mine.with(theirs.as_deref().unwrap_or(&none), f)))
            }
        };
        Self {
            opened: f(self.opened, other.opened),
            udp: f(self.udp, other.udp),
            closed: f(self.closed, other.closed),
            failed: f(self.failed, other.failed),
            denied: f(self.denied, other.denied),
            tls: f(self.tls, other.tls),
            sent_bytes: f(self.sent_bytes, other.sent_bytes),
            received_bytes: f(self.received_bytes, other.received_bytes),
            connects: zip(&self.connects, &other.connects, f),
            requests,
        }
    }
}

impl Requests {
    fn with(&self, other: &Self, f: impl Fn(u64, u64) -> u64 + Copy) -> Self {
        Self {
            total: f(self.total, other.total),
            errors: f(self.errors, other.errors),
            durations: zip(&self.durations, &other.durations, f),
        }
    }
}

fn zip<const N: usize>(a: &[u64; N], b: &[u64; N], f: impl Fn(u64, u64) -> u64) -> [u64; N] {
    std::array::from_fn(|at| f(a[at], b[at]))
}

impl Count for Traffic {
    fn add(&mut self, other: &Self) {
        *self = self.with(other, |a, b| a + b);
    }
}

impl From<&FlowSeries> for Traffic {
    fn from(flow: &FlowSeries) -> Self {
        let stats = &flow.stats;
        if flow.protocol == Transport::Udp {
            return Self {
                opened: stats.opened,
                udp: stats.opened,
                ..Self::default()
            };
        }
        Self {
            opened: stats.opened,
            closed: stats.closed,
            failed: stats.failed,
            tls: match flow.crossing {
                Crossing::None => 0,
                Crossing::Outbound | Crossing::Inbound => stats.opened,
            },
            sent_bytes: stats.sent_bytes,
            received_bytes: stats.received_bytes,
            connects: stats.connect_buckets,
            ..Self::default()
        }
    }
}

impl From<&DecisionSeries> for Traffic {
    fn from(decision: &DecisionSeries) -> Self {
        Self {
            denied: decision.count,
            ..Self::default()
        }
    }
}

impl From<&RequestSeries> for Traffic {
    fn from(series: &RequestSeries) -> Self {
        Self {
            requests: Some(Box::new(Requests {
                total: series.count,
                errors: if series.is_error() { series.count } else { 0 },
                ..Requests::default()
            })),
            ..Self::default()
        }
    }
}

impl From<&RequestDurations> for Traffic {
    fn from(durations: &RequestDurations) -> Self {
        Self {
            requests: Some(Box::new(Requests {
                durations: durations.buckets,
                ..Requests::default()
            })),
            ..Self::default()
        }
    }
}

/// Everything in a snapshot that is between two, added up by pair.
pub(super) fn pairs(snapshot: &Snapshot) -> BTreeMap<Pair, Traffic> {
    let mut pairs = BTreeMap::<Pair, Traffic>::new();
    let mut add = |source, destination, traffic: Traffic| {
        let pair = Pair::new(source, destination);
        pairs.entry(pair).or_default().add(&traffic);
    };
    for flow in &snapshot.flows {
        add(&flow.source_service, &flow.destination_service, flow.into());
    }
    let denied = |decision: &&DecisionSeries| decision.verdict == Verdict::Denied;
    for decision in snapshot.decisions.iter().filter(denied) {
        let (source, destination) = (&decision.source_service, &decision.destination_service);
        add(source, destination, decision.into());
    }
    for series in &snapshot.requests {
        let route = &series.route;
        let (source, destination) = (&route.source_service, &route.destination_service);
        add(source, destination, series.into());
    }
    for durations in &snapshot.request_durations {
        let route = &durations.route;
        let (source, destination) = (&route.source_service, &route.destination_service);
        add(source, destination, durations.into());
    }
    pairs
}
