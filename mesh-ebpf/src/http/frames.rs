//! HTTP/2: walks over frames and hands what matters to the agent, which knows how to read it.

use core::ffi::c_void;
use core::ptr::from_ref;
use core::slice;

use aya_ebpf::bindings::{__sk_buff, bpf_sock_ops};
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_skb_load_bytes};
use mesh_common::Counter;
use mesh_common::http::{Direction, HttpSocket, Stream, Unparsed, http_flag};
use mesh_common::http2::{
    FRAME_HEADER, FrameHeader, HEAD_BYTES, Head, Kept, PREFACE, Walk, frame_kind, head_flag,
};

use super::read::{Side, Turn, Work, bounded, stop};
use super::segment::Segment;
use crate::count;
use crate::maps::HTTP_HEADS;
use crate::packet::load;

/// Whether the client begins as one of HTTP/2 does. The whole preface is in one packet, or it is
/// not recognised.
#[inline(always)]
pub(super) fn is_preface(skb: *mut __sk_buff, segment: &Segment, from: u32) -> bool {
    let Some(bytes) = load::<{ PREFACE.len() }>(skb, segment.at + from) else {
        return false;
    };
    let [a, b, c] = words(&bytes);
    let [d, e, f] = words(&PREFACE);
    a == d && b == e && c == f
}

#[inline(always)]
fn words(bytes: &[u8; 24]) -> [u64; 3] {
    let (words, _) = bytes.as_chunks::<8>();
    [0, 1, 2].map(|index: usize| words.get(index).map_or(0, |word| u64::from_ne_bytes(*word)))
}

/// Whether the server begins as one of HTTP/2 does: with SETTINGS, maybe before the client has
/// said anything.
#[inline(always)]
pub(super) fn is_settings(skb: *mut __sk_buff, segment: &Segment, from: u32) -> bool {
    let Some(bytes) = load::<FRAME_HEADER>(skb, segment.at + from) else {
        return false;
    };
    let frame = FrameHeader::new(&bytes);
    frame.kind == frame_kind::SETTINGS && frame.flags == 0 && frame.is_sound()
}

/// One step over what the client sends; returns 1 when the packet has been walked over.
pub(super) extern "C" fn request_step(_index: u32, context: *mut c_void) -> i64 {
    step(context.cast(), Side::Requests)
}

/// The same for what the server sends.
pub(super) extern "C" fn response_step(_index: u32, context: *mut c_void) -> i64 {
    step(context.cast(), Side::Responses)
}

#[inline(always)]
fn step(turn: *mut Turn, side: Side) -> i64 {
    // SAFETY: `read` passes a turn whose pointers are valid while the program runs.
    let Turn { skb, socket, work } = unsafe { turn.read() };
    // SAFETY: as above.
    let socket = unsafe { &mut *socket };
    // SAFETY: as above.
    let work = unsafe { &mut *work };
    let (stream, Direction { walk, .. }) = parts(socket, side);
    let skipped = stream.pass_over(u64::from(work.left)) as u32;
    work.at += skipped;
    work.left -= skipped;
    if work.left == 0 {
        work.done = 1;
        return 1;
    }
    if walk.left != 0 {
        return payload(skb, socket, work, side, 0);
    }
    if read_header(skb, work, walk).is_none() {
        return 1;
    }
    if (walk.have as usize) < FRAME_HEADER {
        return 0;
    }
    let Some(frame) = walk.begin() else {
        return stop(work, socket, Unparsed::NotHttp);
    };
    let kept = frame.kept(side.into());
    if kept == Kept::Payload {
        return payload(skb, socket, work, side, head_flag::BEGINS);
    }
    stream.skip = u64::from(frame.length);
    walk.left = 0;
    match kept {
        Kept::Nothing => 0,
        _ => tell(skb, socket, work, side, head_flag::BEGINS, 0),
    }
}

/// What is remembered of a direction.
#[inline(always)]
fn parts(socket: &mut HttpSocket, side: Side) -> (&mut Stream, &mut Direction) {
    match side {
        Side::Requests => (&mut socket.requests, &mut socket.received),
        Side::Responses => (&mut socket.responses, &mut socket.sent),
    }
}

/// Reads a frame header, or the next byte of one that came in pieces.
#[inline(always)]
fn read_header(skb: *mut __sk_buff, work: &mut Work, walk: &mut Walk) -> Option<()> {
    if walk.have == 0 && work.left >= FRAME_HEADER as u32 {
        walk.header = load::<FRAME_HEADER>(skb, work.at)?;
        walk.have = FRAME_HEADER as u8;
    } else {
        let [byte] = load::<1>(skb, work.at)?;
        *walk.header.get_mut(walk.have as usize)? = byte;
        walk.have += 1;
        work.at += 1;
        work.left -= 1;
        return Some(());
    }
    work.at += FRAME_HEADER as u32;
    work.left -= FRAME_HEADER as u32;
    Some(())
}

/// Hands over what the packet has of a payload, or as much as a record takes.
#[inline(always)]
fn payload(
    skb: *mut __sk_buff,
    socket: &mut HttpSocket,
    work: &mut Work,
    side: Side,
    flags: u32,
) -> i64 {
    let (_, Direction { walk, .. }) = parts(socket, side);
    let mut length = if walk.left < work.left {
        walk.left
    } else {
        work.left
    };
    if length != 0 {
        length = bounded::<{ HEAD_BYTES as u32 }>(length);
        let bytes = work.record.bytes.as_mut_ptr();
        // SAFETY: the context as the kernel handed it over, and room for so many bytes.
        let failed = unsafe { bpf_skb_load_bytes(skb.cast(), work.at, bytes.cast(), length) };
        if failed != 0 {
            return 1;
        }
    }
    walk.left -= length;
    work.at += length;
    work.left -= length;
    tell(skb, socket, work, side, flags, length)
}

/// Makes a record of the frame that passes, with `length` bytes of its payload.
#[inline(always)]
fn tell(
    skb: *mut __sk_buff,
    socket: &mut HttpSocket,
    work: &mut Work,
    side: Side,
    flags: u32,
    length: u32,
) -> i64 {
    let of_side = match side {
        Side::Requests => 0,
        Side::Responses => head_flag::RESPONSES,
    };
    let (source, service, version, bits) =
        (socket.source, socket.service, socket.version, socket.bits);
    let (_, direction) = parts(socket, side);
    let (frame, number) = (direction.walk.frame, direction.told);
    direction.told += 1;
    work.record.head = Head {
        time_ns: work.now,
        // SAFETY: the helper takes the context as it is.
        cookie: unsafe { bpf_get_socket_cookie(skb.cast()) },
        source,
        service,
        version,
        bits,
        frame,
        number,
        flags: flags | of_side,
        length,
    };
    let whole = (size_of::<Head>() as u32 + length) as usize;
    // SAFETY: a record begins with its head and has room for as many bytes.
    let record = unsafe { slice::from_raw_parts(from_ref(&work.record).cast::<u8>(), whole) };
    if HTTP_HEADS.output_untyped::<[u8]>(record, 0).is_err() {
        count::own(Counter::HeadsLost);
        return stop(work, socket, Unparsed::Lost);
    }
    0
}

/// Tells that a connection has ended.
#[inline(always)]
pub(super) fn closed(ops: *mut bpf_sock_ops, socket: &HttpSocket) {
    let over = match socket.over {
        0 => 0,
        _ => head_flag::OVER,
    };
    let head = Head {
        // SAFETY: the helper has no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        // SAFETY: the helper takes the context as it is.
        cookie: unsafe { bpf_get_socket_cookie(ops.cast()) },
        source: socket.source,
        service: socket.service,
        version: socket.version,
        bits: socket.bits,
        frame: FrameHeader::default(),
        number: 0,
        flags: head_flag::CLOSED | over,
        length: 0,
    };
    if HTTP_HEADS.output_untyped::<Head>(head, 0).is_err() {
        count::own(Counter::HeadsLost);
    }
}

/// Whether the agent reads the connection.
#[inline(always)]
pub(super) fn is_agents(socket: &HttpSocket) -> bool {
    socket.flags & http_flag::HTTP2 != 0
}
