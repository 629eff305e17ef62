//! The bounds of the server.

use std::time::Duration;

/// Connections at a time, on each listener: a flood on TCP leaves the unix socket alone.
pub(super) const CONNECTIONS: usize = 32;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// For the head of a request, and from one request to the next.
    pub(super) head: Duration,
    /// Without a byte in either direction.
    pub(super) idle: Duration,
    /// In all: who reads a byte at a time makes progress for ever.
    pub(super) lifetime: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(5),
            idle: Duration::from_secs(10),
            lifetime: Duration::from_secs(60),
        }
    }
}

/// How long a request waits for its answer, its turn included. Less than
/// [`Timeouts::idle`], so that the client is told.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);

/// How old an answer may be: a flood of scrapes computes five a second.
pub(super) const FRESH: Duration = Duration::from_millis(200);

/// Size of a request's head.
pub(super) const HEAD_BYTES: usize = 16 * 1024;

/// Headers of a request.
pub(super) const HEADERS: usize = 64;

/// Stack of the server's threads; they only render text and read maps.
pub(super) const STACK: usize = 512 * 1024;
