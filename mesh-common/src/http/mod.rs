//! HTTP/1.1 on a connection: what is asked and what is answered, read off the bytes as they pass.
//!
//! Comes in: the bytes of either direction, in pieces of any size. Goes out: each request's method
//! and each response's status, with the time between their first bytes; or that the connection
//! cannot be followed any further, and why. Nothing is guessed: where two readers of HTTP could
//! disagree about where a message ends, the connection is not followed.
//!
//! The kernel programs and the agent run the same steps. A [`Stream`] is one direction's state, a
//! [`Window`] the piece of it that is looked at, [`Pending`] the requests that wait for their
//! answers, [`Order`] the place in the sequence of TCP. [`Exchange`] puts the first three together
//! for bytes that arrive in order.

mod code;
mod exchange;
mod head;
mod order;
mod pending;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod window;

pub use code::{Method, Unparsed};
pub use exchange::{Event, Exchange, Side};
pub use head::Head;
pub use order::{Order, Piece};
pub use pending::{MAX_RUNS, Pending, Run};
pub use socket::{
    Direction, HttpSocket, RequestKey, RequestStats, UnparsedKey, greeted, http_flag, request_bit,
    request_bucket,
};
pub use stream::{Progress, Stream};
pub use window::{PIECE, Window};
