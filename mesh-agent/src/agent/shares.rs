//! Shares of versions: what they should get, and what they got since the splits last changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::{FlowKey, FlowStats, flow_bit};

use super::names::Names;
use crate::policy::model::{Policy, Service, Source, Split};
use crate::telemetry::snapshot::SplitSeries;

/// Connections by source, service and version.
pub(super) type Opened = BTreeMap<(Arc<str>, Arc<str>, Arc<str>), u64>;

/// What was opened so far.
pub(super) fn opened(flows: &[(FlowKey, FlowStats)], names: &Names) -> Opened {
    let mut opened = Opened::new();
    // Where a flow ends, its version was chosen on another host.
    let chosen_here = |(key, _): &&(FlowKey, FlowStats)| key.protocol & flow_bit::DESTINATION == 0;
    for (key, stats) in flows.iter().filter(chosen_here) {
        let labels = (
            names.subject(key.source),
            names.service(key.service),
            names.version(key.version),
        );
        *opened.entry(labels).or_default() += stats.opened;
    }
    opened
}

/// The share of every version of every service that has more than one; `before` is what was
/// opened when the splits last changed.
pub(super) fn series(policy: &Policy, now: &Opened, before: &Opened) -> Vec<SplitSeries> {
    let mut found = Vec::new();
    for service in policy.services.values() {
        let own = policy
            .splits
            .iter()
            .filter(|split| split.service == service.name);
        let (particular, common): (Vec<&Split>, Vec<&Split>) =
            own.partition(|split| !split.from.is_empty());
        let callers: Vec<&Source> = particular.iter().flat_map(|split| &split.from).collect();
        for split in &particular {
            for source in &split.from {
                let counts = |caller: &str| matches(source, caller);
                add(
                    &mut found,
                    service,
                    name(source),
                    &split.weights,
                    counts,
                    now,
                    before,
                );
            }
        }
        let weights = match common.first() {
            Some(split) => split.weights.clone(),
            None => endpoint_weights(service),
        };
        let counts = |caller: &str| !callers.iter().any(|source| matches(source, caller));
        add(
            &mut found,
            service,
            "*".into(),
            &weights,
            counts,
            now,
            before,
        );
    }
    found
}

/// Weights of versions where no split says: those of their endpoints.
fn endpoint_weights(service: &Service) -> Vec<(Arc<str>, u32)> {
    let mut weights: BTreeMap<Arc<str>, u32> = BTreeMap::new();
    for endpoint in &service.endpoints {
        let weight = weights.entry(Arc::clone(&endpoint.version)).or_default();
        *weight = weight.saturating_add(endpoint.weight);
    }
    weights.into_iter().collect()
}

fn add(
    found: &mut Vec<SplitSeries>,
    service: &Service,
    source: Arc<str>,
    weights: &[(Arc<str>, u32)],
    counts: impl Fn(&str) -> bool,
    now: &Opened,
    before: &Opened,
) {
    if weights.len() < 2 {
        return;
    }
    let total: f64 = weights.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let name: Arc<str> = service.name.to_string().into();
    for (version, weight) in weights {
        let mine = now.iter().filter(|((caller, called, chosen), _)| {
            *called == name && chosen == version && counts(caller)
        });
        let observed = mine
            .map(|(labels, count)| count - before.get(labels).unwrap_or(&0))
            .sum();
        found.push(SplitSeries {
            service: Arc::clone(&name),
            source_service: Arc::clone(&source),
            version: Arc::clone(version),
            weight: f64::from(*weight) / total,
            observed,
        });
    }
}

fn matches(source: &Source, caller: &str) -> bool {
    match source {
        Source::Service(name) => caller == name.to_string(),
        Source::Namespace(namespace) => caller
            .split_once('/')
            .is_some_and(|(of, _)| of == &**namespace),
        Source::Host => caller == "host",
        Source::Any => true,
        Source::Cidr(_) | Source::Node(_) => false,
    }
}

fn name(source: &Source) -> Arc<str> {
    match source {
        Source::Service(name) => name.to_string().into(),
        Source::Namespace(namespace) => format!("{namespace}/*").into(),
        Source::Host => "host".into(),
        Source::Any | Source::Cidr(_) | Source::Node(_) => "*".into(),
    }
}
