//! Patience with what cannot be reached.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::rc::Rc;
use std::time::Duration;

use foldhash::quality::RandomState;
use tokio::time::Instant;

use crate::tunnel::dial::DialError;

/// Wait after the first failure, at most.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(5);
/// How many are remembered.
const MOST: usize = 1024;

/// What failed lately, and until when it is not tried again.
pub(super) struct Backoff<K> {
    failed: HashMap<K, Failure, RandomState>,
    draws: u64,
}

struct Failure {
    count: u32,
    until: Instant,
    last: Rc<DialError>,
}

impl<K: Eq + Hash + Clone> Backoff<K> {
    pub(super) fn new() -> Self {
        Self {
            failed: HashMap::default(),
            draws: 0,
        }
    }

    /// Why `key` is not tried now.
    pub(super) fn refusal(&self, key: &K, now: Instant) -> Option<Rc<DialError>> {
        let failure = self.failed.get(key)?;
        (now < failure.until).then(|| failure.last.clone())
    }

    pub(super) fn succeeded(&mut self, key: &K) {
        self.failed.remove(key);
    }

    /// Several that were tried at the same time count as one failure.
    pub(super) fn failed(&mut self, key: &K, error: Rc<DialError>, now: Instant) {
        if self.failed.len() >= MOST && !self.failed.contains_key(key) {
            self.forget(now);
        }
        let jitter = self.draw();
        let failure = self.failed.entry(key.clone()).or_insert(Failure {
            count: 0,
            until: now,
            last: error.clone(),
        });
        failure.last = error;
        if now >= failure.until {
            let longest = FIRST
                .saturating_mul(1 << failure.count.min(10))
                .min(LONGEST);
            failure.count += 1;
            failure.until = now + longest.mul_f64(0.5 + jitter / 2.0);
        }
    }

    /// Makes room: what may be tried again need not be remembered.
    fn forget(&mut self, now: Instant) {
        self.failed.retain(|_, failure| now < failure.until);
        if self.failed.len() >= MOST
            && let Some(any) = self.failed.keys().next().cloned()
        {
            self.failed.remove(&any);
        }
    }

    /// From 0 to 1, differently in each process and time.
    pub(super) fn draw(&mut self) -> f64 {
        self.draws += 1;
        let draw = self.failed.hasher().hash_one(self.draws);
        (draw >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Rc<DialError> {
        Rc::new(DialError::Refused(([10, 0, 0, 2], 15008).into()))
    }

    #[test]
    fn waits_grow_and_end_with_the_first_success() {
        let mut backoff = Backoff::new();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..12 {
            backoff.failed(&1, refused(), now);
            let until = backoff.failed[&1].until;
            assert!(backoff.refusal(&1, now).is_some());
            // Another one that was under way does not lengthen it.
            backoff.failed(&1, refused(), now);
            assert_eq!(backoff.failed[&1].until, until);
            waits.push(until - now);
            now = until;
            assert!(backoff.refusal(&1, now).is_none());
        }
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST, "{waits:?}");
        assert!(waits[5] > waits[0] * 8, "{waits:?}");
        assert!(
            waits[11] >= LONGEST / 2 && waits[11] <= LONGEST,
            "{waits:?}"
        );
        backoff.succeeded(&1);
        assert!(backoff.refusal(&1, now).is_none());
        assert!(backoff.failed.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let (mut backoff, now) = (Backoff::new(), Instant::now());
        for key in 0..3 * MOST {
            backoff.failed(&key, refused(), now);
        }
        assert_eq!(backoff.failed.len(), MOST);
    }
}
