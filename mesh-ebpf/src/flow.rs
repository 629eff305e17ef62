//! Counts the life of connections that `connect()` allowed.

use core::mem::offset_of;

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING,
    BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK, bpf_sock, bpf_sock_ops,
};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::SockOpsContext;
use mesh_common::{FlowKey, IPPROTO_TCP, SocketState, bucket_of, flow_bit, socket_flag};

use crate::count;
use crate::ctx;
use crate::maps::SOCKETS;
use crate::redirect;
use crate::ticket;

/// Handles one event of a TCP socket.
#[inline(always)]
pub(crate) fn observe(ctx: &SockOpsContext) {
    let op = ctx.op();
    if !matters(ctx, op) {
        return;
    }
    let Some(state) = flow_of(ctx.ops) else {
        return;
    };
    match op {
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
            // Cannot fail: the flag is known and the socket is a full one.
            let _ = ctx.set_cb_flags(flags as i32);
            if state.flags & socket_flag::TICKET != 0 {
                ticket::leave(ctx.ops, state);
            }
            if state.flags & socket_flag::REDIRECTED != 0 {
                redirect::announce(ctx.ops, state);
            }
        }
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            ticket::take_back(ctx.ops, state);
            established(state);
        }
        _ => changed(ctx, state),
    }
}

/// Whether an event says something about a flow. Most do not, and this runs for all of them.
#[inline(always)]
fn matters(ctx: &SockOpsContext, op: u32) -> bool {
    match op {
        BPF_SOCK_OPS_TCP_CONNECT_CB | BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => true,
        BPF_SOCK_OPS_STATE_CB => matches!(
            ctx.arg(1),
            BPF_TCP_CLOSE_WAIT | BPF_TCP_CLOSING | BPF_TCP_FIN_WAIT2 | BPF_TCP_CLOSE
        ),
        _ => false,
    }
}

#[inline(always)]
fn flow_of<'a>(ops: *mut bpf_sock_ops) -> Option<&'a mut SocketState> {
    let sk: *mut bpf_sock = ctx::field(ops, offset_of!(bpf_sock_ops, __bindgen_anon_2));
    if sk.is_null() {
        return None;
    }
    let state = ctx::storage(&SOCKETS, sk, 0)?;
    (state.flags & socket_flag::FLOW != 0).then_some(state)
}

#[inline(always)]
fn key_of(state: &SocketState) -> FlowKey {
    FlowKey {
        source: state.source,
        service: state.service,
        version: state.version,
        protocol: u32::from(IPPROTO_TCP) | crossing(state),
    }
}

/// [`flow_bit`] bits: whether the bytes cross to another node, and which end this is.
#[inline(always)]
fn crossing(state: &SocketState) -> u32 {
    if state.flags & socket_flag::TUNNEL != 0 {
        flow_bit::MUTUAL_TLS | flow_bit::DESTINATION
    } else if state.flags & socket_flag::REDIRECTED != 0 {
        flow_bit::MUTUAL_TLS
    } else {
        0
    }
}

#[inline(always)]
fn established(state: &mut SocketState) {
    state.flags |= socket_flag::OPEN;
    let Some(stats) = count::flow(&key_of(state)) else {
        return;
    };
    // SAFETY: `stats` is a map value that lives while the program runs.
    count::add(unsafe { &raw mut (*stats).opened }, 1);
    if state.flags & socket_flag::REDIRECTED != 0 {
        // Connected to the agent, which says nothing about the other node.
        return;
    }
    // SAFETY: the helper has no preconditions.
    let elapsed = unsafe { bpf_ktime_get_ns() }.saturating_sub(state.connect_ns);
    let bucket = bucket_of(elapsed);
    // SAFETY: as above.
    count::add(unsafe { &raw mut (*stats).connect_ns }, elapsed);
    // SAFETY: as above; `bucket` is below the number of buckets.
    count::add(unsafe { &raw mut (*stats).connect_buckets[bucket] }, 1);
}

#[inline(always)]
fn changed(ctx: &SockOpsContext, state: &mut SocketState) {
    let (old, new) = (ctx.arg(0), ctx.arg(1));
    match new {
        BPF_TCP_CLOSE_WAIT | BPF_TCP_CLOSING => state.flags |= socket_flag::FIN_RECEIVED,
        BPF_TCP_FIN_WAIT2 => state.half_closed_received = bytes_received(ctx),
        BPF_TCP_CLOSE => closed(ctx, state, old),
        _ => {}
    }
}

#[inline(always)]
fn bytes_received(ctx: &SockOpsContext) -> u64 {
    ctx::field(ctx.ops, offset_of!(bpf_sock_ops, bytes_received))
}

#[inline(always)]
fn closed(ctx: &SockOpsContext, state: &mut SocketState, old: u32) {
    ticket::take_back(ctx.ops, state);
    if state.flags & socket_flag::REDIRECTED != 0 {
        redirect::forget(ctx.ops);
    }
    let was_open = state.flags & socket_flag::OPEN != 0;
    let (sent, received) = payload(ctx, state, old);
    let stats = count::flow(&key_of(state));
    state.flags = 0;
    let Some(stats) = stats else {
        return;
    };
    if !was_open {
        // SAFETY: `stats` is a map value that lives while the program runs.
        count::add(unsafe { &raw mut (*stats).failed }, 1);
        return;
    }
    let retransmits: u32 = ctx::field(ctx.ops, offset_of!(bpf_sock_ops, total_retrans));
    // SAFETY: `stats` is a map value that lives while the program runs.
    count::add(unsafe { &raw mut (*stats).closed }, 1);
    // SAFETY: as above.
    count::add(unsafe { &raw mut (*stats).sent_bytes }, sent);
    // SAFETY: as above.
    count::add(unsafe { &raw mut (*stats).received_bytes }, received);
    // SAFETY: as above.
    count::add(
        unsafe { &raw mut (*stats).retransmits },
        u64::from(retransmits),
    );
}

/// Payload bytes sent and received. The kernel's counters are of sequence numbers, of which
/// SYN and FIN take one each.
#[inline(always)]
fn payload(ctx: &SockOpsContext, state: &SocketState, old: u32) -> (u64, u64) {
    let ops = ctx.ops;
    let acked: u64 = ctx::field(ops, offset_of!(bpf_sock_ops, bytes_acked));
    let una: u32 = ctx::field(ops, offset_of!(bpf_sock_ops, snd_una));
    let next: u32 = ctx::field(ops, offset_of!(bpf_sock_ops, snd_nxt));
    let fin_sent = old == BPF_TCP_FIN_WAIT2
        || ((old == BPF_TCP_LAST_ACK || old == BPF_TCP_CLOSING) && una == next);
    let received = bytes_received(ctx);
    let fin_received = state.flags & socket_flag::FIN_RECEIVED != 0
        || (old == BPF_TCP_FIN_WAIT2 && received > state.half_closed_received);
    (
        acked.saturating_sub(1 + u64::from(fin_sent)),
        received.saturating_sub(u64::from(fin_received)),
    )
}
