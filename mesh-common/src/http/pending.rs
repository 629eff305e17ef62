//! Requests that wait for their answers.

use super::Method;

/// How many runs of requests are kept track of.
pub const MAX_RUNS: usize = 16;

/// Requests of one method that began at the same time: those of one packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// When their first bytes arrived, nanoseconds.
    pub begun_ns: u64,
    /// How many there are.
    pub count: u32,
    /// [`Method`] code.
    pub method: u32,
}
const _: () = assert!(size_of::<Run>() == 16);

/// A queue of requests, oldest first.
///
/// One side adds and the other takes, maybe at the same time on two CPUs: each writes fields of
/// its own. The side that takes does not reach a run that is still being added to, because nobody
/// answers a request before the packet it came in has arrived.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    runs: [Run; MAX_RUNS],
    /// Runs that were begun, modulo 2^32.
    added: u32,
    /// Runs that were answered, modulo 2^32.
    taken: u32,
    /// Requests of the oldest run that were answered.
    of_run: u32,
    /// Zero.
    _pad: u32,
}
const _: () = assert!(size_of::<Pending>() == 272);

impl Pending {
    /// Adds a request; whether there was room.
    #[inline(always)]
    pub fn push(&mut self, method: Method, begun_ns: u64) -> bool {
        let waiting = self.added.wrapping_sub(self.taken);
        let last = &mut self.runs[self.added.wrapping_sub(1) as usize % MAX_RUNS];
        if waiting != 0 && last.begun_ns == begun_ns && last.method == u32::from(method.0) {
            last.count += 1;
            return true;
        }
        if waiting >= MAX_RUNS as u32 {
            return false;
        }
        self.runs[self.added as usize % MAX_RUNS] = Run {
            begun_ns,
            count: 1,
            method: u32::from(method.0),
        };
        self.added = self.added.wrapping_add(1);
        true
    }

    /// Takes the oldest request out: a run of one. A count of 0 says that there is none.
    #[inline(always)]
    pub fn pop(&mut self) -> Run {
        if self.added == self.taken {
            return Run::default();
        }
        let mut run = self.runs[self.taken as usize % MAX_RUNS];
        self.of_run += 1;
        if self.of_run >= run.count {
            self.of_run = 0;
            self.taken = self.taken.wrapping_add(1);
        }
        run.count = 1;
        run
    }

    /// Takes the oldest run out. A count of 0 says that there is none.
    #[inline(always)]
    pub fn pop_run(&mut self) -> Run {
        if self.added == self.taken {
            return Run::default();
        }
        let mut run = self.runs[self.taken as usize % MAX_RUNS];
        run.count = run.count.saturating_sub(self.of_run);
        self.of_run = 0;
        self.taken = self.taken.wrapping_add(1);
        run
    }
}
