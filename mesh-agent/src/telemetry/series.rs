//! The cap on series: label sets come in, at most so many and an `other` go out.
//!
//! A label set that was once shown on its own stays so, and one that was once folded stays
//! folded, for as long as it exists: moving one would make `other` go backwards. What a folded
//! one had counted when it ceased to exist stays in `other`.

use std::collections::{BTreeMap, BTreeSet};

/// Labels that can be folded.
pub(crate) trait Labels: Ord + Clone {
    /// The labels that stand for all those beyond the cap.
    fn other(&self) -> Self;
}

/// Counts that can be added up.
pub(crate) trait Count: Clone {
    /// Adds another.
    fn add(&mut self, other: &Self);
}

/// Holds one kind of series to its cap.
#[derive(Debug)]
pub(crate) struct Cap<L, C> {
    limit: usize,
    shown: BTreeSet<L>,
    folded: BTreeMap<L, C>,
    ended: BTreeMap<L, C>,
    dropped: u64,
}

impl<L: Labels, C: Count> Cap<L, C> {
    /// A cap of `limit` label sets, besides `other`.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            shown: BTreeSet::new(),
            folded: BTreeMap::new(),
            ended: BTreeMap::new(),
            dropped: 0,
        }
    }

    /// How many label sets were folded so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Adds up equal labels, then folds those beyond the cap.
    pub(crate) fn apply(&mut self, series: impl IntoIterator<Item = (L, C)>) -> BTreeMap<L, C> {
        let series = sum(series);
        self.forget_ended(&series);
        let mut out = self.ended.clone();
        for (labels, count) in series {
            let key = if self.admits(&labels) {
                labels
            } else {
                let other = labels.other();
                self.folded.insert(labels, count.clone());
                other
            };
            add_to(&mut out, key, &count);
        }
        out
    }

    fn forget_ended(&mut self, series: &BTreeMap<L, C>) {
        self.shown.retain(|labels| series.contains_key(labels));
        let ended = &mut self.ended;
        self.folded.retain(|labels, count| {
            let alive = series.contains_key(labels);
            if !alive {
                add_to(ended, labels.other(), count);
            }
            alive
        });
    }

    fn admits(&mut self, labels: &L) -> bool {
        if self.shown.contains(labels) {
            return true;
        }
        if self.folded.contains_key(labels) {
            return false;
        }
        let room = self.shown.len() < self.limit;
        if room {
            self.shown.insert(labels.clone());
        } else {
            self.dropped += 1;
        }
        room
    }
}

fn sum<L: Labels, C: Count>(series: impl IntoIterator<Item = (L, C)>) -> BTreeMap<L, C> {
    let mut sums = BTreeMap::new();
    for (labels, count) in series {
        add_to(&mut sums, labels, &count);
    }
    sums
}

fn add_to<L: Labels, C: Count>(sums: &mut BTreeMap<L, C>, labels: L, count: &C) {
    match sums.get_mut(&labels) {
        Some(sum) => sum.add(count),
        None => {
            sums.insert(labels, count.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Labels for String {
        fn other(&self) -> Self {
            "other".into()
        }
    }

    fn check(cap: &mut Cap<String, u64>, series: &[(&str, u64)], expected: &[(&str, u64)]) {
        let shown = cap.apply(
            series
                .iter()
                .map(|(name, count)| (name.to_string(), *count)),
        );
        let shown: Vec<_> = shown.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_cap_folds_newcomers_and_nothing_goes_backwards() {
        let mut cap = Cap::new(2);
        check(&mut cap, &[("c", 1), ("d", 2)], &[("c", 1), ("d", 2)]);
        check(
            &mut cap,
            &[("a", 5), ("b", 7), ("c", 1), ("d", 3)],
            &[("c", 1), ("d", 3), ("other", 12)],
        );
        assert_eq!(cap.dropped(), 2);
        // `c` ends: its place goes to a newcomer, not to one that was folded.
        check(
            &mut cap,
            &[("a", 5), ("b", 8), ("d", 3), ("e", 1)],
            &[("d", 3), ("e", 1), ("other", 13)],
        );
        // `b` ends: what it counted stays.
        check(
            &mut cap,
            &[("a", 6), ("d", 3), ("e", 1)],
            &[("d", 3), ("e", 1), ("other", 14)],
        );
        assert_eq!(cap.dropped(), 2);
    }

    #[test]
    fn equal_labels_are_added_up() {
        let mut cap = Cap::new(1);
        check(&mut cap, &[("a", 5), ("a", 7)], &[("a", 12)]);
    }

    #[test]
    fn a_hundred_thousand_identities_become_one_line_more_than_the_cap() {
        let mut cap = Cap::new(2000);
        for _ in 0..2 {
            let shown = cap.apply((0..100_000).map(|n| (format!("service-{n:06}"), 1)));
            assert_eq!(shown.len(), 2001);
            assert_eq!(shown["other"], 98_000);
        }
        assert_eq!(cap.dropped(), 98_000);
    }
}
