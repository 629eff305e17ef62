//! Rules by address, as the kernel's tries hold them.
//!
//! The kernel finds the longest prefix only, so each prefix's entry holds the rules of all the
//! prefixes that contain it: deny beats allow whichever is the longer.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv4Net};
use mesh_common::{PrefixKey, RuleSlots};

use super::address;

/// Rules by the net they name, each with its rank: the more specific caller first.
pub(super) type Nets = BTreeMap<IpNet, Vec<(usize, RuleSlots)>>;

/// The entries of `nets` for `owner` and `port` (0 for all).
pub(super) fn entries(owner: u32, port: u16, mut nets: Nets) -> Vec<((u32, PrefixKey), RuleSlots)> {
    if nets.keys().any(contains_mapped) {
        nets.entry(IpNet::V4(Ipv4Net::default())).or_default();
    }
    let entry = |net| (key(owner, port, net), merged(&nets, net));
    nets.keys().map(entry).collect()
}

/// Whether an IPv6 range contains the range that IPv4 is mapped to. A rule that names it is
/// about IPv6, so IPv4 gets an entry of its own, which is longer.
fn contains_mapped(net: &IpNet) -> bool {
    const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);
    matches!(net, IpNet::V6(v6) if v6.prefix_len() <= 96 && v6.contains(&MAPPED))
}

/// The rules of `net` and of every net that contains it.
fn merged(nets: &Nets, net: &IpNet) -> RuleSlots {
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

fn key(owner: u32, port: u16, net: &IpNet) -> (u32, PrefixKey) {
    let mapped = if net.addr().is_ipv4() { 96 } else { 0 };
    let bits = PrefixKey::FIXED_BITS + mapped + u32::from(net.prefix_len());
    (bits, PrefixKey::new(owner, port, address(net.network()).0))
}
