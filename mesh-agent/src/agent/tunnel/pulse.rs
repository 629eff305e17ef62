//! Whether every worker still answers: what the service manager's watchdog is about.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::watch;

/// A question, asked again and again, and who has answered it.
#[derive(Debug)]
pub(super) struct Pulse {
    asked: watch::Sender<u64>,
    answered: Box<[AtomicU64]>,
}

impl Pulse {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            asked: watch::Sender::new(0),
            answered: (0..workers).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(super) fn workers(&self) -> usize {
        self.answered.len()
    }

    /// Whether all have answered since this was called last; if so, asks again.
    pub(super) fn ask(&self) -> bool {
        let asked = *self.asked.borrow();
        let all = self.answered.iter().all(|it| it.load(Relaxed) == asked);
        if all {
            self.asked.send_replace(asked + 1);
        }
        all
    }

    /// What a worker waits for.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.asked.subscribe()
    }

    pub(super) fn answer(&self, worker: usize, asked: u64) {
        if let Some(answered) = self.answered.get(worker) {
            answered.store(asked, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_does_not_answer_is_noticed() {
        let pulse = Pulse::new(2);
        assert!(pulse.ask(), "nothing was asked before");
        assert!(!pulse.ask());
        pulse.answer(0, 1);
        assert!(!pulse.ask());
        pulse.answer(1, 1);
        assert!(pulse.ask());
        pulse.answer(0, 2);
        assert!(!pulse.ask());
    }
}
