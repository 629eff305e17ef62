//! How a family is written: samples come in, their metadata follows from them.

use std::fmt;

use mesh_common::{CONNECT_BUCKETS, FIRST_BUCKET_NS, FlowStats};
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Unit;

/// What families are written to.
pub(super) struct Sheet<'a>(pub(super) DescriptorEncoder<'a>);

impl Sheet<'_> {
    /// Writes a family; one without samples is left out. `unit` is the end of the name.
    pub(super) fn family<'v, L: AsRef<[Pair<'v>]>>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        samples: impl IntoIterator<Item = (L, Value<'v>)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        let Some((_, first)) = samples.peek() else {
            return Ok(());
        };
        let kind = first.kind();
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in samples {
            value.encode(encoder.encode_family(&labels.as_ref())?)?;
        }
        Ok(())
    }

    /// Writes a family of one sample without labels, if there is a value.
    pub(super) fn single(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        value: Option<Value<'_>>,
    ) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        let encoder = self
            .0
            .encode_descriptor(name, help, unit.as_ref(), value.kind())?;
        value.encode(encoder)
    }

    /// Writes an info: labels whose value is 1.
    pub(super) fn info(&mut self, name: &str, help: &str, labels: &[Pair<'_>]) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Info)?
            .encode_info(&labels)
    }
}

/// A label.
pub(super) type Pair<'a> = (&'static str, &'a str);

/// One sample's value, which also says what type its family is.
pub(super) enum Value<'a> {
    Count(u64),
    CountedSeconds(f64),
    Gauge(u64),
    Level(f64),
    Connects(&'a FlowStats),
}

impl Value<'_> {
    fn kind(&self) -> MetricType {
        match self {
            Self::Count(_) | Self::CountedSeconds(_) => MetricType::Counter,
            Self::Gauge(_) | Self::Level(_) => MetricType::Gauge,
            Self::Connects(_) => MetricType::Histogram,
        }
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        const NONE: Option<&Exemplar<Vec<Pair<'static>>, f64>> = None;
        match self {
            Self::Count(count) => encoder.encode_counter(count, NONE),
            Self::CountedSeconds(seconds) => encoder.encode_counter(seconds, NONE),
            Self::Gauge(value) => encoder.encode_gauge(value),
            Self::Level(value) => encoder.encode_gauge(value),
            Self::Connects(stats) => encoder.encode_histogram::<Vec<Pair<'static>>>(
                stats.connect_ns as f64 / 1e9,
                stats.connect_buckets.iter().sum(),
                &buckets(stats),
                None,
            ),
        }
    }
}

/// Upper bounds in seconds with counts; the bounds are those of [`mesh_common::bucket_of`].
fn buckets(stats: &FlowStats) -> [(f64, u64); CONNECT_BUCKETS] {
    let mut buckets = [(f64::INFINITY, 0); CONNECT_BUCKETS];
    for (index, (bucket, count)) in buckets.iter_mut().zip(stats.connect_buckets).enumerate() {
        bucket.1 = count;
        if index < CONNECT_BUCKETS - 1 {
            bucket.0 = (FIRST_BUCKET_NS << (2 * index)) as f64 / 1e9;
        }
    }
    buckets
}
