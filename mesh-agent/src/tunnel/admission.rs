//! How many connections others may have with this agent.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use foldhash::quality::RandomState;
use tokio::sync::Notify;

/// Bounds of one worker.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionLimits {
    /// Handshakes in progress.
    pub handshakes: usize,
    /// Handshakes in progress from one address.
    pub handshakes_per_source: usize,
    /// Sessions.
    pub sessions: usize,
    /// Sessions from one address.
    pub sessions_per_source: usize,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            handshakes: 256,
            handshakes_per_source: 64,
            sessions: 16 * 1024,
            sessions_per_source: 4 * 1024,
        }
    }
}

/// What was not admitted.
#[derive(Debug, Default)]
pub struct AdmissionCounters {
    /// Connections refused for the handshakes of their source.
    pub source_handshakes: AtomicU64,
    /// Handshakes given up for newer ones.
    pub evicted: AtomicU64,
    /// Connections refused for the sessions of their source.
    pub source_sessions: AtomicU64,
    /// Connections refused for all sessions.
    pub sessions: AtomicU64,
}

/// A worker's record of who is connected.
#[derive(Clone)]
pub struct Admission(Rc<Shared>);

struct Shared {
    limits: AdmissionLimits,
    counters: Arc<AdmissionCounters>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    sources: HashMap<IpAddr, Source, RandomState>,
    sessions: usize,
    /// Handshakes in progress, the oldest first.
    handshakes: VecDeque<Rc<Notify>>,
}

#[derive(Default)]
struct Source {
    handshakes: usize,
    sessions: usize,
}

/// A handshake that was admitted.
pub struct Handshaking {
    place: Place,
    evict: Rc<Notify>,
}

/// A session that was admitted, as long as it is held.
pub struct Admitted {
    place: Place,
}

struct Place {
    shared: Rc<Shared>,
    source: IpAddr,
}

impl Admission {
    /// With nobody connected.
    pub fn new(limits: AdmissionLimits, counters: Arc<AdmissionCounters>) -> Self {
        Self(Rc::new(Shared {
            limits,
            counters,
            state: RefCell::default(),
        }))
    }

    /// Admits a connection to its handshake; `None`: close it. Where all handshakes are too
    /// many, the oldest makes room: one that is honest needs a round trip, one that is not waits
    /// for its timeout.
    pub fn admit(&self, source: IpAddr) -> Option<Handshaking> {
        let Shared {
            limits,
            counters,
            state,
        } = &*self.0;
        let mut state = state.borrow_mut();
        let of_source = state.sources.get(&source);
        let (handshakes, sessions) = of_source.map_or((0, 0), |s| (s.handshakes, s.sessions));
        let refused = match () {
            () if handshakes >= limits.handshakes_per_source => Some(&counters.source_handshakes),
            () if sessions >= limits.sessions_per_source => Some(&counters.source_sessions),
            () if state.sessions >= limits.sessions => Some(&counters.sessions),
            () => None,
        };
        if let Some(refused) = refused {
            refused.fetch_add(1, Relaxed);
            return None;
        }
        if state.handshakes.len() >= limits.handshakes
            && let Some(oldest) = state.handshakes.pop_front()
        {
            counters.evicted.fetch_add(1, Relaxed);
            oldest.notify_one();
        }
        let evict = Rc::new(Notify::new());
        state.handshakes.push_back(evict.clone());
        state.sources.entry(source).or_default().handshakes += 1;
        Some(Handshaking {
            place: Place {
                shared: self.0.clone(),
                source,
            },
            evict,
        })
    }

    /// Handshakes in progress.
    pub fn handshakes(&self) -> usize {
        self.0.state.borrow().handshakes.len()
    }

    /// Sessions.
    pub fn sessions(&self) -> usize {
        self.0.state.borrow().sessions
    }
}

impl Handshaking {
    /// Ends when this handshake has to make room.
    pub(super) async fn evicted(&self) {
        self.evict.notified().await;
    }

    /// The handshake is complete.
    pub fn complete(self) -> Admitted {
        let place = Place {
            shared: self.place.shared.clone(),
            source: self.place.source,
        };
        place.change(|state, source| {
            source.sessions += 1;
            state.sessions += 1;
        });
        Admitted { place }
    }
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        let Self { place, evict } = self;
        place.change(|state, source| {
            source.handshakes -= 1;
            state.handshakes.retain(|other| !Rc::ptr_eq(other, evict));
        });
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.place.change(|state, source| {
            source.sessions -= 1;
            state.sessions -= 1;
        });
    }
}

impl Place {
    fn change(&self, change: impl FnOnce(&mut State, &mut Source)) {
        let mut state = self.shared.state.borrow_mut();
        let mut source = state.sources.remove(&self.source).unwrap_or_default();
        change(&mut state, &mut source);
        if source.handshakes + source.sessions > 0 {
            state.sources.insert(self.source, source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: AdmissionLimits = AdmissionLimits {
        handshakes: 3,
        handshakes_per_source: 2,
        sessions: 3,
        sessions_per_source: 2,
    };

    fn admission() -> (Admission, Arc<AdmissionCounters>) {
        let counters = Arc::<AdmissionCounters>::default();
        (Admission::new(LIMITS, counters.clone()), counters)
    }

    fn source(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn a_source_has_its_share_of_handshakes_and_no_more() {
        let (admission, counters) = admission();
        let held = [(); 2].map(|()| admission.admit(source(1)).unwrap());
        assert!(admission.admit(source(1)).is_none());
        assert_eq!(counters.source_handshakes.load(Relaxed), 1);
        assert!(admission.admit(source(2)).is_some());
        drop(held);
        assert!(admission.admit(source(1)).is_some());
        assert_eq!(admission.handshakes(), 0);
        assert!(admission.0.state.borrow().sources.is_empty());
    }

    #[tokio::test]
    async fn the_oldest_handshake_makes_room() {
        let (admission, counters) = admission();
        let first = admission.admit(source(1)).unwrap();
        let others = [2, 3, 4].map(|last| admission.admit(source(last)).unwrap());
        first.evicted().await;
        assert_eq!(counters.evicted.load(Relaxed), 1);
        assert_eq!(admission.handshakes(), 3);
        drop((first, others));
        assert_eq!(admission.handshakes(), 0);
    }

    #[test]
    fn sessions_are_bounded_by_source_and_in_total() {
        let (admission, counters) = admission();
        let session = |last| Some(admission.admit(source(last))?.complete());
        let held = [1, 1, 2].map(|last| session(last).unwrap());
        assert!(session(1).is_none());
        assert_eq!(counters.source_sessions.load(Relaxed), 1);
        assert!(session(3).is_none());
        assert_eq!(counters.sessions.load(Relaxed), 1);
        assert_eq!((admission.sessions(), admission.handshakes()), (3, 0));
        drop(held);
        assert!(session(3).is_some());
        assert!(admission.0.state.borrow().sources.is_empty());
    }
}
