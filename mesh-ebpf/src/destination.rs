//! What is dialled: from an address to what the mesh knows about it.

use mesh_common::{Address, Destination, SocketKey};

use crate::ctx::SockAddr;
use crate::maps::{DESTINATIONS, InForce, LOCAL_ADDRESSES, NETNS_COOKIE};

/// The destination behind `dialled`; `None` if it is not the mesh's business.
///
/// An address of this host with a local endpoint's port is that endpoint, whichever address of
/// the host it is: the server may listen on all of them.
#[inline(always)]
pub(crate) fn find(policy: &InForce, ctx: &SockAddr, dialled: &SocketKey) -> Option<Destination> {
    let loopback = dialled.address.is_loopback_or_unspecified();
    if loopback && ctx.netns_cookie() != NETNS_COOKIE.load() {
        return None;
    }
    if let Some(exact) = policy.get(&DESTINATIONS, dialled) {
        return Some(exact);
    }
    // SAFETY: the reference is only tested for presence.
    if loopback || unsafe { LOCAL_ADDRESSES.get(dialled.address) }.is_some() {
        let local = SocketKey {
            address: Address::LOCAL,
            ..*dialled
        };
        return policy.get(&DESTINATIONS, &local);
    }
    policy.get(&DESTINATIONS, &SocketKey::new(dialled.address, 0, 0))
}
