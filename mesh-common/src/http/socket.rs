//! What the kernel programs remember of a connection and count.

use super::{Order, Pending, Stream};
use crate::REQUEST_BUCKETS;
use crate::http2::Walk;

/// An accepted connection at an endpoint that speaks HTTP, for as long as its socket lives.
///
/// Packets of either direction write fields of their own, but for `over`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpSocket {
    /// What the client sends.
    pub requests: Stream,
    /// What the server sends.
    pub responses: Stream,
    /// Requests without an answer.
    pub pending: Pending,
    /// [`Unparsed`](super::Unparsed) code plus one, once the connection is not followed any
    /// further.
    pub over: u64,
    /// Whether a packet of the client is being looked at.
    pub busy: u64,
    /// How far that is.
    pub received: Order,
    /// How far what the server sends has been looked at.
    pub sent: Order,
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
    /// Records that were made for the agent, of what the client sends and of what the server sends.
    pub told: [u32; 2],
    /// How the server has begun, see [`greeted`].
    pub greeted: u32,
    /// Where in its frames each direction is, if it is HTTP/2.
    pub frames: [Walk; 2],
}
const _: () = assert!(size_of::<HttpSocket>() == 512);

/// Bits of [`HttpSocket::flags`].
pub mod http_flag {
    /// Bytes of the client have been seen, and who it is has been looked up.
    pub const SEEN: u32 = 1;
    /// Bytes of the server have been seen.
    pub const ANSWERED: u32 = 1 << 1;
    /// It is HTTP/2: the agent reads what matters.
    pub const HTTP2: u32 = 1 << 2;
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
