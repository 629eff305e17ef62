//! Counting and recording. Counters are per CPU and never depend on the agent; a full map or
//! ring costs a series or a record, which is counted, never a verdict.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use mesh_common::{
    Counter, DecisionKey, DenialRecord, FlowKey, FlowStats, Hook, SocketKey, Verdict, room,
};

use crate::atomic;
use crate::caller::Process;
use crate::maps::{COUNTERS, DECISIONS, FLOWS, RECORDS, ROOM};
use crate::verdict::Decision;

/// Least time between two records of one would-deny series on one CPU, nanoseconds.
const AUDIT_RECORD_INTERVAL: u64 = 100_000_000;

/// A series before anything is counted; not on the stack, which is too small for it.
static NO_STATS: FlowStats = FlowStats {
    opened: 0,
    closed: 0,
    failed: 0,
    sent_bytes: 0,
    received_bytes: 0,
    retransmits: 0,
    connect_ns: 0,
    connect_buckets: [0; mesh_common::CONNECT_BUCKETS],
    rtt_ns: 0,
    rtt_buckets: [0; mesh_common::RTT_BUCKETS],
    duration_ns: 0,
    duration_buckets: [0; mesh_common::DURATION_BUCKETS],
};

/// Adds to a per-CPU counter. Atomic because a hook in process context can be interrupted by
/// one in softirq on the same CPU.
#[inline(always)]
pub(crate) fn add(counter: *mut u64, value: u64) {
    // SAFETY: callers pass a field of a map value, aligned to 8 bytes, alive while the program
    // runs.
    unsafe { atomic::add(counter, value) }
}

/// Counts something about the programs themselves.
#[inline(always)]
pub(crate) fn own(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter.0) {
        add(value, 1);
    }
}

/// Whether another series of a kind may be made, see [`room`]; if so, it is taken for made.
#[inline(always)]
pub(crate) fn has_room(kind: u32) -> bool {
    let Some(left) = ROOM.get_ptr_mut(kind) else {
        return false;
    };
    // SAFETY: a map value, aligned to 8 bytes, that lives while the program runs.
    let some = unsafe { left.read_volatile() } as i64 > 0;
    if some {
        // Another CPU may take the last one, too: what is less than 0 is none.
        add(left, u64::MAX);
    }
    some
}

/// The series of a flow, made if need be.
#[inline(always)]
pub(crate) fn flow(key: &FlowKey) -> Option<*mut FlowStats> {
    if let Some(stats) = FLOWS.get_ptr_mut(key) {
        return Some(stats);
    }
    if has_room(room::FLOWS) {
        let nothing: &FlowStats = &NO_STATS;
        let _ = FLOWS.insert(key, nothing, BPF_NOEXIST.into());
    }
    let stats = FLOWS.get_ptr_mut(key);
    if stats.is_none() {
        own(Counter::FlowSeriesDropped);
    }
    stats
}

/// An attempt to call, as far as it is known.
pub(crate) struct Attempt<'a> {
    pub(crate) hook: Hook,
    pub(crate) process: &'a Process,
    pub(crate) dialled: &'a SocketKey,
    pub(crate) source: u32,
    pub(crate) service: u32,
    pub(crate) frontend: u32,
}

impl Attempt<'_> {
    /// Counts `decision` of a system call and records it unless it was a plain yes.
    #[inline(always)]
    pub(crate) fn decided(&self, decision: &Decision) {
        if self.counted(decision) {
            let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
            let comm = bpf_get_current_comm().unwrap_or_default();
            self.record(decision, pid, comm, SocketKey::default());
        }
    }

    /// The same for a packet from `peer`, when the current process has nothing to do with it.
    #[inline(always)]
    pub(crate) fn received(&self, decision: &Decision, peer: &SocketKey) {
        if self.counted(decision) {
            self.record(decision, 0, [0; 16], *peer);
        }
    }

    /// Counts `decision`; whether a record of it is due.
    #[inline(always)]
    fn counted(&self, decision: &Decision) -> bool {
        let key = DecisionKey {
            source: self.source,
            service: self.service,
            rule: decision.rule,
            verdict: decision.verdict.0,
            reason: decision.reason.0,
            protocol: self.dialled.protocol,
            _pad: 0,
        };
        let series = series(&key);
        if decision.verdict.0 == Verdict::Denied.0 {
            own(Counter::Denials);
            return true;
        }
        decision.verdict.0 == Verdict::WouldDeny.0 && due(series)
    }

    #[inline(always)]
    fn record(&self, decision: &Decision, pid: u32, comm: [u8; 16], peer: SocketKey) {
        let Some(mut entry) = RECORDS.reserve_untyped::<DenialRecord>(0) else {
            own(Counter::RecordsLost);
            return;
        };
        entry.write(DenialRecord {
            // SAFETY: the helper has no preconditions.
            time_ns: unsafe { bpf_ktime_get_ns() },
            cgroup: self.process.cgroup,
            pid,
            uid: self.process.uid,
            source: self.source,
            service: self.service,
            frontend: self.frontend,
            rule: decision.rule,
            dialled: *self.dialled,
            verdict: decision.verdict.0,
            reason: decision.reason.0,
            hook: self.hook.0,
            _pad: 0,
            comm,
            peer,
            _pad2: 0,
        });
        entry.submit(0);
    }
}

/// Counts one decision; its series, unless the map is full.
#[inline(always)]
fn series(key: &DecisionKey) -> Option<*mut [u64; 2]> {
    let mut found = DECISIONS.get_ptr_mut(key);
    if found.is_none() && has_room(room::DECISIONS) {
        let _ = DECISIONS.insert(key, [0u64; 2], BPF_NOEXIST.into());
        found = DECISIONS.get_ptr_mut(key);
    }
    match found {
        Some(value) => add(value.cast(), 1),
        None => own(Counter::DecisionSeriesDropped),
    }
    found
}

/// Whether a record of this series is due again. Its second word is when the last one was.
#[inline(always)]
fn due(series: Option<*mut [u64; 2]>) -> bool {
    let Some(series) = series else {
        return false;
    };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: a map value that lives while the program runs; only this CPU writes it.
    let last = unsafe { &mut (*series)[1] };
    if now < *last + AUDIT_RECORD_INTERVAL {
        return false;
    }
    *last = now;
    true
}
