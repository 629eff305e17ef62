//! Shares of versions, as observers see them: wanted beside observed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::snapshot::SplitSeries;

/// A version's share of a service's connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VersionView {
    /// The version.
    pub version: String,
    /// The share it should have, 0 to 1; `None` where there is nothing to choose.
    pub weight: Option<f64>,
    /// The share it got since the split took this form; `None` before the first connection.
    pub observed: Option<f64>,
}

/// The shares of all services.
#[derive(Debug, Default)]
pub(super) struct Shares<'a> {
    /// By service and whom they are for, as policy says it.
    splits: BTreeMap<(&'a str, &'a str), BTreeMap<&'a str, Share>>,
}

#[derive(Debug, Default)]
struct Share {
    weight: f64,
    observed: u64,
}

impl<'a> Shares<'a> {
    pub(super) fn new(series: &'a [SplitSeries]) -> Self {
        let mut splits = BTreeMap::<_, BTreeMap<&str, Share>>::new();
        for series in series {
            let whole = splits
                .entry((&*series.service, &*series.source_service))
                .or_default();
            let share = whole.entry(&*series.version).or_default();
            share.weight = series.weight;
            share.observed += series.observed;
        }
        Self { splits }
    }

    /// The split of a service for those callers that no other split is for.
    pub(super) fn of(&self, service: &str) -> Vec<VersionView> {
        self.views(service, EVERYONE).unwrap_or_default()
    }

    /// The split of a service for one caller.
    pub(super) fn between(&self, caller: &str, service: &str) -> Vec<VersionView> {
        let namespace = caller.split_once('/').map(|(namespace, _)| namespace);
        let namespace = namespace.map(|namespace| format!("{namespace}/*"));
        self.views(service, caller)
            .or_else(|| self.views(service, &namespace?))
            .unwrap_or_else(|| self.of(service))
    }

    fn views(&self, service: &str, callers: &str) -> Option<Vec<VersionView>> {
        let whole = self.splits.get(&(service, callers))?;
        let total: u64 = whole.values().map(|share| share.observed).sum();
        let view = |(version, share): (&&str, &Share)| VersionView {
            version: (*version).into(),
            weight: Some(share.weight),
            observed: (total > 0).then(|| share.observed as f64 / total as f64),
        };
        Some(whole.iter().map(view).collect())
    }
}

/// How policy says "for everyone".
const EVERYONE: &str = "*";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_the_callers_own_or_its_namespaces_or_everyones() {
        let series = |callers: &str, version: &str, weight, observed| SplitSeries {
            service: "shop/payments".into(),
            source_service: callers.into(),
            version: version.into(),
            weight,
            observed,
        };
        let series = [
            series("*", "v1", 0.99, 198),
            series("*", "v2", 0.01, 2),
            series("shop/tester", "v2", 1.0, 0),
            series("dev/*", "v1", 0.5, 1),
            series("dev/*", "v2", 0.5, 3),
        ];
        let shares = Shares::new(&series);
        let shown = |views: Vec<VersionView>| -> Vec<_> {
            let one = |v: VersionView| (v.version, v.weight, v.observed);
            views.into_iter().map(one).collect()
        };
        let v = |version: &str, weight, observed| (version.to_owned(), Some(weight), observed);
        let common = [v("v1", 0.99, Some(0.99)), v("v2", 0.01, Some(0.01))];
        assert_eq!(shown(shares.of("shop/payments")), common);
        for (caller, expected) in [
            ("shop/checkout", &common[..]),
            ("host", &common[..]),
            ("shop/tester", &[v("v2", 1.0, None)][..]),
            (
                "dev/any",
                &[v("v1", 0.5, Some(0.25)), v("v2", 0.5, Some(0.75))][..],
            ),
        ] {
            let found = shown(shares.between(caller, "shop/payments"));
            assert_eq!(found, expected, "{caller}");
        }
        assert_eq!(shown(shares.of("shop/none")), []);
    }
}
