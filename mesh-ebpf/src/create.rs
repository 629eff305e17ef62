//! Which service makes a socket, and whether it may make one of this kind: a socket can be handed
//! to another process before it is used, and some kinds go around the other hooks.

use core::mem::offset_of;

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::programs::SockContext;
use mesh_common::{Counter, Hook, ORDINARY_SOCKET, Reason, SocketKey, Subject, socket_kind_flag};

use crate::caller::{Caller, Process, inherited};
use crate::count::{self, Attempt};
use crate::ctx;
use crate::maps::{InForce, SOCKETS};
use crate::verdict::Decision;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Judges a new socket. Returns whether it may be made.
#[inline(always)]
pub(crate) fn create(socket: &SockContext) -> bool {
    let family: u32 = ctx::field(socket.sock, offset_of!(bpf_sock, family));
    if family != AF_INET && family != AF_INET6 {
        return true;
    }
    let Some(policy) = InForce::current() else {
        return true;
    };
    let kind: u32 = ctx::field(socket.sock, offset_of!(bpf_sock, type_));
    let protocol: u32 = ctx::field(socket.sock, offset_of!(bpf_sock, protocol));
    let leave = socket_kind_flag(kind, protocol);
    if leave != ORDINARY_SOCKET {
        return policy.header.flags & leave != 0 || unusual(&policy, kind, protocol);
    }
    remember_creator(socket, &policy);
    true
}

/// Whether the caller may make a socket that goes around the other hooks: a service may not. A
/// caller nobody knows is far more likely to be the host's, unless its entry is lost.
#[inline(never)]
fn unusual(policy: &InForce, kind: u32, protocol: u32) -> bool {
    let process = Process::current();
    let caller = Caller::current(policy, &process);
    let lost = caller.error.0 == Reason::MissingEntry.0;
    if caller.subject < Subject::FIRST_NAMED && !lost {
        return true;
    }
    let what = SocketKey {
        port: protocol as u16,
        protocol: kind as u8,
        ..SocketKey::default()
    };
    let attempt = Attempt {
        hook: Hook::SockCreate,
        process: &process,
        dialled: &what,
        source: caller.subject,
        service: 0,
        frontend: 0,
    };
    attempt.decided(&Decision::denied(Reason::SocketKind));
    false
}

/// Remembers the creator of a socket if it is a service. A socket without a note counts as made
/// by a process of no service.
#[inline(always)]
fn remember_creator(socket: &SockContext, policy: &InForce) {
    let mut process = Process::current();
    let mut subject = process.subject(policy);
    if subject == Subject::UNKNOWN.0 {
        process.cgroup = inherited(policy);
        subject = process.subject(policy);
    }
    if subject < Subject::FIRST_NAMED {
        return;
    }
    match ctx::storage(&SOCKETS, socket.sock, BPF_SK_STORAGE_GET_F_CREATE.into()) {
        Some(state) => {
            state.creator_cgroup = process.cgroup;
            state.creator_uid = process.uid;
        }
        None => count::own(Counter::SocketStorageFailed),
    }
}
