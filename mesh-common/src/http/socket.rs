//! What the kernel programs remember of a connection and count.

use core::mem::offset_of;

use super::{Order, Pending, Stream};
use crate::REQUEST_BUCKETS;
use crate::http2::Walk;

/// An accepted connection at an endpoint that speaks HTTP, for as long as its socket lives.
///
/// What arrives and what is sent is often looked at on two CPUs. Each direction writes cache lines
/// of its own (a value of socket storage begins 8 bytes into a line, and a line has 64), and both
/// only read the first, once it is known who calls and how both begin.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpSocket {
    /// [`Unparsed`](super::Unparsed) code plus one, once the connection is not followed any
    /// further.
    pub over: u64,
    /// Subject that calls.
    pub source: u32,
    /// Subject that is called.
    pub service: u32,
    /// Its version.
    pub version: u32,
    /// [`request_bit`] bits.
    pub bits: u32,
    /// [`http_flag`] bits.
    pub flags: u32,
    /// How the server has begun, see [`greeted`].
    pub greeted: u32,
    /// The rest of the line.
    _line: [u64; 3],
    /// What the client sends.
    pub requests: Stream,
    /// The same, as packets and as frames.
    pub received: Direction,
    /// Requests without an answer.
    pub pending: Pending,
    /// What the server sends, as packets and as frames.
    pub sent: Direction,
    /// The rest of the line.
    _rest: u64,
    /// The same as messages.
    pub responses: Stream,
}
const _: () = assert!(size_of::<HttpSocket>() == 952);
const _: () = assert!((8 + offset_of!(HttpSocket, requests)).is_multiple_of(LINE));
const _: () = assert!((24 + offset_of!(HttpSocket, pending)).is_multiple_of(LINE));
const _: () = assert!((8 + offset_of!(HttpSocket, responses)).is_multiple_of(LINE));

/// Bytes of a cache line on most machines.
const LINE: usize = 64;

/// How far one direction has been looked at.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Direction {
    /// Whether a packet is being looked at.
    pub busy: u64,
    /// Where in the stream its packets are.
    pub order: Order,
    /// Records of it that were made for the agent.
    pub told: u32,
    /// Where in its frames it is, if it is HTTP/2.
    pub walk: Walk,
    /// Zero.
    _pad: u32,
}
const _: () = assert!(size_of::<Direction>() == 48);

/// Bits of [`HttpSocket::flags`].
pub mod http_flag {
    /// Bytes of the client have been seen, and who it is has been looked up.
    pub const SEEN: u32 = 1;
    /// It is HTTP/2: the agent reads what matters.
    pub const HTTP2: u32 = 1 << 1;
}

/// How a server has begun: 0 as long as it has not.
pub mod greeted {
    /// Not as one of HTTP/2.
    pub const HTTP1: u32 = 1;
    /// As one of HTTP/2.
    pub const HTTP2: u32 = 2;
}

/// Bits that tell series of requests apart.
pub mod request_bit {
    /// The bytes cross the network by mTLS.
    pub const MUTUAL_TLS: u32 = 1;
    /// The port is declared to speak gRPC.
    pub const GRPC: u32 = 1 << 1;
}

/// Labels of a series of requests.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey {
    /// Calling subject.
    pub source: u32,
    /// Called service.
    pub service: u32,
    /// Its version.
    pub version: u32,
    /// [`request_bit`] bits.
    pub bits: u32,
    /// [`Method`](super::Method) code.
    pub method: u16,
    /// Status code; 0 where the connection ended without an answer.
    pub status: u16,
}
const _: () = assert!(size_of::<RequestKey>() == 20);

/// Counters of a series of requests.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestStats {
    /// Requests without an answer.
    pub unanswered: u64,
    /// Sum of the times between first bytes, nanoseconds, of those with one.
    pub elapsed_ns: u64,
    /// Those times by bucket, see [`request_bucket`].
    pub buckets: [u64; REQUEST_BUCKETS],
}
const _: () = assert!(size_of::<RequestStats>() == 128);

/// Labels of a series of connections that could not be followed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnparsedKey {
    /// Called service.
    pub service: u32,
    /// [`Unparsed`](super::Unparsed) code.
    pub reason: u32,
}
const _: () = assert!(size_of::<UnparsedKey>() == 8);

/// Bucket of a time between first bytes: see [`REQUEST_BOUNDS_NS`](crate::REQUEST_BOUNDS_NS).
///
/// Written as comparisons rather than as a loop over the bounds, which would be a table of memory
/// that the verifier follows index by index.
#[inline(always)]
pub const fn request_bucket(nanoseconds: u64) -> usize {
    use crate::REQUEST_BOUNDS_NS as BOUNDS;
    const fn above(nanoseconds: u64, bound: u64) -> usize {
        (nanoseconds > bound) as usize
    }
    above(nanoseconds, BOUNDS[0])
        + above(nanoseconds, BOUNDS[1])
        + above(nanoseconds, BOUNDS[2])
        + above(nanoseconds, BOUNDS[3])
        + above(nanoseconds, BOUNDS[4])
        + above(nanoseconds, BOUNDS[5])
        + above(nanoseconds, BOUNDS[6])
        + above(nanoseconds, BOUNDS[7])
        + above(nanoseconds, BOUNDS[8])
        + above(nanoseconds, BOUNDS[9])
        + above(nanoseconds, BOUNDS[10])
        + above(nanoseconds, BOUNDS[11])
        + above(nanoseconds, BOUNDS[12])
}
