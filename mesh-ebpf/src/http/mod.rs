//! Requests at endpoints that are declared to speak HTTP, at the server's side.
//!
//! `sock_ops` notes connections as they are accepted; the programs on the workload's cgroup read
//! what arrives and what is sent; `sock_ops` settles what is left when they end. Nothing here
//! changes what happens to a packet.

mod accept;
mod caller;
mod frames;
mod read;
mod segment;
mod tally;

use core::mem::offset_of;

use aya_ebpf::bindings::{__sk_buff, BPF_TCP_LISTEN, bpf_sock, bpf_tcp_sock as bpf_tcp_sock_info};
use aya_ebpf::helpers::bpf_tcp_sock;
use mesh_common::http::{HttpSocket, Piece, Unparsed, greeted, http_flag, request_bit};
use mesh_common::http2::PREFACE;

pub(crate) use self::accept::observe;
pub(crate) use self::read::Work;
use self::read::{Protocol, Side};
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
    if unsafe { atomic::exchange(&raw mut socket.received.busy, 1) } != 0 {
        tally::over(socket, Unparsed::Busy);
        return;
    }
    if socket.flags & http_flag::SEEN == 0 {
        caller::identify(skb, socket);
    }
    match socket
        .received
        .order
        .place(segment.seq, segment.length, &mut socket.requests.skip)
    {
        Piece::Nothing => saw(socket),
        Piece::From(at) => {
            let (at, protocol) = begin_requests(skb, socket, &segment, at);
            saw(socket);
            if socket.over == 0 {
                read::read(skb, socket, &segment, at, (Side::Requests, protocol));
            }
        }
        Piece::Gap => missed(socket),
    }
    // SAFETY: as above.
    unsafe { atomic::release(&raw mut socket.received.busy) };
}

/// Notes that bytes of the client were seen. What both directions read is written only if it
/// changes.
#[inline(always)]
fn saw(socket: &mut HttpSocket) {
    if socket.flags & http_flag::SEEN == 0 {
        socket.flags |= http_flag::SEEN;
    }
}

/// Looks at a packet of a socket of the workload. The socket is locked by whoever sends.
#[inline(always)]
pub(crate) fn sent(skb: *mut __sk_buff) {
    let Some(sk) = socket_of(skb) else {
        return;
    };
    let Some(socket) = ctx::storage(&HTTP_SOCKETS, sk, 0) else {
        return;
    };
    socket.pending.fetch();
    let Some(segment) = wanted(skb, socket) else {
        return;
    };
    match socket
        .sent
        .order
        .place(segment.seq, segment.length, &mut socket.responses.skip)
    {
        Piece::Nothing => {}
        Piece::From(at) => {
            let protocol = begin_responses(skb, socket, &segment, at);
            if socket.flags & http_flag::SEEN == 0 && protocol == Protocol::Http1 {
                tally::over(socket, unasked(sk));
                return;
            }
            read::read(skb, socket, &segment, at, (Side::Responses, protocol));
        }
        Piece::Gap => missed(socket),
    }
}

/// What the client speaks, by its first bytes, and where what is to be read begins.
#[inline(always)]
fn begin_requests(
    skb: *mut __sk_buff,
    socket: &mut HttpSocket,
    segment: &Segment,
    at: u32,
) -> (u32, Protocol) {
    if socket.flags & http_flag::HTTP2 != 0 {
        return (at, Protocol::Http2);
    }
    if socket.flags & http_flag::SEEN != 0 {
        return (at, Protocol::Http1);
    }
    if frames::is_preface(skb, segment, at) {
        socket.flags |= http_flag::HTTP2;
        return (at + PREFACE.len() as u32, Protocol::Http2);
    }
    if socket.bits & request_bit::GRPC != 0 || socket.greeted == greeted::HTTP2 {
        tally::over(socket, Unparsed::NotHttp);
    }
    (at, Protocol::Http1)
}

/// What the server speaks, by its first bytes.
#[inline(always)]
fn begin_responses(
    skb: *mut __sk_buff,
    socket: &mut HttpSocket,
    segment: &Segment,
    at: u32,
) -> Protocol {
    if socket.greeted == 0 {
        let is_http1 = socket.flags & (http_flag::SEEN | http_flag::HTTP2) == http_flag::SEEN;
        socket.greeted = if !is_http1 && frames::is_settings(skb, segment, at) {
            greeted::HTTP2
        } else {
            greeted::HTTP1
        };
    }
    match socket.greeted {
        greeted::HTTP2 => Protocol::Http2,
        _ => Protocol::Http1,
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

/// Why a socket sends before any bytes for it were seen.
#[inline(always)]
fn unasked(sk: *mut bpf_sock) -> Unparsed {
    // SAFETY: a socket pointer of the context, checked not to be null.
    let tcp = unsafe { bpf_tcp_sock(sk) };
    if tcp.is_null() {
        return Unparsed::MidStream;
    }
    let received: u64 = ctx::field(tcp, offset_of!(bpf_tcp_sock_info, bytes_received));
    if received == 0 {
        Unparsed::Unsolicited
    } else {
        Unparsed::MidStream
    }
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
