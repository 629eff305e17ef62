//! `mesh/1` as bytes: what two agents say to each other inside TLS.
//!
//! Pure: no socket and no clock. Decoding takes any bytes, never panics and holds at most one
//! control frame. The specification is `docs/mesh1.md`; its test vectors are tested here.

mod decoder;
mod error;
mod frame;
mod open;
mod preamble;
#[cfg(test)]
mod tests;

pub use self::decoder::{Decoder, Event};
pub use self::error::WireError;
pub use self::frame::{Code, Frame, MAX_CONTROL, MAX_DATA, data_header};
pub use self::open::{MAX_VERSION, Open};
pub use self::preamble::Preamble;

/// The protocol's name in ALPN (RFC 7301).
pub const ALPN: &[u8] = b"mesh/1";

/// Length of a frame's header, bytes: a type and a length of three bytes.
pub const HEADER: usize = 4;
