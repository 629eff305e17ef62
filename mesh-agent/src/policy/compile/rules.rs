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
    let mut add = |service: &Service, ids: &[u32]| {
        for (port, id) in service.ports.iter().zip(ids) {
            if rule.ports.is_empty() || rule.ports.iter().any(|named| named.matches(port)) {
                covered.push(*id);
            }
        }
    };
    let mut add_named = |name: &ServiceName| {
        if let Some((service, ids)) = frontends.get(name) {
            add(service, ids);
        }
    };
    for target in &rule.to {
        match target {
            Target::Service(name) => add_named(name),
            Target::Namespace(namespace) => services(policy, namespace).for_each(&mut add_named),
            Target::Cidr(_) => {}
        }
    }
    covered.sort_unstable();
    covered.dedup();
    covered
}

/// The services of a namespace: a run, as they are sorted by it.
fn services<'p>(
    policy: &'p Policy,
    namespace: &'p Arc<str>,
) -> impl Iterator<Item = &'p ServiceName> {
    let first = ServiceName {
        namespace: Arc::clone(namespace),
        name: "".into(),
    };
    let run = policy.services.range(first..).map(|(name, _)| name);
    run.take_while(move |name| name.namespace == *namespace)
}
