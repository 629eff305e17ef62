//! How a family is written: samples come in, their metadata follows from them.

use std::fmt::{self, Write as _};

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, MetricEncoder,
};
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
        let mut written = LabelText::default();
        for (labels, value) in samples {
            written.set(labels.as_ref());
            value.encode(encoder.encode_family(&written)?)?;
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

/// A label set as text, for the dozens of lines of a histogram that have it: putting it together
/// for each of them is most of what a scrape takes.
#[derive(Debug, Default)]
struct LabelText {
    /// All but the end of the last pair: `a="1",b`.
    head: String,
    /// The last value.
    last: String,
}

impl LabelText {
    fn set(&mut self, labels: &[Pair<'_>]) {
        self.head.clear();
        self.last.clear();
        let Some(((name, value), others)) = labels.split_last() else {
            return;
        };
        for (name, value) in others {
            self.head.push_str(name);
            self.head.push_str("=\"");
            escape(value, &mut self.head);
            self.head.push_str("\",");
        }
        self.head.push_str(name);
        self.last.push_str(value);
    }
}

impl EncodeLabelSet for LabelText {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        if self.head.is_empty() {
            return Ok(());
        }
        let mut label = encoder.encode_label();
        // Written as it is, which is how several pairs go for one.
        let mut key = label.encode_label_key()?;
        key.write_str(&self.head)?;
        let mut value = key.encode_label_value()?;
        value.write_str(&self.last)?;
        value.finish()
    }
}

/// Writes a label's value as both formats want it.
fn escape(value: &str, to: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => to.push_str(r"\\"),
            '"' => to.push_str(r#"\""#),
            '\n' => to.push_str(r"\n"),
            other => to.push(other),
        }
    }
}

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

#[cfg(test)]
mod tests {
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    const HARD: &str = "a\\b\"c\nd, {e=\"f\"} \u{fc}";

    #[derive(Debug)]
    struct Written(&'static [Pair<'static>]);

    #[derive(Debug)]
    struct AsTheyAre(&'static [Pair<'static>]);

    fn durations() -> Value<'static> {
        Value::Durations(Durations {
            sum_ns: 1_500_000_000,
            counts: &[1, 0, 2],
            bounds_ns: &[1_000, 1_000_000],
        })
    }

    impl Collector for Written {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let samples = [(self.0, durations()), (&[], durations())];
            Sheet(encoder).family("h", None, "Help.", samples)
        }
    }

    impl Collector for AsTheyAre {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let mut family = encoder.encode_descriptor("h", "Help", None, MetricType::Histogram)?;
            durations().encode(family.encode_family(&self.0)?)?;
            durations().encode(family.encode_family(&LabelText::default())?)
        }
    }

    fn text(collector: impl Collector) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(collector));
        let mut text = String::new();
        encode(&mut text, &registry).expect("memory");
        text
    }

    #[test]
    fn labels_are_written_as_the_library_writes_them() {
        const SETS: [&[Pair<'_>]; 4] = [
            &[("one", "1")],
            &[("one", HARD)],
            &[("one", HARD), ("two", HARD), ("three", "")],
            &[("one", ""), ("two", "x")],
        ];
        for set in SETS {
            let library = text(AsTheyAre(set)).replace("HELP h Help\n", "HELP h Help.\n");
            assert_eq!(text(Written(set)), library);
        }
    }
}
