//! The addresses of this host, which all reach a server that listens on any.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use mesh_common::Address;
use nix::ifaddrs::getifaddrs;

use super::DataplaneError;
use super::policy_maps::take;
use crate::policy::compile::address;

/// The map of this host's addresses and what this agent knows of it.
pub(super) struct LocalAddresses {
    map: HashMap<MapData, Address, u32>,
}

impl LocalAddresses {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        Ok(Self {
            map: take(ebpf, "LOCAL_ADDRESSES")?.try_into()?,
        })
    }

    /// Makes the map hold the addresses that the interfaces have now.
    pub(super) fn refresh(&mut self) -> Result<(), DataplaneError> {
        let now = interface_addresses()?;
        let known: BTreeSet<Address> = self.map.keys().collect::<Result<_, MapError>>()?;
        for new in now.difference(&known) {
            self.map.insert(new, 1, 0)?;
        }
        for gone in known.difference(&now) {
            self.map.remove(gone)?;
        }
        Ok(())
    }

    /// Whether the map holds an address.
    pub(super) fn contains(&self, address: &Address) -> bool {
        self.map.get(address, 0).is_ok()
    }

    pub(super) fn len(&self) -> usize {
        self.map.keys().count()
    }
}

/// Addresses of all interfaces but loopback, which the kernel side knows by itself, and their
/// broadcast addresses, which reach this host's own UDP servers too.
fn interface_addresses() -> io::Result<BTreeSet<Address>> {
    let own = getifaddrs()?.flat_map(|interface| [interface.address, interface.broadcast]);
    let found = own.flatten().filter_map(|found| {
        let v4 = found.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| found.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    let everyone = IpAddr::V4(Ipv4Addr::BROADCAST);
    let all = found.filter(|ip| !ip.is_loopback()).chain([everyone]);
    Ok(all.map(address).collect())
}
