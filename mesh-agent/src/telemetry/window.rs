//! A short memory of who called whom, so that rates can be told: samples come in, what happened
//! over the last seconds goes out.
//!
//! Recent samples are kept close together and older ones further apart, so that a few of them
//! reach back far; pairs are held to the same cap as series of metrics.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::series::Cap;
use super::snapshot::Snapshot;
use super::traffic::{Pair, Traffic, pairs};

/// How far back samples reach.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// How close together samples are kept at most.
const CLOSEST: Duration = Duration::from_secs(1);
/// Most pairs that are kept in all samples together: some 300 bytes each.
const MOST_PAIRS: usize = 8192;

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    cap: Cap<Pair, Traffic>,
    now: BTreeMap<Pair, Traffic>,
    /// Newest first; all but the first are only for comparison.
    samples: VecDeque<Sample>,
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    pairs: BTreeMap<Pair, Traffic>,
}

/// What has happened between all pairs.
#[derive(Debug)]
pub(super) struct Measured<'a> {
    /// Over which time; `None` while there is nothing to compare with.
    pub(super) over: Option<Duration>,
    /// All pairs: what was counted in all, and over that time.
    pub(super) pairs: Vec<(&'a Pair, Counted)>,
}

/// Counts of a pair or of many.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    pub(super) total: Traffic,
    pub(super) recent: Traffic,
}

impl Window {
    /// One that shows at most `series` pairs on their own.
    pub(super) fn new(series: usize) -> Self {
        Self {
            cap: Cap::new(series),
            now: BTreeMap::new(),
            samples: VecDeque::new(),
        }
    }

    /// Takes in what was counted until `at`, which must not be earlier than that of the last call.
    pub(super) fn take(&mut self, at: Instant, snapshot: &Snapshot) {
        self.now = self.cap.apply(pairs(snapshot));
        let newest = self.samples.front();
        let pairs = if newest.is_some_and(|newest| at.duration_since(newest.at) < CLOSEST) {
            return;
        } else {
            self.now.clone()
        };
        self.samples.push_front(Sample { at, pairs });
        self.thin(at);
    }

    /// Forgets the samples, which nobody seems to need.
    pub(super) fn forget(&mut self) {
        self.samples = VecDeque::new();
    }

    /// What has happened since about `wanted` before `at`, which is when the last was taken.
    pub(super) fn over(&self, at: Instant, wanted: Duration) -> Measured<'_> {
        let age = |sample: &&Sample| at.duration_since(sample.at);
        let old_enough = self
            .samples
            .iter()
            .filter(|sample| age(sample) >= CLOSEST / 2);
        let before = old_enough.min_by_key(|sample| age(sample).abs_diff(wanted));
        let none = Traffic::default();
        let pairs = self.now.iter().map(|(pair, total)| {
            let recent = before.map(|before| total.since(before.pairs.get(pair).unwrap_or(&none)));
            let counted = Counted {
                total: total.clone(),
                recent: recent.unwrap_or_default(),
            };
            (pair, counted)
        });
        Measured {
            over: before.as_ref().map(age),
            pairs: pairs.collect(),
        }
    }

    /// Drops samples that are too old, too close to others for their age, or too many.
    fn thin(&mut self, now: Instant) {
        let age = |sample: &Sample| now.duration_since(sample.at);
        let mut at = 1;
        while at + 1 < self.samples.len() {
            let (younger, older) = (age(&self.samples[at - 1]), age(&self.samples[at + 1]));
            if older - younger <= (younger / 4).max(CLOSEST + CLOSEST / 2) {
                self.samples.remove(at);
            } else {
                at += 1;
            }
        }
        // One that is older than the longest window is needed to tell of all of it.
        while self.samples.len() > 2 && age(&self.samples[self.samples.len() - 2]) > LONGEST {
            self.samples.pop_back();
        }
        let pairs =
            |samples: &VecDeque<Sample>| samples.iter().map(|s| s.pairs.len()).sum::<usize>();
        while self.samples.len() > 2 && pairs(&self.samples) > MOST_PAIRS {
            self.samples.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::FlowStats;

    use super::super::snapshot::{Crossing, FlowSeries, Transport};
    use super::*;

    fn snapshot(opened: u64, callers: usize) -> Snapshot {
        let flow = |caller: usize| FlowSeries {
            source_service: format!("shop/{caller}").into(),
            destination_service: "shop/payments".into(),
            destination_version: "v1".into(),
            protocol: Transport::Tcp,
            crossing: Crossing::None,
            stats: FlowStats {
                opened,
                ..FlowStats::default()
            },
        };
        Snapshot {
            flows: (0..callers).map(flow).collect(),
            ..Snapshot::default()
        }
    }

    /// A window that was told every `step` milliseconds that as many connections were opened.
    fn told(steps: u64, step: u64, callers: usize) -> (Window, Instant) {
        let start = Instant::now();
        let mut window = Window::new(1000);
        let at = |n: u64| start + Duration::from_millis(n * step);
        for n in 0..=steps {
            window.take(at(n), &snapshot(n * step, callers));
        }
        (window, at(steps))
    }

    #[test]
    fn nothing_is_told_of_no_time() {
        let (window, now) = told(0, 1, 1);
        let measured = window.over(now, Duration::from_secs(10));
        assert_eq!(measured.over, None);
        assert_eq!(measured.pairs.len(), 1);
        assert_eq!(measured.pairs[0].1.recent, Traffic::default());
    }

    #[test]
    fn what_is_told_is_of_the_time_that_is_told() {
        for (steps, step, wanted) in [
            (1, 1000, 10),
            (30, 1000, 10),
            (1000, 1000, 10),
            (1000, 1000, 60),
            (1000, 1000, 300),
            (5000, 333, 10),
            (100, 20_000, 60),
            (8, 100, 1),
        ] {
            let (window, now) = told(steps, step, 1);
            let measured = window.over(now, Duration::from_secs(wanted));
            let over = measured.over.expect("a time");
            let recent = &measured.pairs[0].1.recent;
            assert_eq!(u128::from(recent.opened), over.as_millis());
            let possible = Duration::from_secs(wanted).min(Duration::from_millis(steps * step));
            let off = over.abs_diff(possible).as_secs_f64() / possible.as_secs_f64();
            assert!(
                off < 0.2 || off * possible.as_secs_f64() <= step as f64 / 1000.0,
                "{steps} {step} {wanted}: {over:?}"
            );
        }
    }

    #[test]
    fn memory_is_bounded() {
        let (window, _) = told(10_000, 500, 1);
        assert!(window.samples.len() < 40, "{}", window.samples.len());
        let (window, _) = told(100, 1000, 900);
        let pairs: usize = window.samples.iter().map(|s| s.pairs.len()).sum();
        assert!(pairs <= MOST_PAIRS, "{pairs}");
        assert!(window.samples.len() > 5);
    }

    #[test]
    fn a_counter_that_is_lower_has_begun_anew() {
        let start = Instant::now();
        let mut window = Window::new(10);
        window.take(start, &snapshot(100, 1));
        let now = start + Duration::from_secs(2);
        window.take(now, &snapshot(7, 1));
        let measured = window.over(now, Duration::from_secs(2));
        assert_eq!(measured.pairs[0].1.recent.opened, 7);
    }

    #[test]
    fn pairs_beyond_the_cap_are_one() {
        let mut window = Window::new(2);
        let now = Instant::now();
        window.take(now, &snapshot(1, 50));
        let measured = window.over(now, Duration::from_secs(1));
        let names: Vec<_> = measured.pairs.iter().map(|(p, _)| &*p.source).collect();
        assert_eq!(names, ["other", "shop/0", "shop/1"]);
        assert_eq!(measured.pairs[0].1.total.opened, 48);
    }
}
