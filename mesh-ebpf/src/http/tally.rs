//! Counts requests, and connections that are not followed any further.

use aya_ebpf::bindings::BPF_NOEXIST;
use mesh_common::http::{
    HttpSocket, Method, RequestKey, RequestStats, Unparsed, UnparsedKey, request_bucket,
};
use mesh_common::{Counter, REQUEST_BUCKETS, room};

use crate::atomic;
use crate::count;
use crate::maps::{REQUESTS, UNPARSED};

/// A series before anything is counted; not on the stack, which is too small for it.
static NO_STATS: RequestStats = RequestStats {
    unanswered: 0,
    elapsed_ns: 0,
    buckets: [0; REQUEST_BUCKETS],
};

/// Counts a request and how long its answer took.
#[inline(always)]
pub(super) fn answered(socket: &HttpSocket, method: Method, status: u16, elapsed_ns: u64) {
    let Some(stats) = series(socket, method, status) else {
        return;
    };
    let bucket = request_bucket(elapsed_ns);
    // SAFETY: `stats` is a map value that lives while the program runs.
    count::add(unsafe { &raw mut (*stats).elapsed_ns }, elapsed_ns);
    if bucket < REQUEST_BUCKETS {
        // SAFETY: as above, and within bounds.
        count::add(unsafe { &raw mut (*stats).buckets[bucket] }, 1);
    }
}

/// Counts requests whose connection ended without an answer.
#[inline(always)]
pub(super) fn unanswered(socket: &HttpSocket, method: Method, requests: u32) {
    if let Some(stats) = series(socket, method, 0) {
        // SAFETY: `stats` is a map value that lives while the program runs.
        count::add(unsafe { &raw mut (*stats).unanswered }, u64::from(requests));
    }
}

#[inline(always)]
fn series(socket: &HttpSocket, method: Method, status: u16) -> Option<*mut RequestStats> {
    let key = RequestKey {
        source: socket.source,
        service: socket.service,
        version: socket.version,
        bits: socket.bits,
        method: u16::from(method.0),
        status,
    };
    if let Some(stats) = REQUESTS.get_ptr_mut(key) {
        return Some(stats);
    }
    if count::has_room(room::REQUESTS) {
        let nothing: &RequestStats = &NO_STATS;
        let _ = REQUESTS.insert(key, nothing, BPF_NOEXIST.into());
    }
    let stats = REQUESTS.get_ptr_mut(key);
    if stats.is_none() {
        count::own(Counter::RequestSeriesDropped);
    }
    stats
}

/// Stops following a connection; the first reason counts.
#[inline(always)]
pub(super) fn over(socket: &mut HttpSocket, reason: Unparsed) {
    // SAFETY: a field of the socket's storage, which lives while the program runs.
    let before = unsafe { atomic::exchange(&raw mut socket.over, u64::from(reason.0) + 1) };
    if before == 0 {
        unparsed(socket.service, reason);
    }
}

/// Counts a connection that is not followed.
#[inline(always)]
pub(super) fn unparsed(service: u32, reason: Unparsed) {
    let key = UnparsedKey {
        service,
        reason: u32::from(reason.0),
    };
    if UNPARSED.get_ptr_mut(key).is_none() && count::has_room(room::UNPARSED) {
        let _ = UNPARSED.insert(key, 0, BPF_NOEXIST.into());
    }
    match UNPARSED.get_ptr_mut(key) {
        Some(count) => count::add(count, 1),
        None => count::own(Counter::RequestSeriesDropped),
    }
}
