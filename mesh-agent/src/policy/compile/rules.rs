//! Rules by caller and frontend.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::{RuleKey, RuleSlots};

use super::{Frontends, Ids, subject};
use crate::policy::model::{Action, Mode, Policy, Rule, Service, ServiceName, Target};

/// One entry for each caller a rule names and each port it covers; of several rules of a kind
/// the first in file order stays.
pub(super) fn entries(
    policy: &Policy,
    frontends: &Frontends<'_>,
    ids: &mut Ids,
) -> Vec<(RuleKey, RuleSlots)> {
    let mut found: BTreeMap<RuleKey, RuleSlots> = BTreeMap::new();
    for rule in &policy.rules {
        let id = ids.rules.id(&rule.name);
        let subjects: Vec<u32> = rule
            .from
            .iter()
            .filter_map(|source| subject(source, ids))
            .collect();
        for frontend in covered(policy, rule, frontends) {
            for subject in &subjects {
                let slots = found
                    .entry(RuleKey {
                        subject: *subject,
                        frontend,
                    })
                    .or_default();
                slots.merge(&slot_of(rule, id));
            }
        }
    }
    found.into_iter().collect()
}

/// A rule alone.
pub(super) fn slot_of(rule: &Rule, id: u32) -> RuleSlots {
    let mut slots = RuleSlots::default();
    match (rule.action, rule.mode) {
        (Action::Deny, Mode::Enforce) => slots.deny = id,
        (Action::Deny, Mode::Audit) => slots.deny_audit = id,
        (Action::Allow, Mode::Enforce) => slots.allow = id,
        (Action::Allow, Mode::Audit) => slots.allow_audit = id,
    }
    slots
}

/// Frontends a rule is about.
pub(super) fn covered(policy: &Policy, rule: &Rule, frontends: &Frontends<'_>) -> Vec<u32> {
    let mut covered = Vec::new();
    for service in rule.to.iter().flat_map(|target| services(policy, target)) {
        for (index, port) in service.ports.iter().enumerate() {
            if rule.ports.is_empty() || rule.ports.iter().any(|named| named.matches(port)) {
                covered.push(frontends[&(&service.name, index)]);
            }
        }
    }
    covered.sort_unstable();
    covered.dedup();
    covered
}

/// The services of a target: one, or a run of the services, which are sorted by namespace.
fn services<'p>(policy: &'p Policy, target: &'p Target) -> impl Iterator<Item = &'p Service> {
    let first = match target {
        Target::Service(name) => Some(name.clone()),
        Target::Namespace(namespace) => Some(ServiceName {
            namespace: Arc::clone(namespace),
            name: "".into(),
        }),
        Target::Cidr(_) => None,
    };
    let run = first
        .map(|first| policy.services.range(first..))
        .into_iter()
        .flatten();
    run.map(|(_, service)| service)
        .take_while(move |service| match target {
            Target::Service(name) => service.name == *name,
            Target::Namespace(namespace) => service.name.namespace == *namespace,
            Target::Cidr(_) => false,
        })
}
