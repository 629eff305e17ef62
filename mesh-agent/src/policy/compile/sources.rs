//! Clients outside the mesh that rules name by address.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use mesh_common::{PrefixKey, RuleSlots};

use super::prefixes::{self, Nets};
use super::rules::{covered, slot_of};
use super::{Ids, Services};
use crate::policy::model::{Policy, Source, Tls};

/// The addresses that rules name, by frontend.
pub(super) fn entries(
    policy: &Policy,
    services: &Services<'_>,
    ids: &mut Ids,
) -> Vec<((u32, PrefixKey), RuleSlots)> {
    let mut by_frontend: BTreeMap<u32, Nets> = BTreeMap::new();
    for (order, rule) in policy.rules.iter().enumerate() {
        let nets = rule.from.iter().filter_map(|source| match source {
            Source::Cidr(net) => Some(net.trunc()),
            _ => None,
        });
        let nets: Vec<_> = nets.collect();
        if nets.is_empty() {
            continue;
        }
        let slots = slot_of(rule, ids.rules.id(&rule.name));
        for frontend in covered(policy, rule, services) {
            let found = by_frontend.entry(frontend).or_default();
            for net in &nets {
                found.entry(*net).or_default().push((order, slots));
            }
        }
    }
    let nodes: Vec<IpNet> = policy
        .nodes
        .iter()
        .map(|node| node.address.into())
        .collect();
    let strict = strict_frontends(services);
    let of_frontend = |(frontend, nets): (u32, Nets)| {
        // A node of the mesh is not let in by its address.
        let excepted = if strict.contains(&frontend) {
            &*nodes
        } else {
            &[]
        };
        prefixes::entries_except(frontend, &nets, excepted)
    };
    let mut entries: Vec<_> = by_frontend.into_iter().flat_map(of_frontend).collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}

fn strict_frontends(services: &Services<'_>) -> BTreeSet<u32> {
    let strict = services
        .values()
        .filter(|numbered| numbered.service.tls == Tls::Strict);
    strict
        .flat_map(|numbered| numbered.frontends.clone())
        .collect()
}
