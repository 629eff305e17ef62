//! The address that clients dial: as declared, or derived from the service's name.
//!
//! A derived address depends on the service's name, the range, and only where two names fall
//! on the same address on the names before it: adding a service moves others rarely.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::diagnostic::Diagnostic;
use super::model::ServiceName;
use super::parse::decode;
use super::parse::document::Value;

/// Range of derived addresses where no file sets one.
pub(super) const DEFAULT_RANGE: &str = "10.96.0.0/16";

/// A `vip_range`: not loopback, multicast or reserved, and of a bounded size.
pub(super) fn range(value: Value<'_>) -> Result<IpNet, Diagnostic> {
    let net = decode::cidr(value)?;
    let bad = |text: &str| {
        Err(value
            .error(
                "invalid-vip-range",
                format!("`{net}` cannot hold VIPs"),
                text,
            )
            .help(format!(
                "write a private range that nothing else uses, such as \
                \"{DEFAULT_RANGE}\" or \"fd00:96::/112\""
            )))
    };
    if net.prefix_len() < 8 {
        return bad("the prefix length is at least 8");
    }
    for (reserved, what) in RESERVED {
        let reserved: Option<IpNet> = reserved.parse().ok();
        if reserved.is_some_and(|reserved| reserved.contains(&net) || net.contains(&reserved)) {
            return bad(&format!("it contains {what} addresses"));
        }
    }
    Ok(net)
}

/// A `vip`: an address of one host.
pub(super) fn address(value: Value<'_>) -> Result<IpAddr, Diagnostic> {
    let address = decode::ip(value)?;
    match not_unicast(address) {
        None if !address.is_loopback() => Ok(address),
        what => Err(value
            .error(
                "invalid-vip",
                format!("`{address}` cannot be a VIP"),
                format!("a {} address", what.unwrap_or("loopback")),
            )
            .help("write an address that nothing else uses, or remove `vip` to have one derived")),
    }
}

/// What keeps `address` from being that of one host.
pub(super) fn not_unicast(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("unspecified"),
        _ if address.is_multicast() => Some("multicast"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("broadcast"),
        IpAddr::V4(v4) if v4.octets().first() == Some(&0) => Some("reserved"),
        _ => None,
    }
}

/// The derived VIPs of `names`, which are in lexical order, passing over what is `taken`;
/// `None` for those after the range was used up.
pub(super) fn derive<'a>(
    range: IpNet,
    names: impl IntoIterator<Item = &'a ServiceName>,
    taken: &BTreeSet<IpAddr>,
) -> Vec<(&'a ServiceName, Option<IpAddr>)> {
    let mut used: BTreeSet<IpAddr> = taken
        .iter()
        .copied()
        .filter(|ip| range.contains(ip))
        .collect();
    let hosts = Hosts::of(range);
    let derive = |name: &'a ServiceName| {
        let vip = hosts.free(fnv1a(&name.to_string()), &used);
        used.extend(vip);
        (name, vip)
    };
    names.into_iter().map(derive).collect()
}

/// The addresses of a range without that of the network and the broadcast address.
struct Hosts {
    first: IpAddr,
    count: u128,
}

impl Hosts {
    fn of(range: IpNet) -> Self {
        let bits = range.max_prefix_len() - range.prefix_len();
        let all = 1u128 << bits;
        let (skip, end) = match range {
            _ if bits < 2 => (0, 0),
            IpNet::V4(_) => (1, 1),
            IpNet::V6(_) => (1, 0),
        };
        Self {
            first: plus(range.network(), skip),
            count: all - skip - end,
        }
    }

    fn free(&self, hash: u64, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        if used.len() as u128 >= self.count + 2 {
            return None;
        }
        let start = u128::from(hash) % self.count;
        // One of any used.len() + 1 addresses is free, so the walk is short in a wide range.
        (0..self.count)
            .map(|step| plus(self.first, (start + step) % self.count))
            .find(|address| !used.contains(address))
    }
}

fn plus(address: IpAddr, offset: u128) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add(offset as u32)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add(offset)).into(),
    }
}

/// FNV-1a, 64 bits: fixed for ever, because the addresses follow from it.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

const RESERVED: &[(&str, &str)] = &[
    ("0.0.0.0/8", "reserved"),
    ("127.0.0.0/8", "loopback"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("::/127", "loopback"),
    ("ff00::/8", "multicast"),
    ("fe80::/10", "link-local"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        let (namespace, name) = text.split_once('/').expect("namespace/name");
        ServiceName {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn derived(range: &str, names: &[&str], taken: &[&str]) -> Vec<Option<String>> {
        let names: BTreeSet<_> = names.iter().map(|text| name(text)).collect();
        let taken = taken
            .iter()
            .map(|ip| ip.parse().expect("an address"))
            .collect();
        let range = range.parse().expect("a range");
        let vips = derive(range, &names, &taken);
        vips.into_iter()
            .map(|(_, vip)| vip.map(|vip| vip.to_string()))
            .collect()
    }

    #[test]
    fn fnv1a_is_the_published_one() {
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn small_ranges_are_used_up_to_the_last_host() {
        let hosts = derived("10.0.0.0/30", &["a/a", "a/b", "a/c"], &[]);
        assert_eq!(hosts.iter().flatten().collect::<BTreeSet<_>>().len(), 2);
        assert_eq!(hosts.last(), Some(&None));
        assert_eq!(
            derived("10.0.0.0/30", &["a/a"], &["10.0.0.1"]),
            [Some("10.0.0.2".to_owned())]
        );
        assert_eq!(
            derived("10.0.0.7/32", &["a/a"], &[]),
            [Some("10.0.0.7".to_owned())]
        );
        assert_eq!(derived("fd00::7/128", &["a/a"], &["fd00::7"]), [None]);
    }

    #[test]
    fn addresses_stay_when_services_come_and_go() {
        let alone = derived(DEFAULT_RANGE, &["shop/payments"], &[]);
        let among = derived(
            DEFAULT_RANGE,
            &["a/a", "shop/checkout", "shop/payments"],
            &[],
        );
        assert_eq!(alone.last(), among.last());
        assert!(
            derived("fd00::/8", &["a/a"], &[])
                .iter()
                .all(Option::is_some)
        );
    }
}
