//! Who calls: looked up once for a connection.

use core::mem::offset_of;

use aya_ebpf::bindings::{__sk_buff, BPF_TCP_LISTEN, bpf_sock};
use aya_ebpf::helpers::bpf_sk_release;
use mesh_common::http::{HttpSocket, request_bit};
use mesh_common::{Subject, TicketKey, socket_flag};

use crate::client::look_up;
use crate::ctx;
use crate::maps::{HTTP_CALLERS, SOCKETS, TICKETS};
use crate::packet::Packet;

/// Keeps the ticket of a connection that is asked for: it is taken back before the first request.
#[inline(always)]
pub(super) fn asks(skb: *mut __sk_buff) {
    let Some(packet) = Packet::parse(skb) else {
        return;
    };
    if !packet.opens() {
        return;
    }
    let key = key(&packet);
    // SAFETY: entries are not reused while the program runs (no preallocation); copied at once.
    if let Some(ticket) = unsafe { TICKETS.get(key) } {
        // The caller of a connection that finds no room stays unknown.
        let _ = HTTP_CALLERS.insert(key, *ticket, 0);
    }
}

/// Notes who sends the first bytes.
#[inline(always)]
pub(super) fn identify(skb: *mut __sk_buff, socket: &mut HttpSocket) {
    let Some(packet) = Packet::parse(skb) else {
        return;
    };
    let sk = look_up(skb, &packet, true);
    if sk.is_null() {
        by_ticket(&packet, socket);
        return;
    }
    let state: u32 = ctx::field(sk, offset_of!(bpf_sock, state));
    if state == BPF_TCP_LISTEN {
        // Listens on the port that the client happens to have on another host.
        socket.source = Subject::OUTSIDE.0;
    } else if let Some(state) = ctx::storage(&SOCKETS, sk, 0)
        && state.flags & socket_flag::FLOW != 0
    {
        note(socket, state.source, state.flags);
    }
    // SAFETY: the reference that the lookup has taken.
    unsafe { bpf_sk_release(sk.cast()) };
}

#[inline(always)]
fn by_ticket(packet: &Packet, socket: &mut HttpSocket) {
    let key = key(packet);
    // SAFETY: an entry that is reused meanwhile is another caller's, who then is counted for
    // this one: the map holds a thousand connections between their first packets.
    match unsafe { HTTP_CALLERS.get(key) } {
        Some(ticket) => {
            note(socket, ticket.source, ticket.flags);
            // It may have been displaced.
            let _ = HTTP_CALLERS.remove(key);
        }
        None => socket.source = Subject::OUTSIDE.0,
    }
}

#[inline(always)]
fn note(socket: &mut HttpSocket, source: u32, flags: u32) {
    socket.source = source;
    if flags & socket_flag::TUNNEL != 0 {
        socket.bits |= request_bit::MUTUAL_TLS;
    }
}

#[inline(always)]
fn key(packet: &Packet) -> TicketKey {
    TicketKey {
        client: packet.source,
        server: packet.target,
    }
}
