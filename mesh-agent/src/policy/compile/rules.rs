//! Rules by caller and frontend.

use std::sync::Arc;

use mesh_common::{RuleKey, RuleSlots};

use super::{Ids, Services, subject};
use crate::policy::model::{Action, Mode, Policy, Rule, Service, ServiceName, Target};

/// One entry for each caller a rule names and each port it covers; of several rules of a kind
/// the first in file order stays.
pub(super) fn entries(
    policy: &Policy,
    services: &Services<'_>,
    ids: &mut Ids,
) -> Vec<(RuleKey, RuleSlots)> {
    let mut found = Vec::new();
    for rule in &policy.rules {
        let slots = slot_of(rule, ids.rules.id(&rule.name));
        let covered = covered(policy, rule, services);
        for subject in rule
            .from
            .iter()
            .filter_map(|source| subject(source, services, ids))
        {
            let key = |frontend: &u32| RuleKey {
                subject,
                frontend: *frontend,
            };
            found.extend(covered.iter().map(|frontend| (key(frontend), slots)));
        }
    }
    // Stable: rules of one key stay in file order.
    found.sort_by_key(|(key, _)| *key);
    found.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same {
            first.1.merge(&later.1);
        }
        same
    });
    found
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
pub(super) fn covered(policy: &Policy, rule: &Rule, services: &Services<'_>) -> Vec<u32> {
    let mut covered = Vec::new();
    let mut add = |service: &Service, ids: &[u32]| {
        for (port, id) in service.ports.iter().zip(ids) {
            if rule.ports.is_empty() || rule.ports.iter().any(|named| named.matches(port)) {
                covered.push(*id);
            }
        }
    };
    let mut add_named = |name: &ServiceName| {
        if let Some(numbered) = services.get(name) {
            add(numbered.service, &numbered.frontends);
        }
    };
    for target in &rule.to {
        match target {
            Target::Service(name) => add_named(name),
            Target::Namespace(namespace) => names_in(policy, namespace).for_each(&mut add_named),
            Target::Cidr(_) => {}
        }
    }
    covered.sort_unstable();
    covered.dedup();
    covered
}

/// The services of a namespace: a run, as they are sorted by it.
fn names_in<'p>(
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
