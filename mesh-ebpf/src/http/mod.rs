//! Requests at endpoints that are declared to speak HTTP, at the server's side.
//!
//! `sock_ops` notes connections as they are accepted; the programs on the workload's cgroup read
//! what arrives and what is sent; `sock_ops` settles what is left when they end. Nothing here
//! changes what happens to a packet.

mod accept;
mod caller;
mod read;
mod segment;
mod tally;

use core::mem::offset_of;

use aya_ebpf::bindings::{__sk_buff, BPF_TCP_LISTEN, bpf_sock};
use mesh_common::http::{HttpSocket, Piece, Unparsed, http_flag};

pub(crate) use self::accept::observe;
use self::read::Side;
pub(crate) use self::read::Work;
use self::segment::Segment;
use crate::atomic;
use crate::ctx;
use crate::maps::HTTP_SOCKETS;

/// Looks at a packet for a socket of the workload.
#[inline(always)]
pub(crate) fn received(skb: *mut __sk_buff) {
    let Some(sk) = socket_of(skb) else {
        return;
    };
    let Some(socket) = ctx::storage(&HTTP_SOCKETS, sk, 0) else {
        let state: u32 = ctx::field(sk, offset_of!(bpf_sock, state));
        if state == BPF_TCP_LISTEN {
            caller::asks(skb);
        }
        return;
    };
    let Some(segment) = wanted(skb, socket) else {
        return;
    };
    // Packets of one connection can be on two CPUs at once before TCP has put them in order.
    // SAFETY: a field of the socket's storage, which lives while the program runs.
    if unsafe { atomic::exchange(&raw mut socket.busy, 1) } != 0 {
        tally::over(socket, Unparsed::Busy);
        return;
    }
    if socket.flags & http_flag::SEEN == 0 {
        caller::identify(skb, socket);
    }
    match socket
        .received
        .place(segment.seq, segment.length, &mut socket.requests.skip)
    {
        Piece::Nothing => socket.flags |= http_flag::SEEN,
        Piece::From(at) => {
            socket.flags |= http_flag::SEEN;
            read::read(skb, socket, &segment, at, Side::Requests);
        }
        Piece::Gap => missed(socket),
    }
    // SAFETY: as above.
    unsafe { atomic::exchange(&raw mut socket.busy, 0) };
}

/// Looks at a packet of a socket of the workload. The socket is locked by whoever sends.
#[inline(always)]
pub(crate) fn sent(skb: *mut __sk_buff) {
    let Some(socket) = socket_of(skb).and_then(|sk| ctx::storage(&HTTP_SOCKETS, sk, 0)) else {
        return;
    };
    let Some(segment) = wanted(skb, socket) else {
        return;
    };
    match socket
        .sent
        .place(segment.seq, segment.length, &mut socket.responses.skip)
    {
        Piece::Nothing => {}
        Piece::From(at) => read::read(skb, socket, &segment, at, Side::Responses),
        Piece::Gap => missed(socket),
    }
}

#[inline(always)]
fn socket_of(skb: *mut __sk_buff) -> Option<*mut bpf_sock> {
    let sk: *mut bpf_sock = ctx::field(skb, offset_of!(__sk_buff, __bindgen_anon_2));
    (!sk.is_null()).then_some(sk)
}

/// The bytes of a packet, if it has any and the connection is followed.
#[inline(always)]
fn wanted(skb: *mut __sk_buff, socket: &HttpSocket) -> Option<Segment> {
    if socket.over != 0 {
        return None;
    }
    let segment = Segment::parse(skb)?;
    (segment.length != 0).then_some(segment)
}

/// Bytes that matter were missed.
#[inline(always)]
fn missed(socket: &mut HttpSocket) {
    let reason = if socket.flags & http_flag::SEEN == 0 {
        Unparsed::MidStream
    } else {
        Unparsed::Gap
    };
    tally::over(socket, reason);
}
