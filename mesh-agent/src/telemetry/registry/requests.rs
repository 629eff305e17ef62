//! Requests, held to the cap.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::REQUEST_BUCKETS;
use mesh_common::http::Unparsed;

use super::OTHER;
use crate::telemetry::series::{Cap, Count, Labels};
use crate::telemetry::snapshot::{RequestDurations, RequestRoute, RequestSeries, Snapshot};

/// Caps of what is told of requests.
#[derive(Debug)]
pub(super) struct Requests {
    answers: Cap<RequestLabels, u64>,
    durations: Cap<RequestRoute, Timing>,
    unparsed: Cap<UnparsedLabels, u64>,
}

/// Requests, ready to be rendered.
#[derive(Debug)]
pub(crate) struct RequestsView {
    pub(crate) answers: BTreeMap<RequestLabels, u64>,
    pub(crate) durations: BTreeMap<RequestRoute, Timing>,
    pub(crate) unparsed: BTreeMap<UnparsedLabels, u64>,
    /// Label sets that were folded.
    pub(crate) folded: u64,
}

impl Requests {
    pub(super) fn new(series: usize) -> Self {
        Self {
            answers: Cap::new(series),
            durations: Cap::new(series),
            unparsed: Cap::new(series),
        }
    }

    pub(super) fn view(&mut self, snapshot: &Snapshot) -> RequestsView {
        let answers = snapshot.requests.iter();
        let durations = snapshot.request_durations.iter();
        let unparsed = snapshot.unparsed.iter().map(|series| {
            let destination = Arc::clone(&series.destination_service);
            let reason = series.reason;
            let labels = UnparsedLabels {
                destination,
                reason,
            };
            (labels, series.count)
        });
        RequestsView {
            answers: self.answers.apply(answers.map(|r| (r.into(), r.count))),
            durations: self
                .durations
                .apply(durations.map(|d| (d.route.clone(), d.into()))),
            unparsed: self.unparsed.apply(unparsed),
            folded: self.answers.dropped() + self.durations.dropped() + self.unparsed.dropped(),
        }
    }
}

/// Labels of requests that were answered in one way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestLabels {
    pub(crate) route: RequestRoute,
    pub(crate) method: &'static str,
    pub(crate) response_code: u16,
    pub(crate) grpc_status: Option<u16>,
}

impl From<&RequestSeries> for RequestLabels {
    fn from(series: &RequestSeries) -> Self {
        Self {
            route: series.route.clone(),
            method: series.method,
            response_code: series.response_code,
            grpc_status: series.grpc_status,
        }
    }
}

impl Labels for RequestLabels {
    fn other(&self) -> Self {
        Self {
            route: self.route.other(),
            ..self.clone()
        }
    }
}

impl Labels for RequestRoute {
    fn other(&self) -> Self {
        Self {
            source_service: OTHER.into(),
            destination_service: OTHER.into(),
            destination_version: OTHER.into(),
            crossing: self.crossing,
            protocol: self.protocol,
        }
    }
}

/// Labels of connections that could not be followed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UnparsedLabels {
    pub(crate) destination: Arc<str>,
    pub(crate) reason: Unparsed,
}

impl Labels for UnparsedLabels {
    fn other(&self) -> Self {
        Self {
            destination: OTHER.into(),
            reason: self.reason,
        }
    }
}

/// How long requests took.
#[derive(Clone, Debug)]
pub(crate) struct Timing {
    /// Not added up.
    pub(crate) buckets: [u64; REQUEST_BUCKETS],
    pub(crate) sum_ns: u64,
}

impl From<&RequestDurations> for Timing {
    fn from(durations: &RequestDurations) -> Self {
        Self {
            buckets: durations.buckets,
            sum_ns: durations.sum_ns,
        }
    }
}

impl Count for Timing {
    fn add(&mut self, other: &Self) {
        self.sum_ns += other.sum_ns;
        for (sum, count) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += count;
        }
    }
}
