//! One buffer per worker thread, which all its flows use in turn.
//!
//! A step of a flow reads, seals or opens, and writes without waiting in between. So the buffer
//! is free again when it ends, and only what the socket did not take is copied to memory of the
//! flow's own: an idle flow has none.

use std::cell::RefCell;

use super::tls::SLOT;

/// Records that a step seals at most: 256 KiB of data.
pub(super) const SLOTS: usize = 16;

/// What a step reads from the tunnel at most, bytes.
pub(super) const WINDOW: usize = SLOTS * SLOT;

/// Length of the buffer, bytes: what an earlier step left over, and a read.
const LENGTH: usize = 2 * WINDOW;

thread_local! {
    // Of zeroed pages: what is not touched is not resident.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; LENGTH]);
}

/// Runs a step with the thread's buffer.
///
/// # Panics
///
/// Within another step.
pub(super) fn with<T>(step: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|bytes| step(bytes))
}
