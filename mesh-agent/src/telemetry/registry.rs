//! From a snapshot to the body of a scrape.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use mesh_common::FlowStats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

use self::requests::Requests;
pub(crate) use self::requests::{RequestLabels, RequestsView};
use super::exposition::Format;
use super::process::Process;
use super::render;
use super::series::{Cap, Count, Labels};
use super::snapshot::{Crossing, DecisionSeries, FlowSeries, Snapshot, Transport};
use super::text::TextWriter;
use mesh_common::{Reason, Verdict};

/// What was built, for `mesh_build_info`.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Version of the crate.
    pub version: &'static str,
    /// Commit it was built from.
    pub revision: &'static str,
    /// Compiler it was built with.
    pub rustc: &'static str,
}

impl Build {
    /// This build, as far as the environment of the compiler told (`MESH_REVISION`,
    /// `MESH_RUSTC`).
    pub const CURRENT: Self = Self {
        version: env!("CARGO_PKG_VERSION"),
        revision: match option_env!("MESH_GIT_REVISION") {
            Some(revision) => revision,
            None => "unknown",
        },
        rustc: match option_env!("MESH_RUSTC_VERSION") {
            Some(rustc) => rustc,
            None => "unknown",
        },
    };
}

/// How many label sets of flows, and how many of decisions, are shown on their own.
pub const DEFAULT_SERIES: usize = 2000;

/// Renders snapshots; keeps what must outlive one of them.
pub struct Exporter {
    build: Build,
    own: Registry,
    flows: Cap<FlowLabels, FlowStats>,
    decisions: Cap<DecisionLabels, u64>,
    requests: Requests,
}

impl Exporter {
    /// An exporter that shows at most `series` label sets of each kind; `own` has the metrics
    /// that are no part of a snapshot.
    pub fn new(build: Build, series: usize, own: Registry) -> Self {
        Self {
            build,
            own,
            flows: Cap::new(series),
            decisions: Cap::new(series),
            requests: Requests::new(series),
        }
    }

    /// Takes a snapshot in. To be called in the order they were taken.
    pub fn view(&mut self, snapshot: Snapshot) -> View {
        let flows = self
            .flows
            .apply(snapshot.flows.iter().map(|flow| (flow.into(), flow.stats)));
        let decisions = self
            .decisions
            .apply(snapshot.decisions.iter().map(|d| (d.into(), d.count)));
        View(Arc::new(Content {
            build: self.build,
            process: Process::read(),
            flows,
            decisions,
            requests: self.requests.view(&snapshot),
            flows_folded: self.flows.dropped(),
            decisions_folded: self.decisions.dropped(),
            snapshot,
        }))
    }

    /// The body of a scrape, which is expected to be so long.
    pub fn render(&self, view: &View, format: Format, expected: usize) -> String {
        let mut body = String::with_capacity(expected);
        let written = self.write(&mut body, view, format);
        debug_assert!(written.is_ok(), "writing to memory does not fail");
        body
    }

    /// Writes the body of a scrape, which can be larger than the rest of the agent.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write(&self, out: &mut impl fmt::Write, view: &View, format: Format) -> fmt::Result {
        match format {
            Format::OpenMetrics => self.encode(out, view),
            Format::Text => {
                let mut text = TextWriter::new(out);
                self.encode(&mut text, view)?;
                text.finish()
            }
        }
    }

    fn encode(&self, out: &mut impl fmt::Write, view: &View) -> fmt::Result {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(view.clone()));
        encode_registry(out, &registry)?;
        encode_registry(out, &self.own)?;
        encode_eof(out)
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

/// A snapshot held to the cap, ready to be rendered in any format.
#[derive(Clone, Debug)]
pub struct View(Arc<Content>);

#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) build: Build,
    pub(crate) process: Process,
    pub(crate) flows: BTreeMap<FlowLabels, FlowStats>,
    pub(crate) decisions: BTreeMap<DecisionLabels, u64>,
    pub(crate) requests: RequestsView,
    pub(crate) flows_folded: u64,
    pub(crate) decisions_folded: u64,
    pub(crate) snapshot: Snapshot,
}

impl Collector for View {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        render::encode(&self.0, encoder)
    }
}

/// Labels of a flow series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlowLabels {
    pub(crate) source: Arc<str>,
    pub(crate) destination: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) protocol: Transport,
    pub(crate) crossing: Crossing,
}

impl From<&FlowSeries> for FlowLabels {
    fn from(flow: &FlowSeries) -> Self {
        Self {
            source: flow.source_service.clone(),
            destination: flow.destination_service.clone(),
            version: flow.destination_version.clone(),
            protocol: flow.protocol,
            crossing: flow.crossing,
        }
    }
}

impl Labels for FlowLabels {
    fn other(&self) -> Self {
        Self {
            source: OTHER.into(),
            destination: OTHER.into(),
            version: OTHER.into(),
            protocol: self.protocol,
            crossing: self.crossing,
        }
    }
}

impl Count for FlowStats {
    fn add(&mut self, other: &Self) {
        let Self {
            opened,
            closed,
            failed,
            sent_bytes,
            received_bytes,
            retransmits,
            connect_ns,
            connect_buckets,
            rtt_ns,
            rtt_buckets,
            duration_ns,
            duration_buckets,
        } = other;
        self.opened += opened;
        self.closed += closed;
        self.failed += failed;
        self.sent_bytes += sent_bytes;
        self.received_bytes += received_bytes;
        self.retransmits += retransmits;
        self.connect_ns += connect_ns;
        self.rtt_ns += rtt_ns;
        self.duration_ns += duration_ns;
        add_buckets(&mut self.connect_buckets, connect_buckets);
        add_buckets(&mut self.rtt_buckets, rtt_buckets);
        add_buckets(&mut self.duration_buckets, duration_buckets);
    }
}

fn add_buckets(sums: &mut [u64], counts: &[u64]) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum += count;
    }
}

/// Labels of a decision series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DecisionLabels {
    pub(crate) rule: Arc<str>,
    pub(crate) verdict: Verdict,
    pub(crate) reason: Reason,
    pub(crate) source: Arc<str>,
    pub(crate) destination: Arc<str>,
}

impl From<&DecisionSeries> for DecisionLabels {
    fn from(decision: &DecisionSeries) -> Self {
        Self {
            rule: decision.rule.clone(),
            verdict: decision.verdict,
            reason: decision.reason,
            source: decision.source_service.clone(),
            destination: decision.destination_service.clone(),
        }
    }
}

impl Labels for DecisionLabels {
    fn other(&self) -> Self {
        Self {
            rule: OTHER.into(),
            verdict: self.verdict,
            reason: self.reason,
            source: OTHER.into(),
            destination: OTHER.into(),
        }
    }
}

impl Count for u64 {
    fn add(&mut self, other: &Self) {
        *self += other;
    }
}

const OTHER: &str = "other";

mod requests;
#[cfg(test)]
mod tests;
