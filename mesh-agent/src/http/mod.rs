//! HTTP requests, seen from beside: nothing here is on a request's way.
//!
//! Comes in: bytes that the tunnel carries, and what the kernel programs take of packets. Goes out:
//! requests and how they went. Every connection's memory has a bound, and so has all of it.

mod conversation;
pub mod h2;
pub mod hpack;
mod memory;

pub use self::conversation::Conversation;
pub use self::memory::{Memory, Share};

use mesh_common::http::Method;

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its method.
    pub method: Method,
    /// Status code of the answer; 0 if there was none.
    pub code: u16,
    /// `grpc-status`, if one was told that gRPC has.
    pub grpc: Option<u8>,
    /// From the request's first byte to the answer's first byte, nanoseconds.
    pub waited: Option<u64>,
}
