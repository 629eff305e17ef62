//! Connections that are ready, so that a flow costs no handshake.

mod backoff;
mod counters;
mod idle;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::hash::Hash;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use self::backoff::Backoff;
pub use self::counters::PoolCounters;
use self::counters::add;
use self::idle::Idle;
use super::broken::Broken;
use super::dial::{DialError, Peer};
use super::session::{Client, NotOpened, Session};
use super::wire::{Code, Open};

/// How often warm connections are looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// Bounds of one worker.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Warm connections of one key.
    pub per_key: usize,
    /// Warm connections.
    pub total: usize,
    /// How many of one key are kept for long.
    pub few: usize,
    /// How long those are kept, give or take a tenth.
    pub idle: Duration,
    /// How long the others of the key are kept, which a burst has left behind.
    pub surplus: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            per_key: 64,
            total: 1024,
            few: 8,
            idle: Duration::from_secs(90),
            surplus: Duration::from_secs(20),
        }
    }
}

/// Why a flow was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The server refuses it.
    #[error("the peer refused: {}", .0.name())]
    Refused(Code),
    /// There is no connection to the peer.
    #[error("{0}")]
    Dial(Rc<DialError>),
    /// There was none just before, and it is too early to try again.
    #[error("{0} (tried a moment ago)")]
    BackOff(Rc<DialError>),
    /// A fresh connection failed.
    #[error("{0}")]
    Broken(Broken),
}

/// A worker's warm connections. `K` says what a connection may be used for: the identity of the
/// caller, the node, the identity of the service.
pub struct Pool<K>(Rc<Shared<K>>);

impl<K> Clone for Pool<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<K> {
    limits: PoolLimits,
    counters: Arc<PoolCounters>,
    state: RefCell<State<K>>,
}

struct State<K> {
    idle: Idle<K>,
    hosts: Backoff<SocketAddr>,
    keys: Backoff<K>,
    /// Warm connections that the counter knows of.
    counted: usize,
}

impl<K: Eq + Hash + Clone> Pool<K> {
    /// Without connections.
    pub fn new(limits: PoolLimits, counters: Arc<PoolCounters>) -> Self {
        Self(Rc::new(Shared {
            limits,
            counters,
            state: RefCell::new(State {
                idle: Idle::new(),
                hosts: Backoff::new(),
                keys: Backoff::new(),
                counted: 0,
            }),
        }))
    }

    /// Opens a flow: on a warm connection if there is one that works, or else on a new one.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. The application's bytes are not sent before the peer has the flow, so
    /// nothing is lost or sent twice.
    pub async fn open(
        &self,
        key: &K,
        peer: &Peer,
        open: &Open,
    ) -> Result<Session<Client>, OpenError> {
        let counters = &self.0.counters;
        if let Some(mut session) = self.take(key) {
            match session.open(open.clone()).await {
                Ok(()) => {
                    add(&counters.hits, 1);
                    return Ok(session);
                }
                // Another connection may lead to an agent that has started since.
                Err(NotOpened::Refused(Code::Draining)) => session.close(),
                Err(NotOpened::Refused(code)) => {
                    add(&counters.hits, 1);
                    self.put(key.clone(), session);
                    return Err(OpenError::Refused(code));
                }
                Err(NotOpened::Broken(_)) => add(&counters.dead, 1),
            }
        }
        add(&counters.misses, 1);
        let mut session = self.dial(key, peer).await?;
        match session.open(open.clone()).await {
            Ok(()) => Ok(session),
            Err(NotOpened::Refused(code)) => {
                self.put(key.clone(), session);
                Err(OpenError::Refused(code))
            }
            Err(NotOpened::Broken(broken)) => Err(OpenError::Broken(broken)),
        }
    }

    /// Takes the warm connection that was used last, unless it is seen to have ended.
    fn take(&self, key: &K) -> Option<Session<Client>> {
        let Shared {
            state, counters, ..
        } = &*self.0;
        loop {
            let taken = state.borrow_mut().idle.take(key);
            self.count_idle();
            let mut session = taken?;
            if session.is_usable() {
                return Some(session);
            }
            add(&counters.dead, 1);
        }
    }

    async fn dial(&self, key: &K, peer: &Peer) -> Result<Session<Client>, OpenError> {
        let Shared {
            state, counters, ..
        } = &*self.0;
        let now = Instant::now();
        let refusal = {
            let state = state.borrow();
            let by_key = state.keys.refusal(key, now);
            by_key.or_else(|| state.hosts.refusal(&peer.address, now))
        };
        if let Some(last) = refusal {
            add(&counters.backed_off, 1);
            return Err(OpenError::BackOff(last));
        }
        // Boxed, so that a flow's task does not keep room for a dial as long as it lives.
        let dialled = Box::pin(peer.dial()).await;
        let mut state = state.borrow_mut();
        match dialled {
            Ok(session) => {
                add(&counters.dials, 1);
                state.hosts.succeeded(&peer.address);
                state.keys.succeeded(key);
                Ok(session)
            }
            Err(error) => {
                counters.failed(&error);
                let (error, now) = (Rc::new(error), Instant::now());
                match error.is_of_host() {
                    true => state.hosts.failed(&peer.address, error.clone(), now),
                    false => state.keys.failed(key, error.clone(), now),
                }
                Err(OpenError::Dial(error))
            }
        }
    }

    /// Takes back a connection whose flow is over.
    pub fn put(&self, key: K, mut session: Session<Client>) {
        let Shared {
            limits,
            state,
            counters,
        } = &*self.0;
        if !session.is_usable() {
            return;
        }
        let mut state = state.borrow_mut();
        while let Some(oldest) = state.idle.make_room(&key, limits.per_key, limits.total) {
            add(&counters.evicted, 1);
            oldest.close();
        }
        let now = Instant::now();
        let kept = limits.idle.mul_f64(0.9 + state.hosts.draw() / 5.0);
        state.idle.put(key, session, now, now + kept);
        drop(state);
        self.count_idle();
    }

    /// Closes the warm connections for which `is_revoked` holds; how many.
    pub fn purge(&self, mut is_revoked: impl FnMut(&K, &Session<Client>) -> bool) -> usize {
        let removed =
            (self.0.state.borrow_mut().idle).remove(|key, warm, _| !is_revoked(key, &warm.session));
        let count = removed.len();
        add(&self.0.counters.purged, count);
        removed.into_iter().for_each(Session::close);
        self.count_idle();
        count
    }

    /// Closes what nobody needed for long, and what has ended meanwhile.
    pub fn sweep(&self) {
        let Shared {
            limits,
            state,
            counters,
        } = &*self.0;
        let now = Instant::now();
        let earlier = limits.idle.saturating_sub(limits.surplus);
        let mut expired = 0;
        let removed = state.borrow_mut().idle.remove(|_, warm, newer| {
            let is_surplus = newer >= limits.few;
            let is_expired = now >= warm.until || is_surplus && now + earlier >= warm.until;
            expired += usize::from(is_expired);
            !is_expired && warm.session.is_usable()
        });
        add(&counters.expired, expired);
        add(&counters.dead, removed.len() - expired);
        removed.into_iter().for_each(Session::close);
        self.count_idle();
    }

    /// Sweeps for ever.
    pub async fn run(&self) {
        loop {
            sleep(SWEEP).await;
            self.sweep();
        }
    }

    /// Warm connections.
    pub fn idle(&self) -> usize {
        self.0.state.borrow().idle.len()
    }

    /// Adds what has changed since the last time: other workers may count there, too.
    fn count_idle(&self) {
        let mut state = self.0.state.borrow_mut();
        let idle = state.idle.len();
        let change = idle.wrapping_sub(std::mem::replace(&mut state.counted, idle));
        add(&self.0.counters.idle, change);
    }
}
