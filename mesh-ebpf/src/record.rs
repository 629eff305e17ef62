//! Records of flows: what became of one connection, for people to look at. They cost a series
//! nothing: a full ring costs records, which are counted.

use core::mem::offset_of;

use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_ktime_get_ns};
use mesh_common::{Counter, FlowEnd, FlowEvent, FlowRecord, IPPROTO_TCP, SocketKey, SocketState};

use crate::count;
use crate::ctx;
use crate::maps::{FLOW_RECORDS, FLOWS_FOLLOWED};
use crate::ticket::local_address;

/// What a record tells besides what the socket remembers.
pub(crate) struct Happened {
    pub(crate) event: FlowEvent,
    pub(crate) end: FlowEnd,
    /// [`FlowRecord::protocol`].
    pub(crate) protocol: u32,
    pub(crate) connect_ns: u64,
    pub(crate) duration_ns: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) retransmits: u32,
    pub(crate) srtt_us: u32,
}

/// Whether somebody wants to know of every flow's beginning.
#[inline(always)]
pub(crate) fn opens_are_wanted() -> bool {
    FLOWS_FOLLOWED.get(0).is_some_and(|wanted| *wanted != 0)
}

/// Writes a record. The agent is woken only if it has read everything before, so that at most
/// one connection in each of its pauses pays for that.
#[inline(always)]
pub(crate) fn write(ops: *mut bpf_sock_ops, state: &SocketState, happened: &Happened) {
    let Some(mut entry) = FLOW_RECORDS.reserve(0) else {
        count::own(Counter::FlowRecordsLost);
        return;
    };
    let port: u32 = ctx::field(ops, offset_of!(bpf_sock_ops, local_port));
    entry.write(FlowRecord {
        // SAFETY: the helper has no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        // SAFETY: the helper takes the context as it is.
        cookie: unsafe { bpf_get_socket_cookie(ops.cast()) },
        cgroup: state.creator_cgroup,
        connect_ns: happened.connect_ns,
        duration_ns: happened.duration_ns,
        sent_bytes: happened.sent,
        received_bytes: happened.received,
        retransmits: happened.retransmits,
        srtt_us: happened.srtt_us,
        source: state.source,
        service: state.service,
        frontend: state.frontend,
        version: state.version,
        target: state.target,
        rule: state.rule,
        revision: state.revision,
        epoch: state.epoch,
        pid: state.pid,
        uid: state.creator_uid,
        local: SocketKey::new(local_address(ops), port as u16, IPPROTO_TCP),
        dialled: SocketKey::new(state.dialled, state.dialled_port, IPPROTO_TCP),
        endpoint: SocketKey::new(state.endpoint, state.endpoint_port, IPPROTO_TCP),
        event: happened.event.0,
        end: happened.end.0,
        verdict: state.verdict,
        reason: state.reason,
        protocol: happened.protocol,
        _pad: 0,
    });
    entry.submit(0);
}
