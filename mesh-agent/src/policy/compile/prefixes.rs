//! Rules by address, as the kernel's tries hold them.
//!
//! The kernel finds the longest prefix only, so each prefix's entry holds the rules of all the
//! prefixes that contain it: deny beats allow whichever is the longer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv4Net};
use mesh_common::{PrefixKey, RuleSlots};

use super::address;

/// Rules by the net they name, each with its rank: the more specific caller first.
pub(super) type Nets = BTreeMap<IpNet, Vec<(usize, RuleSlots)>>;

/// The entries of `nets` for `owner` and `port` (0 for all). With `wider`, the rules for all ports
/// where `nets` are those for one, they hold for every address of `nets` what both say of it.
pub(super) fn entries(
    owner: u32,
    port: u16,
    nets: &Nets,
    wider: Option<&Nets>,
) -> Vec<((u32, PrefixKey), RuleSlots)> {
    let mut own: BTreeSet<IpNet> = nets.keys().copied().collect();
    if own.iter().any(contains_mapped) {
        own.insert(IpNet::V4(Ipv4Net::default()));
    }
    let within = |net: &&IpNet| own.iter().any(|own| own.contains(*net));
    let inner = wider.into_iter().flat_map(Nets::keys).filter(within);
    let all: BTreeSet<IpNet> = own.iter().chain(inner).copied().collect();
    let rules = || nets.iter().chain(wider.into_iter().flatten());
    let entry = |net: &IpNet| (key(owner, port, net), merged(rules(), net));
    all.iter().map(entry).collect()
}

/// The entries of `nets` for `owner` and all ports, and of `excepted` addresses, for which none of
/// the rules is meant.
pub(super) fn entries_except(
    owner: u32,
    nets: &Nets,
    excepted: &[IpNet],
) -> Vec<((u32, PrefixKey), RuleSlots)> {
    let mut found: BTreeMap<_, _> = entries(owner, 0, nets, None).into_iter().collect();
    let covered = |net: &&IpNet| nets.keys().any(|rules| rules.contains(*net));
    for net in excepted.iter().filter(covered) {
        found.insert(key(owner, 0, net), RuleSlots::default());
    }
    found.into_iter().collect()
}

/// Whether an IPv6 range contains the range that IPv4 is mapped to. A rule that names it is
/// about IPv6, so IPv4 gets an entry of its own, which is longer.
fn contains_mapped(net: &IpNet) -> bool {
    const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);
    matches!(net, IpNet::V6(v6) if v6.prefix_len() <= 96 && v6.contains(&MAPPED))
}

/// The rules of `net` and of every net that contains it.
fn merged<'a>(
    nets: impl Iterator<Item = (&'a IpNet, &'a Vec<(usize, RuleSlots)>)>,
    net: &IpNet,
) -> RuleSlots {
    let mut ranked: Vec<(usize, RuleSlots)> = nets
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

fn key(owner: u32, port: u16, net: &IpNet) -> (u32, PrefixKey) {
    let mapped = if net.addr().is_ipv4() { 96 } else { 0 };
    let bits = PrefixKey::FIXED_BITS + mapped + u32::from(net.prefix_len());
    (bits, PrefixKey::new(owner, port, address(net.network()).0))
}
