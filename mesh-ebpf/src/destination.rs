//! What is dialled: from an address to what the mesh knows about it.

use mesh_common::{Address, Counter, Destination, SocketKey, socket_flag};

use crate::count;
use crate::ctx::SockAddr;
use crate::maps::{DESTINATIONS, InForce, LOCAL_ADDRESSES, NETNS_COOKIE, SOCKETS};

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
    endpoint(policy, dialled, loopback).or_else(|| {
        if loopback {
            return None;
        }
        let vip = SocketKey::new(dialled.address, 0, 0);
        policy.get(&DESTINATIONS, &vip)
    })
}

/// The endpoint at `address`, or the one whose port that is at any address of this host.
#[inline(always)]
pub(crate) fn endpoint(
    policy: &InForce,
    address: &SocketKey,
    loopback: bool,
) -> Option<Destination> {
    // `::` is spelled like the entry for any address.
    if address.address != Address::LOCAL
        && let Some(exact) = policy.get(&DESTINATIONS, address)
    {
        return Some(exact);
    }
    // SAFETY: the reference is only tested for presence.
    if loopback || unsafe { LOCAL_ADDRESSES.get(address.address) }.is_some() {
        let found = policy.get(&DESTINATIONS, &address.at_any_address())?;
        // SAFETY: as above.
        let here = found.home.is_loopback_or_unspecified()
            || unsafe { LOCAL_ADDRESSES.get(found.home) }.is_some();
        return here.then_some(found);
    }
    None
}

/// Notes with a socket that it calls another network namespace's loopback, where an endpoint's
/// port is anybody's: the server's side cannot tell by itself.
#[inline(always)]
pub(crate) fn note_foreign(policy: &InForce, ctx: &SockAddr, dialled: &SocketKey) {
    if !dialled.address.is_loopback_or_unspecified()
        || ctx.netns_cookie() == NETNS_COOKIE.load()
        || policy
            .get(&DESTINATIONS, &dialled.at_any_address())
            .is_none()
    {
        return;
    }
    match ctx.storage_or_new(&SOCKETS) {
        Some(state) => state.flags = socket_flag::FOREIGN,
        None => count::own(Counter::SocketStorageFailed),
    }
}
