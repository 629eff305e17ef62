//! Calls to other nodes: the kernel connects to the agent, in the caller's own network namespace,
//! and tells it who called and what for.

use core::mem::offset_of;

use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::helpers::bpf_get_netns_cookie;
use mesh_common::{
    Counter, IPPROTO_TCP, Reason, Redirect, RedirectKey, SocketKey, SocketState, socket_flag,
};

use crate::count;
use crate::ctx::{self, SockAddr};
use crate::maps::{LISTENERS, REDIRECTS};
use crate::ticket::local_address;

/// Where a call to another node goes instead.
#[inline(always)]
pub(crate) fn listener(ctx: &SockAddr, dialled: &SocketKey) -> Result<SocketKey, Reason> {
    if dialled.protocol != IPPROTO_TCP {
        return Err(Reason::NoTunnel);
    }
    // SAFETY: entries are not reused while the program runs (no preallocation); copied at once.
    let Some(listener) = (unsafe { LISTENERS.get(ctx.netns_cookie()) }) else {
        return Err(Reason::NoTunnel);
    };
    // Addresses come out of the map rather than as constants: what the verifier knows for certain
    // it follows in paths of their own.
    let family = usize::from(!dialled.address.is_v4());
    let address = listener.addresses[family & 1];
    Ok(SocketKey::new(address, listener.port as u16, IPPROTO_TCP))
}

/// Whether `wanted` is where calls to other nodes go: whoever listens there reads them, also
/// while there is no agent. The agent's own sockets say that they are.
#[inline(always)]
pub(crate) fn is_reserved(ctx: &SockAddr, wanted: &SocketKey) -> bool {
    if !wanted.address.is_loopback_or_unspecified() || wanted.protocol != IPPROTO_TCP {
        return false;
    }
    if port_in(ctx.netns_cookie()) != wanted.port {
        return false;
    }
    let own = ctx
        .storage(&crate::maps::SOCKETS)
        .is_some_and(|state| state.flags & socket_flag::TUNNEL != 0);
    !own
}

/// The port of the namespace's listener; 0 if it has none.
#[inline(always)]
fn port_in(netns: u64) -> u16 {
    // SAFETY: entries are not reused while the program runs (no preallocation); copied at once.
    match unsafe { LISTENERS.get(netns) } {
        Some(listener) => listener.port as u16,
        None => 0,
    }
}

/// Tells the agent of a connection that is about to send its first packet.
#[inline(always)]
pub(crate) fn announce(ops: *mut bpf_sock_ops, state: &SocketState) {
    let redirect = Redirect {
        source: state.source,
        frontend: state.frontend,
        target: state.target,
        revision: state.revision,
        epoch: state.epoch,
    };
    if REDIRECTS.insert(key(ops), redirect, 0).is_err() {
        // The agent resets a connection that it has not been told about.
        count::own(Counter::RedirectsDropped);
    }
}

/// Forgets a connection that is over.
#[inline(always)]
pub(crate) fn forget(ops: *mut bpf_sock_ops) {
    // It is not there if the map was full.
    let _ = REDIRECTS.remove(key(ops));
}

#[inline(always)]
fn key(ops: *mut bpf_sock_ops) -> RedirectKey {
    let port: u32 = ctx::field(ops, offset_of!(bpf_sock_ops, local_port));
    RedirectKey {
        // SAFETY: the helper takes the context as it is.
        netns: unsafe { bpf_get_netns_cookie(ops.cast()) },
        client: SocketKey::new(local_address(ops), port as u16, IPPROTO_TCP),
        _pad: 0,
    }
}
