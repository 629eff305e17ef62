//! Which endpoint gets a call: one atomic counter walks a table in which every share is spread
//! evenly, so that any period of calls is exact on any number of CPUs.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use mesh_common::{
    AffinityKey, AffinityValue, Counter, Destination, EndpointEntry, Reason, ScheduleSlot, Split,
    SplitKey, destination_flag, endpoint_flag,
};

use crate::atomic;
use crate::caller::{Caller, Process};
use crate::count;
use crate::ctx::SockAddr;
use crate::maps::{
    AFFINITY, ENDPOINTS, InForce, NETNS_COOKIE, SCHEDULE, SHARED_SPLIT_COUNTERS, SPLIT_COUNTERS,
    SPLITS,
};

/// Chooses an endpoint of `destination` for `caller` and makes sure it can be reached.
#[inline(always)]
pub(crate) fn endpoint(
    policy: &InForce,
    ctx: &SockAddr,
    caller: &Caller,
    process: &Process,
    destination: &Destination,
) -> Result<EndpointEntry, Reason> {
    let split = split_for(policy, caller, destination).ok_or(Reason::MissingEntry)?;
    if split.period == 0 {
        return Err(Reason::NoEndpoint);
    }
    let chosen = if destination.affinity_seconds == 0 {
        next(policy, caller, destination, &split)?
    } else {
        kept_or_next(policy, caller, process, destination, &split)?
    };
    // Another node's loopback is reached through the tunnel.
    const WHERE: u16 = endpoint_flag::LOOPBACK | endpoint_flag::REMOTE;
    if chosen.flags & WHERE == endpoint_flag::LOOPBACK && ctx.netns_cookie() != NETNS_COOKIE.load()
    {
        return Err(Reason::NoEndpoint);
    }
    Ok(chosen)
}

#[inline(always)]
fn split_for(policy: &InForce, caller: &Caller, destination: &Destination) -> Option<Split> {
    let frontend = destination.frontend;
    if destination.flags & destination_flag::CALLER_SPLITS != 0 {
        let own = policy.get(
            &SPLITS,
            &SplitKey {
                subject: caller.subject,
                frontend,
            },
        );
        if own.is_some() {
            return own;
        }
        if caller.namespace != 0 {
            let shared = policy.get(
                &SPLITS,
                &SplitKey {
                    subject: caller.namespace,
                    frontend,
                },
            );
            if shared.is_some() {
                return shared;
            }
        }
    }
    policy.get(
        &SPLITS,
        &SplitKey {
            subject: 0,
            frontend,
        },
    )
}

/// The endpoint at the counter's position.
#[inline(always)]
fn next(
    policy: &InForce,
    caller: &Caller,
    destination: &Destination,
    split: &Split,
) -> Result<EndpointEntry, Reason> {
    let key = SplitKey {
        subject: caller.subject,
        frontend: destination.frontend,
    };
    at_position(policy, split, advance(&key)).ok_or(Reason::MissingEntry)
}

#[inline(always)]
fn at_position(policy: &InForce, split: &Split, position: u64) -> Option<EndpointEntry> {
    let period = u64::from(split.period);
    if period == 0 {
        return None;
    }
    let index = split.offset + (position % period) as u32;
    let ScheduleSlot { a: set, b: rank } = policy.at(&SCHEDULE, index)?;
    if rank == ScheduleSlot::ENDPOINT {
        return policy.at(&ENDPOINTS, set);
    }
    let ScheduleSlot {
        a: size,
        b: per_period,
    } = policy.at(&SCHEDULE, set)?;
    let size = u64::from(size);
    if size == 0 {
        return None;
    }
    let nth = (position / period) * u64::from(per_period) + u64::from(rank);
    let member = policy.at(&SCHEDULE, set + 1 + (nth % size) as u32)?;
    policy.at(&ENDPOINTS, member.a)
}

/// Takes the next position of a caller in a frontend's split.
#[inline(always)]
fn advance(key: &SplitKey) -> u64 {
    if let Some(counter) = SPLIT_COUNTERS.get_ptr_mut(key) {
        return take(counter);
    }
    // Whichever CPU comes first makes the counter; the others find it there.
    let _ = SPLIT_COUNTERS.insert(key, 0u64, BPF_NOEXIST.into());
    if let Some(counter) = SPLIT_COUNTERS.get_ptr_mut(key) {
        return take(counter);
    }
    count::own(Counter::SplitCountersShared);
    match SHARED_SPLIT_COUNTERS.get_ptr_mut(key.frontend % 64) {
        Some(counter) => take(counter),
        None => 0,
    }
}

#[inline(always)]
fn take(counter: *mut u64) -> u64 {
    // SAFETY: a map value, aligned to 8 bytes, alive while the program runs.
    unsafe { atomic::fetch_add(counter, 1) }
}

/// The endpoint this caller was given before, or the next one, which it then keeps.
#[inline(always)]
fn kept_or_next(
    policy: &InForce,
    caller: &Caller,
    process: &Process,
    destination: &Destination,
    split: &Split,
) -> Result<EndpointEntry, Reason> {
    let key = AffinityKey {
        cgroup: process.cgroup,
        frontend: destination.frontend,
        uid: process.uid,
    };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let expires_ns = now + u64::from(destination.affinity_seconds) * 1_000_000_000;
    if let Some(kept) = AFFINITY.get_ptr_mut(key) {
        // SAFETY: a map value that lives while the program runs; a torn read of an entry that
        // is being replaced yields an older endpoint of the same table.
        let kept = unsafe { &mut *kept };
        if kept.expires_ns > now && kept.digest == split.digest {
            kept.expires_ns = expires_ns;
            return Ok(kept.endpoint);
        }
    }
    let endpoint = next(policy, caller, destination, split)?;
    let value = AffinityValue {
        expires_ns,
        endpoint,
        digest: split.digest,
    };
    if AFFINITY.insert(key, value, 0).is_err() {
        count::own(Counter::AffinityDropped);
    }
    Ok(endpoint)
}
