//! Counts the life of connections that `connect()` allowed.

use core::mem::offset_of;

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING,
    BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK, bpf_sock, bpf_sock_ops,
};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::SockOpsContext;
use mesh_common::{
    FlowEnd, FlowEvent, FlowKey, SocketState, bucket_of, duration_bucket, rtt_bucket, socket_flag,
};

use crate::count;
use crate::ctx;
use crate::maps::SOCKETS;
use crate::record::{self, Happened};
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
            established(ctx, state);
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
fn established(ctx: &SockOpsContext, state: &mut SocketState) {
    state.flags |= socket_flag::OPEN;
    // SAFETY: the helper has no preconditions.
    state.opened_ns = unsafe { bpf_ktime_get_ns() };
    if record::opens_are_wanted() {
        record_open(ctx, state);
    }
    let Some(stats) = count::flow(&state.tcp_series()) else {
        return;
    };
    // SAFETY: `stats` is a map value that lives while the program runs.
    count::add(unsafe { &raw mut (*stats).opened }, 1);
    if state.flags & socket_flag::REDIRECTED != 0 {
        // Connected to the agent, which says nothing about the other node.
        return;
    }
    let elapsed = connect_time(state);
    let bucket = bucket_of(elapsed);
    // SAFETY: as above.
    count::add(unsafe { &raw mut (*stats).connect_ns }, elapsed);
    // SAFETY: as above; `bucket` is below the number of buckets.
    count::add(unsafe { &raw mut (*stats).connect_buckets[bucket] }, 1);
}

#[inline(always)]
fn record_open(ctx: &SockOpsContext, state: &SocketState) {
    let opened = Happened {
        event: FlowEvent::Opened,
        end: FlowEnd::None,
        protocol: state.tcp_series().protocol,
        connect_ns: connect_time(state),
        duration_ns: 0,
        sent: 0,
        received: 0,
        retransmits: ctx::field(ctx.ops, offset_of!(bpf_sock_ops, total_retrans)),
        srtt_us: round_trip(ctx, state),
    };
    record::write(ctx.ops, state, &opened);
}

/// From `connect()` to established, nanoseconds; 0 where that says nothing about the endpoint.
#[inline(always)]
fn connect_time(state: &SocketState) -> u64 {
    if state.flags & socket_flag::REDIRECTED != 0 {
        return 0;
    }
    state.opened_ns.saturating_sub(state.connect_ns)
}

/// Smoothed round-trip time, microseconds; 0 where it is none to the endpoint.
#[inline(always)]
fn round_trip(ctx: &SockOpsContext, state: &SocketState) -> u32 {
    // The kernel keeps eight times the value.
    let srtt: u32 = ctx::field(ctx.ops, offset_of!(bpf_sock_ops, srtt_us));
    if state.flags & socket_flag::REDIRECTED != 0 {
        return 0;
    }
    srtt >> 3
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
    let since = if was_open {
        state.opened_ns
    } else {
        state.connect_ns
    };
    // SAFETY: the helper has no preconditions.
    let duration_ns = unsafe { bpf_ktime_get_ns() }.saturating_sub(since);
    let key = state.tcp_series();
    let mut happened = Happened {
        event: FlowEvent::Failed,
        end: failure(ctx),
        protocol: key.protocol,
        connect_ns: 0,
        duration_ns,
        sent: 0,
        received: 0,
        retransmits: ctx::field(ctx.ops, offset_of!(bpf_sock_ops, total_retrans)),
        srtt_us: round_trip(ctx, state),
    };
    if was_open {
        happened.event = FlowEvent::Closed;
        happened.end = end(ctx, old);
        happened.connect_ns = connect_time(state);
        happened.sent = sent;
        happened.received = received;
    }
    record::write(ctx.ops, state, &happened);
    state.flags = 0;
    count_end(&key, &happened, was_open);
}

#[inline(always)]
fn count_end(key: &FlowKey, happened: &Happened, was_open: bool) {
    let Some(stats) = count::flow(key) else {
        return;
    };
    if !was_open {
        // SAFETY: `stats` is a map value that lives while the program runs.
        count::add(unsafe { &raw mut (*stats).failed }, 1);
        return;
    }
    // SAFETY: `stats` is a map value that lives while the program runs.
    count::add(unsafe { &raw mut (*stats).closed }, 1);
    // SAFETY: as above.
    count::add(unsafe { &raw mut (*stats).sent_bytes }, happened.sent);
    // SAFETY: as above.
    count::add(
        unsafe { &raw mut (*stats).received_bytes },
        happened.received,
    );
    // SAFETY: as above.
    count::add(
        unsafe { &raw mut (*stats).retransmits },
        u64::from(happened.retransmits),
    );
    let bucket = duration_bucket(happened.duration_ns);
    // SAFETY: as above.
    count::add(
        unsafe { &raw mut (*stats).duration_ns },
        happened.duration_ns,
    );
    // SAFETY: as above; `bucket` is below the number of buckets.
    count::add(unsafe { &raw mut (*stats).duration_buckets[bucket] }, 1);
    if happened.srtt_us == 0 {
        return;
    }
    let rtt = u64::from(happened.srtt_us) * 1000;
    let bucket = rtt_bucket(rtt);
    // SAFETY: as above.
    count::add(unsafe { &raw mut (*stats).rtt_ns }, rtt);
    // SAFETY: as above; `bucket` is below the number of buckets.
    count::add(unsafe { &raw mut (*stats).rtt_buckets[bucket] }, 1);
}

/// How an established connection ended, by the state it was in before.
#[inline(always)]
fn end(ctx: &SockOpsContext, old: u32) -> FlowEnd {
    match old {
        // A program that has closed its socket does not wait for the other end here: the kernel
        // waits in its place, and without this socket.
        BPF_TCP_FIN_WAIT2 => FlowEnd::ClientFin,
        BPF_TCP_LAST_ACK if all_acknowledged(ctx) => FlowEnd::ServerFin,
        BPF_TCP_CLOSING if all_acknowledged(ctx) => FlowEnd::BothFin,
        _ => FlowEnd::Reset,
    }
}

/// What became of a connection that was never established: whether a segment came back at all.
#[inline(always)]
fn failure(ctx: &SockOpsContext) -> FlowEnd {
    let segments: u32 = ctx::field(ctx.ops, offset_of!(bpf_sock_ops, segs_in));
    if segments > 0 {
        FlowEnd::Refused
    } else {
        FlowEnd::Unanswered
    }
}

#[inline(always)]
fn all_acknowledged(ctx: &SockOpsContext) -> bool {
    let una: u32 = ctx::field(ctx.ops, offset_of!(bpf_sock_ops, snd_una));
    let next: u32 = ctx::field(ctx.ops, offset_of!(bpf_sock_ops, snd_nxt));
    una == next
}

/// Payload bytes sent and received. The kernel's counters are of sequence numbers, of which
/// SYN and FIN take one each.
#[inline(always)]
fn payload(ctx: &SockOpsContext, state: &SocketState, old: u32) -> (u64, u64) {
    let acked: u64 = ctx::field(ctx.ops, offset_of!(bpf_sock_ops, bytes_acked));
    let fin_sent = old == BPF_TCP_FIN_WAIT2
        || ((old == BPF_TCP_LAST_ACK || old == BPF_TCP_CLOSING) && all_acknowledged(ctx));
    let received = bytes_received(ctx);
    let fin_received = state.flags & socket_flag::FIN_RECEIVED != 0
        || (old == BPF_TCP_FIN_WAIT2 && received > state.half_closed_received);
    (
        acked.saturating_sub(1 + u64::from(fin_sent)),
        received.saturating_sub(u64::from(fin_received)),
    )
}
