//! Tickets: how the server's side learns of connections that were allowed in another network
//! namespace of this host. Within one namespace it looks the client's socket up instead.

use core::mem::offset_of;

use aya_ebpf::bindings::bpf_sock_ops;
use mesh_common::{
    Address, Counter, IPPROTO_TCP, SocketKey, SocketState, Ticket, TicketKey, socket_flag,
};

use crate::caller::Process;
use crate::count;
use crate::ctx;
use crate::maps::{InForce, TICKETS};

const AF_INET: u32 = 2;

/// Leaves the ticket of a connection that is about to send its first packet.
#[inline(always)]
pub(crate) fn leave(ops: *mut bpf_sock_ops, state: &SocketState) {
    let Some(policy) = InForce::current() else {
        return;
    };
    let mut creator = state.source;
    if state.flags & socket_flag::TUNNEL == 0 {
        creator = Process::creator(state).maker(&policy);
    }
    let ticket = Ticket {
        source: state.source,
        creator,
        frontend: state.frontend,
        revision: state.revision,
        epoch: state.epoch,
        flags: state.flags & socket_flag::TUNNEL,
    };
    if TICKETS.insert(key(ops, state), ticket, 0).is_err() {
        // Without one the connection is refused at the other end.
        count::own(Counter::TicketsDropped);
    }
}

/// Takes the ticket back: the connection is made, or never will be.
#[inline(always)]
pub(crate) fn take_back(ops: *mut bpf_sock_ops, state: &mut SocketState) {
    if state.flags & socket_flag::TICKET != 0 {
        state.flags &= !socket_flag::TICKET;
        // It is not there if the map was full.
        let _ = TICKETS.remove(key(ops, state));
    }
}

#[inline(always)]
fn key(ops: *mut bpf_sock_ops, state: &SocketState) -> TicketKey {
    let port: u32 = ctx::field(ops, offset_of!(bpf_sock_ops, local_port));
    TicketKey {
        client: SocketKey::new(local_address(ops), port as u16, IPPROTO_TCP),
        server: SocketKey::new(state.endpoint, state.endpoint_port, IPPROTO_TCP),
    }
}

#[inline(always)]
pub(crate) fn local_address(ops: *mut bpf_sock_ops) -> Address {
    let family: u32 = ctx::field(ops, offset_of!(bpf_sock_ops, family));
    let v4: u32 = ctx::field(ops, offset_of!(bpf_sock_ops, local_ip4));
    let word =
        |index: usize| -> u32 { ctx::field(ops, offset_of!(bpf_sock_ops, local_ip6) + 4 * index) };
    // All are read before one is chosen: the verifier rejects a read at either of two offsets.
    let v6 = [word(0), word(1), word(2), word(3)];
    if family == AF_INET {
        Address::from_v4(v4.to_ne_bytes())
    } else {
        Address::from_words(v6)
    }
}
