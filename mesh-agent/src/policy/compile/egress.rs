//! Where callers with `egress = "deny"` may go outside the mesh.
//!
//! The kernel finds the longest prefix only, so each prefix's entry holds the rules of all the
//! prefixes that contain it: deny beats allow whichever is the longer.

use std::collections::BTreeMap;

use ipnet::IpNet;
use mesh_common::{EgressKey, RuleSlots};

use super::rules::slot_of;
use super::{Ids, address};
use crate::policy::model::{Egress, Policy, PortMatch, Rule, Service, Source, Target};

pub(super) fn entries(policy: &Policy, ids: &mut Ids) -> Vec<((u32, EgressKey), RuleSlots)> {
    let mut found = Vec::new();
    for service in policy
        .services
        .values()
        .filter(|service| service.egress == Egress::Deny)
    {
        let subject = ids.subjects.id(&service.name.to_string());
        for (port, nets) in nets_by_port(policy, service, ids) {
            for net in nets.keys() {
                found.push((key(subject, port, net), merged(&nets, net)));
            }
        }
    }
    found.sort_unstable_by_key(|(key, _)| *key);
    found
}

/// The service's own rules for each port (0 for all) and net; the more specific caller first.
fn nets_by_port(
    policy: &Policy,
    service: &Service,
    ids: &mut Ids,
) -> BTreeMap<u16, BTreeMap<IpNet, Vec<(usize, RuleSlots)>>> {
    let mut found: BTreeMap<u16, BTreeMap<IpNet, Vec<(usize, RuleSlots)>>> = BTreeMap::new();
    let mut matching: Vec<(u8, usize, &Rule)> = policy
        .rules
        .iter()
        .enumerate()
        .filter_map(|(order, rule)| Some((specificity(rule, service)?, order, rule)))
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

/// The rules of `net` and of every net that contains it.
fn merged(nets: &BTreeMap<IpNet, Vec<(usize, RuleSlots)>>, net: &IpNet) -> RuleSlots {
    let mut ranked: Vec<(usize, RuleSlots)> = nets
        .iter()
        .filter(|(other, _)| other.contains(net))
        .flat_map(|(_, rules)| rules.iter().copied())
        .collect();
    ranked.sort_unstable_by_key(|(rank, _)| *rank);
    let mut slots = RuleSlots::default();
    for (_, rule) in ranked {
        slots.merge(&rule);
    }
    slots
}

fn key(subject: u32, port: u16, net: &IpNet) -> (u32, EgressKey) {
    let mapped = if net.addr().is_ipv4() { 96 } else { 0 };
    let bits = EgressKey::FIXED_BITS + mapped + u32::from(net.prefix_len());
    (
        bits,
        EgressKey::new(subject, port, address(net.network()).0),
    )
}
