//! Flows to endpoints that new calls no longer get: kept, drained or closed at a rate.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::dataplane::Leaving;
use crate::policy::model::OnWeightChange;

/// Most endpoints whose leaving is remembered; flows to others are not drained until there is
/// room.
const REMEMBERED: usize = 4096;

/// How many flows of each service and version, by their ids.
pub(super) type Counts = BTreeMap<(u32, u32), u64>;

/// See the module.
#[derive(Default)]
pub(super) struct Leavers {
    /// When each endpoint was first seen to leave, and the sweep that last saw it.
    since: HashMap<Leaving, (Instant, u64)>,
    /// What each service may still close.
    allowances: HashMap<u32, Allowance>,
    sweep: u64,
    /// When a sweep can close something, as far as this one knows.
    next: Option<Instant>,
}

/// Closes that have been saved up, and when that was worked out.
#[derive(Clone, Copy)]
struct Allowance {
    flows: f64,
    at: Instant,
}

impl Leavers {
    /// Begins a sweep.
    pub(super) fn begin(&mut self) {
        self.sweep += 1;
        self.next = None;
    }

    /// Whether a flow is to be closed now.
    pub(super) fn is_due(&mut self, leaving: &Leaving, mode: OnWeightChange, now: Instant) -> bool {
        let (timeout, rate) = match mode {
            OnWeightChange::Keep => return false,
            OnWeightChange::Drain { timeout, rate } => (timeout, rate),
            OnWeightChange::Close { rate } => (Duration::ZERO, rate),
        };
        let Some(since) = self.since(leaving, now) else {
            return false;
        };
        let end = since + timeout;
        if end > now {
            self.wake_at(end);
            return false;
        }
        let taken = self.take_one(leaving.service, rate, now);
        if !taken {
            self.wake_at(now + TICK);
        }
        taken
    }

    /// Ends a sweep: what it did not see has left, or has come back. Returns when the next one
    /// is due.
    pub(super) fn end(&mut self) -> Option<Instant> {
        let sweep = self.sweep;
        self.since.retain(|_, (_, seen)| *seen == sweep);
        let services: Vec<u32> = self.since.keys().map(|leaving| leaving.service).collect();
        self.allowances
            .retain(|service, _| services.contains(service));
        self.next
    }

    fn since(&mut self, leaving: &Leaving, now: Instant) -> Option<Instant> {
        let sweep = self.sweep;
        if let Some((since, seen)) = self.since.get_mut(leaving) {
            *seen = sweep;
            return Some(*since);
        }
        if self.since.len() >= REMEMBERED {
            return None;
        }
        self.since.insert(*leaving, (now, sweep));
        Some(now)
    }

    /// Takes a close out of the service's allowance, which grows by `rate` a second. It starts
    /// with one tick's share, and no more than that and a fraction of one is kept.
    fn take_one(&mut self, service: u32, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        let share = rate * TICK.as_secs_f64();
        let allowance = self.allowances.entry(service).or_insert(Allowance {
            flows: share.max(1.0),
            at: now,
        });
        let grown = now.saturating_duration_since(allowance.at).as_secs_f64() * rate;
        allowance.flows = (allowance.flows + grown).min(share + 1.0);
        allowance.at = now;
        if allowance.flows < 1.0 {
            return false;
        }
        allowance.flows -= 1.0;
        true
    }

    fn wake_at(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

/// How often flows are closed while there are more than the rate allows at once.
const TICK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::judge::Chosen;

    const SECOND: Duration = Duration::from_secs(1);

    fn flow(service: u32) -> Leaving {
        Leaving {
            service,
            version: 1,
            endpoint: Chosen::Elsewhere(1),
        }
    }

    /// Offers `flows` flows every [`TICK`] for `seconds`; how many are closed.
    fn closed(mode: OnWeightChange, flows: u32, seconds: u32) -> u32 {
        let mut leavers = Leavers::default();
        let start = Instant::now();
        let mut closed = 0;
        for tick in 0..4 * seconds {
            leavers.begin();
            for _ in 0..flows - closed {
                closed += u32::from(leavers.is_due(&flow(1), mode, start + TICK * tick));
            }
            leavers.end();
        }
        closed
    }

    #[test]
    fn no_more_are_closed_than_the_rate_says() {
        for (rate, flows, seconds, expected) in [
            (10, 100, 4, 38..=42),
            (1, 100, 10, 10..=11),
            (1000, 100, 1, 100..=100),
            (4, 3, 1, 3..=3),
        ] {
            let closed = closed(OnWeightChange::Close { rate }, flows, seconds);
            assert!(expected.contains(&closed), "{rate}/s: {closed}");
        }
        assert_eq!(closed(OnWeightChange::Keep, 10, 10), 0);
    }

    #[test]
    fn nothing_is_closed_before_the_drain_ends() {
        let mode = OnWeightChange::Drain {
            timeout: 5 * SECOND,
            rate: 100,
        };
        let mut leavers = Leavers::default();
        let start = Instant::now();
        leavers.begin();
        assert!(!leavers.is_due(&flow(1), mode, start));
        assert_eq!(leavers.end(), Some(start + 5 * SECOND));
        leavers.begin();
        assert!(leavers.is_due(&flow(1), mode, start + 5 * SECOND));
        // One that came later has its own time.
        let late = start + 5 * SECOND;
        assert!(!leavers.is_due(&flow(2), mode, late));
        assert_eq!(leavers.end(), Some(late + 5 * SECOND));
    }

    #[test]
    fn an_endpoint_that_came_back_starts_over() {
        let mode = OnWeightChange::Drain {
            timeout: SECOND,
            rate: 100,
        };
        let mut leavers = Leavers::default();
        let start = Instant::now();
        leavers.begin();
        leavers.is_due(&flow(1), mode, start);
        leavers.end();
        leavers.begin();
        assert_eq!(leavers.end(), None);
        leavers.begin();
        assert!(!leavers.is_due(&flow(1), mode, start + 2 * SECOND));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut leavers = Leavers::default();
        leavers.begin();
        let mode = OnWeightChange::Close { rate: 1 };
        let due = (0..5000).filter(|n| leavers.is_due(&flow(*n), mode, Instant::now()));
        assert_eq!(due.count(), REMEMBERED);
        assert_eq!(leavers.since.len(), REMEMBERED);
    }
}
