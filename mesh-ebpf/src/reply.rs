//! What a program is shown: the address it dialled, not the one its bytes went to.

use mesh_common::{SocketKey, SocketState, socket_flag};

use crate::ctx::SockAddr;
use crate::maps::{SOCKETS, UDP_SOCKETS};

/// Shows the sender of a datagram as what was dialled.
#[inline(always)]
pub(crate) fn received(ctx: &SockAddr) {
    let sender = ctx.address();
    if let Some(flows) = ctx.storage(&UDP_SOCKETS) {
        for flow in &flows.flows {
            let used = flow.dialled_port != 0;
            if used && flow.endpoint_port == sender.port && flow.endpoint == sender.address {
                ctx.rewrite(&flow.dialled, flow.dialled_port);
                return;
            }
        }
    }
    peer_as(ctx, || sender);
}

/// Shows a connection's peer as what was dialled.
#[inline(always)]
pub(crate) fn peer(ctx: &SockAddr) {
    peer_as(ctx, || ctx.address());
}

#[inline(always)]
fn peer_as(ctx: &SockAddr, seen: impl FnOnce() -> SocketKey) {
    // The storage is asked first: it says no for every socket but a client's.
    if let Some(state) = ctx.storage(&SOCKETS)
        && is_flow_to(state, &seen())
    {
        ctx.rewrite(&state.dialled, state.dialled_port);
    }
}

#[inline(always)]
fn is_flow_to(state: &SocketState, seen: &SocketKey) -> bool {
    state.flags & socket_flag::FLOW != 0
        && state.endpoint_port == seen.port
        && state.endpoint == seen.address
}
