//! What a pool did, to be summed over workers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::tunnel::dial::DialError;

/// Counts since the start.
#[derive(Debug, Default)]
pub struct PoolCounters {
    /// Flows on a warm connection.
    pub hits: AtomicU64,
    /// Flows that needed a new one.
    pub misses: AtomicU64,
    /// Connections made.
    pub dials: AtomicU64,
    /// Connections that failed: nobody listens.
    pub refused: AtomicU64,
    /// Connections that failed: no answer in time.
    pub timeout: AtomicU64,
    /// Connections that failed: no way there.
    pub unreachable: AtomicU64,
    /// Connections that failed: TLS.
    pub tls: AtomicU64,
    /// Connections that failed: this host has no socket for them.
    pub local: AtomicU64,
    /// Flows that failed at once because their peer had failed just before.
    pub backed_off: AtomicU64,
    /// Warm connections closed because there were too many.
    pub evicted: AtomicU64,
    /// Warm connections closed because nobody needed them.
    pub expired: AtomicU64,
    /// Warm connections that the peer, or the network, had ended.
    pub dead: AtomicU64,
    /// Warm connections closed because what allowed them is no longer so.
    pub purged: AtomicU64,
    /// Warm connections now.
    pub idle: AtomicU64,
}

impl PoolCounters {
    pub(super) fn failed(&self, error: &DialError) {
        let counter = match error.name() {
            "refused" => &self.refused,
            "timeout" => &self.timeout,
            "unreachable" => &self.unreachable,
            "local" => &self.local,
            _ => &self.tls,
        };
        add(counter, 1);
    }
}

pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Relaxed);
}
