//! `bind()`: an endpoint's address is for the workload of its service only.

use mesh_common::{
    Destination, Hook, IPPROTO_TCP, IPPROTO_UDP, Reason, SocketKey, SocketState, Subject, Verdict,
    destination_flag,
};

use crate::caller::{Caller, Process};
use crate::count::Attempt;
use crate::ctx::SockAddr;
use crate::destination;
use crate::maps::{InForce, NETNS_COOKIE, SOCKETS};
use crate::redirect;
use crate::verdict::{self, Decision};

/// Judges `bind()`. Returns whether it may go on.
#[inline(always)]
pub(crate) fn bind(ctx: &SockAddr, hook: Hook) -> bool {
    let wanted = ctx.address();
    // Port 0 asks for any free one.
    if wanted.port == 0 || (wanted.protocol != IPPROTO_TCP && wanted.protocol != IPPROTO_UDP) {
        return true;
    }
    let Some(policy) = InForce::current() else {
        return true;
    };
    if redirect::is_reserved(ctx, &wanted) {
        return refuse(&policy, &wanted, hook);
    }
    match owned(&policy, ctx, &wanted) {
        Some(destination) => judge(&policy, ctx, &wanted, &destination, hook),
        None => true,
    }
}

/// Records that the address is the agent's.
#[inline(never)]
fn refuse(policy: &InForce, wanted: &SocketKey, hook: Hook) -> bool {
    let process = Process::current();
    let attempt = Attempt {
        hook,
        process: &process,
        dialled: wanted,
        source: Caller::current(policy, &process).subject,
        service: 0,
        frontend: 0,
    };
    attempt.decided(&Decision::denied(Reason::PortOwner));
    false
}

/// The endpoint that `wanted` would take; `None` if it is free for all.
#[inline(always)]
fn owned(policy: &InForce, ctx: &SockAddr, wanted: &SocketKey) -> Option<Destination> {
    let everywhere = wanted.address.is_loopback_or_unspecified();
    if everywhere && ctx.netns_cookie() != NETNS_COOKIE.load() {
        return None;
    }
    let found = destination::endpoint(policy, wanted, everywhere)?;
    (found.flags & destination_flag::OWNED != 0).then_some(found)
}

#[inline(always)]
fn judge(
    policy: &InForce,
    ctx: &SockAddr,
    wanted: &SocketKey,
    destination: &Destination,
    hook: Hook,
) -> bool {
    let process = Process::current();
    let caller = Caller::current(policy, &process);
    if let Some(state) = owners_socket(policy, ctx, &caller, &process, destination) {
        state.bound_for = destination.service;
        state.epoch = policy.header.id_epoch as u32;
        return true;
    }
    let mut decision = if caller.subject == Subject::UNKNOWN.0 {
        verdict::on_error(caller.error, destination)
    } else {
        verdict::on_error(Reason::PortOwner, destination)
    };
    // A service that nothing protects yet: the mesh is being introduced, and only counts.
    if decision.allows() {
        decision = Decision {
            verdict: Verdict::WouldDeny,
            ..decision
        };
    }
    let attempt = Attempt {
        hook,
        process: &process,
        dialled: wanted,
        source: caller.subject,
        service: destination.service,
        frontend: destination.frontend,
    };
    attempt.decided(&decision);
    decision.allows()
}

/// The socket's state, if the process is of the service's workload and so is the one that made
/// the socket: somebody else who made it may still hold it.
#[inline(always)]
fn owners_socket<'s>(
    policy: &InForce,
    ctx: &SockAddr,
    caller: &Caller,
    process: &Process,
    destination: &Destination,
) -> Option<&'s mut SocketState> {
    if caller.subject != destination.service || destination.flags & destination_flag::AMBIGUOUS != 0
    {
        return None;
    }
    let state = ctx.storage(&SOCKETS)?;
    let creator = Process::creator(state);
    let itself = creator.cgroup == process.cgroup && creator.uid == process.uid;
    (itself || creator.maker(policy) == destination.service).then_some(state)
}
