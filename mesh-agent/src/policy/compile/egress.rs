//! Where callers with `egress = "deny"` may go outside the mesh.
//!
//! The kernel looks for the port first and then for all ports, so an entry for a port holds the
//! rules for all ports too, or the more specific caller would not always come first.

use std::collections::BTreeMap;

use mesh_common::{PrefixKey, RuleSlots};

use super::Ids;
use super::prefixes::{self, Nets};
use super::rules::slot_of;
use crate::policy::model::{Egress, Policy, PortMatch, Rule, Service, Source, Target};

pub(super) fn entries(policy: &Policy, ids: &mut Ids) -> Vec<((u32, PrefixKey), RuleSlots)> {
    let mut found = Vec::new();
    for service in policy
        .services
        .values()
        .filter(|service| service.egress == Egress::Deny)
    {
        let subject = ids.subjects.id(&service.name.to_string());
        let by_port = nets_by_port(policy, service, ids);
        for (port, own) in &by_port {
            let all_ports = by_port.get(&0).filter(|_| *port != 0);
            found.extend(prefixes::entries(subject, *port, own, all_ports));
        }
    }
    found.sort_unstable_by_key(|(key, _)| *key);
    found
}

/// The service's own rules for each port, 0 for all.
fn nets_by_port(policy: &Policy, service: &Service, ids: &mut Ids) -> BTreeMap<u16, Nets> {
    let mut found: BTreeMap<u16, Nets> = BTreeMap::new();
    let mut matching: Vec<(u8, usize, &Rule)> = policy
        .rules
        .iter()
        .enumerate()
        .filter_map(|(order, rule)| Some((specificity(rule, service)?, order, &**rule)))
        .collect();
    matching.sort_unstable_by_key(|(specificity, order, _)| (*specificity, *order));
    for (rank, (_, _, rule)) in matching.into_iter().enumerate() {
        let slots = slot_of(rule, ids.rules.id(&rule.name));
        for target in &rule.to {
            if let Target::Cidr(net) = target {
                for port in ports(rule) {
                    found
                        .entry(port)
                        .or_default()
                        .entry(*net)
                        .or_default()
                        .push((rank, slots));
                }
            }
        }
    }
    found
}

/// How closely the rule names the service as a caller: 0 by name, 1 by namespace, 2 by `*`.
fn specificity(rule: &Rule, service: &Service) -> Option<u8> {
    rule.from
        .iter()
        .filter_map(|source| match source {
            Source::Service(name) => (*name == service.name).then_some(0),
            Source::Namespace(namespace) => (*namespace == service.name.namespace).then_some(1),
            Source::Any => Some(2),
            Source::Host | Source::Cidr(_) | Source::Node(_) => None,
        })
        .min()
}

fn ports(rule: &Rule) -> Vec<u16> {
    if rule.ports.is_empty() {
        return vec![0];
    }
    let numbers = rule.ports.iter().filter_map(|port| match port {
        PortMatch::Number(number) => Some(*number),
        PortMatch::Name(_) => None,
    });
    numbers.collect()
}
