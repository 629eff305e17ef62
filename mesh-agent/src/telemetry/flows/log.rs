//! The latest flows, in memory: bounded, with an honest account of what is gone.

use std::collections::VecDeque;

use super::kept::{Kept, Pool};
use super::{FlowQuery, FlowView, FlowsDocument, SCHEMA_VERSION};

/// How many records are remembered: 300 KiB, and up to 1 MiB more where no two of them have their
/// names in common.
pub const CAPACITY: usize = 2000;

/// The latest flows.
#[derive(Debug)]
pub struct FlowLog {
    flows: VecDeque<Kept>,
    pool: Pool,
    capacity: usize,
    /// Number of the first record.
    first: u64,
    /// Number of the next one.
    next: u64,
}

impl FlowLog {
    /// A log of [`CAPACITY`] whose numbers are larger than those of a log that began a second
    /// earlier, and that JavaScript can still count with.
    pub fn new(now_unix_seconds: f64) -> Self {
        Self::with(CAPACITY, (now_unix_seconds.max(0.0) as u64) << 20)
    }

    fn with(capacity: usize, first: u64) -> Self {
        Self {
            flows: VecDeque::new(),
            pool: Pool::default(),
            capacity,
            first,
            next: first,
        }
    }

    /// Remembers a record and returns its number; the oldest makes room.
    pub fn push(&mut self, flow: FlowView) -> u64 {
        if self.flows.len() >= self.capacity {
            self.flows.pop_front();
        }
        self.flows.push_back(Kept::new(flow, &mut self.pool));
        self.next += 1;
        self.next - 1
    }

    /// Remembers at most so many from now on, of which the oldest make room at once.
    pub fn keep(&mut self, capacity: usize) {
        self.capacity = capacity.clamp(1, CAPACITY);
        let surplus = self.flows.len().saturating_sub(self.capacity);
        self.flows.drain(..surplus);
        self.flows.shrink_to(self.capacity);
    }

    /// How many it has seen.
    pub fn seen(&self) -> u64 {
        self.next - self.first
    }

    /// How many of them made room for newer ones.
    pub fn evicted(&self) -> u64 {
        self.seen() - self.flows.len() as u64
    }

    /// What `query` asks for; `lost` is left for the caller to fill in.
    pub fn answer(&self, query: &FlowQuery) -> FlowsDocument {
        let oldest = self.next - self.flows.len() as u64;
        let after = query.after.filter(|after| *after < self.next);
        let fresh = match query.after {
            // The cursor is the number of the last record that was seen.
            Some(after) => after.saturating_add(1).saturating_sub(oldest) as usize,
            None => 0,
        };
        let fresh = self.flows.iter().enumerate().skip(fresh);
        let mut flows: Vec<FlowView> = fresh
            .rev()
            .filter(|(_, flow)| query.matches(flow))
            .take(query.last.unwrap_or(self.capacity))
            .map(|(index, flow)| flow.view(oldest + index as u64))
            .collect();
        flows.reverse();
        let restarted = query
            .after
            .is_some_and(|after| after.saturating_add(1) < self.first);
        let begins = after.map(|after| (after + 1).max(self.first));
        let missed = begins.map_or(0, |begins| oldest.saturating_sub(begins));
        FlowsDocument {
            schema_version: SCHEMA_VERSION,
            flows,
            kept: self.flows.len() as u64,
            seen: self.seen(),
            lost: 0,
            oldest_unix_seconds: self.flows.front().map(Kept::time),
            next: self.next.saturating_sub(1),
            missed: (missed > 0).then_some(missed),
            restarted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(capacity: usize, pushed: u64) -> FlowLog {
        let mut log = FlowLog::with(capacity, 100);
        for n in 0..pushed {
            log.push(FlowView {
                time_unix_seconds: n as f64,
                ..FlowView::default()
            });
        }
        log
    }

    fn ask(log: &FlowLog, after: Option<u64>, last: Option<usize>) -> (Vec<u64>, Option<u64>) {
        let query = FlowQuery {
            after,
            last,
            ..FlowQuery::default()
        };
        let answer = log.answer(&query);
        (
            answer.flows.iter().map(|flow| flow.seq).collect(),
            answer.missed,
        )
    }

    #[test]
    fn the_oldest_make_room_and_are_accounted_for() {
        let log = log(3, 5);
        let answer = log.answer(&FlowQuery::default());
        assert_eq!((answer.kept, answer.seen, answer.next), (3, 5, 104));
        assert_eq!(answer.oldest_unix_seconds, Some(2.0));
        assert_eq!(log.evicted(), 2);
        assert_eq!(ask(&log, None, None), (vec![102, 103, 104], None));
        assert_eq!(ask(&log, None, Some(2)), (vec![103, 104], None));
    }

    #[test]
    fn one_that_shrinks_forgets_the_oldest_and_says_so() {
        let mut log = log(10, 10);
        log.keep(4);
        assert_eq!(log.evicted(), 6);
        assert_eq!(ask(&log, None, None), (vec![106, 107, 108, 109], None));
        assert_eq!(ask(&log, Some(104), None).1, Some(1));
        log.push(FlowView::default());
        assert_eq!((log.seen(), log.evicted()), (11, 7));
    }

    #[test]
    fn a_cursor_sees_each_record_once_and_is_told_what_it_missed() {
        let log = log(3, 5);
        assert_eq!(ask(&log, Some(104), None), (vec![], None));
        assert_eq!(ask(&log, Some(103), None), (vec![104], None));
        assert_eq!(ask(&log, Some(101), None), (vec![102, 103, 104], None));
        assert_eq!(ask(&log, Some(100), None), (vec![102, 103, 104], Some(1)));
        assert_eq!(ask(&log, Some(99), None), (vec![102, 103, 104], Some(2)));
        assert_eq!(ask(&log, Some(u64::MAX - 1), None), (vec![], None));
    }

    #[test]
    fn a_cursor_of_an_earlier_agent_is_recognised() {
        let log = log(3, 5);
        let query = |after| FlowQuery {
            after: Some(after),
            ..FlowQuery::default()
        };
        let answer = log.answer(&query(7));
        assert_eq!((answer.restarted, answer.missed), (true, Some(2)));
        assert!(!log.answer(&query(99)).restarted);
        let empty = FlowLog::with(3, 100);
        let answer = empty.answer(&query(99));
        assert_eq!((answer.restarted, answer.next), (false, 99));
    }
}
