//! Which service made a socket: a socket can be handed to another process before it is used.

use core::mem::offset_of;

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::programs::SockContext;
use mesh_common::{Counter, Subject};

use crate::caller::{Process, inherited};
use crate::count;
use crate::ctx;
use crate::maps::{InForce, SOCKETS};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Remembers the creator of an IP socket if it is a service. A socket without a note counts as
/// made by a process of no service.
#[inline(always)]
pub(crate) fn remember_creator(socket: &SockContext) {
    let family: u32 = ctx::field(socket.sock, offset_of!(bpf_sock, family));
    if family != AF_INET && family != AF_INET6 {
        return;
    }
    let Some(policy) = InForce::current() else {
        return;
    };
    let mut process = Process::current();
    let mut subject = process.subject(&policy);
    if subject == Subject::UNKNOWN.0 {
        process.cgroup = inherited(&policy);
        subject = process.subject(&policy);
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
