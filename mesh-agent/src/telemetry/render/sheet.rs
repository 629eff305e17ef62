//! How a family is written: samples come in, their metadata follows from them.

use std::fmt;

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
    Durations(Durations<'a>),
}

impl Value<'_> {
    fn kind(&self) -> MetricType {
        match self {
            Self::Count(_) | Self::CountedSeconds(_) => MetricType::Counter,
            Self::Gauge(_) | Self::Level(_) => MetricType::Gauge,
            Self::Durations(_) => MetricType::Histogram,
        }
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        const NONE: Option<&Exemplar<Vec<Pair<'static>>, f64>> = None;
        match self {
            Self::Count(count) => encoder.encode_counter(count, NONE),
            Self::CountedSeconds(seconds) => encoder.encode_counter(seconds, NONE),
            Self::Gauge(value) => encoder.encode_gauge(value),
            Self::Level(value) => encoder.encode_gauge(value),
            Self::Durations(durations) => encoder.encode_histogram::<Vec<Pair<'static>>>(
                durations.sum_ns as f64 / 1e9,
                durations.counts.iter().sum(),
                &durations.buckets(),
                None,
            ),
        }
    }
}

/// A histogram of times.
pub(super) struct Durations<'a> {
    pub(super) sum_ns: u64,
    /// Not added up; the last one has no bound.
    pub(super) counts: &'a [u64],
    /// Upper bounds of the others.
    pub(super) bounds_ns: &'a [u64],
}

impl Durations<'_> {
    /// Upper bounds in seconds with counts.
    fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds_ns.iter().map(|bound| *bound as f64 / 1e9);
        let bounds = bounds.chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().copied()).collect()
    }
}
