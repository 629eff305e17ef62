//! Warm connections, by what they may be used for.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use foldhash::quality::RandomState;
use tokio::time::Instant;

use crate::tunnel::session::{Client, Session};

/// Bounded in each key and in total.
pub(super) struct Idle<K> {
    /// The one that came back last is taken first, so that those that are too many expire.
    by_key: HashMap<K, VecDeque<Warm>, RandomState>,
    count: usize,
}

/// A connection, and how long it is kept.
pub(super) struct Warm {
    pub(super) session: Session<Client>,
    since: Instant,
    pub(super) until: Instant,
}

impl<K: Eq + Hash + Clone> Idle<K> {
    pub(super) fn new() -> Self {
        Self {
            by_key: HashMap::default(),
            count: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn take(&mut self, key: &K) -> Option<Session<Client>> {
        let warm = self.by_key.get_mut(key)?;
        let taken = warm.pop_back()?;
        if warm.is_empty() {
            self.by_key.remove(key);
        }
        self.count -= 1;
        Some(taken.session)
    }

    pub(super) fn put(&mut self, key: K, session: Session<Client>, since: Instant, until: Instant) {
        self.count += 1;
        self.by_key.entry(key).or_default().push_back(Warm {
            session,
            since,
            until,
        });
    }

    /// Takes out the oldest of `key` if it has `most`, and the oldest of all if there are
    /// `total`.
    pub(super) fn make_room(
        &mut self,
        key: &K,
        most: usize,
        total: usize,
    ) -> Option<Session<Client>> {
        let of_key = self.by_key.get(key).map_or(0, VecDeque::len);
        let oldest = match (of_key >= most, self.count >= total) {
            (true, _) => key.clone(),
            (false, true) => self.oldest()?,
            (false, false) => return None,
        };
        let warm = self.by_key.get_mut(&oldest)?;
        let evicted = warm.pop_front()?;
        if warm.is_empty() {
            self.by_key.remove(&oldest);
        }
        self.count -= 1;
        Some(evicted.session)
    }

    fn oldest(&self) -> Option<K> {
        let since = |warm: &VecDeque<Warm>| warm.front().map(|warm| warm.since);
        let oldest = self.by_key.iter().min_by_key(|(_, warm)| since(warm));
        oldest.map(|(key, _)| key.clone())
    }

    /// Takes out all that are not to be kept, and gives back memory. `is_kept` is told how many
    /// of the key have come back later.
    pub(super) fn remove(
        &mut self,
        mut is_kept: impl FnMut(&K, &mut Warm, usize) -> bool,
    ) -> Vec<Session<Client>> {
        let mut removed = Vec::new();
        self.by_key.retain(|key, warm| {
            let kept = warm.len();
            for newer in (0..kept).rev() {
                let Some(mut one) = warm.pop_front() else {
                    break;
                };
                match is_kept(key, &mut one, newer) {
                    true => warm.push_back(one),
                    false => removed.push(one.session),
                }
            }
            if warm.len() < warm.capacity() / 4 {
                warm.shrink_to_fit();
            }
            !warm.is_empty()
        });
        if self.by_key.len() < self.by_key.capacity() / 4 {
            self.by_key.shrink_to_fit();
        }
        self.count -= removed.len();
        removed
    }
}
