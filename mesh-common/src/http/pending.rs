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
    /// Which run it is, modulo 2^32; the first is 1.
    number: u32,
    /// How many there are.
    pub count: u16,
    /// [`Method`] code.
    pub method: u16,
}
const _: () = assert!(size_of::<Run>() == 16);

/// A queue of requests, oldest first.
///
/// One side adds and the other takes, maybe at the same time on two CPUs: each writes fields of
/// its own, and what the other one writes is looked at as rarely as can be, because a cache line
/// that goes from CPU to CPU costs more than all else here. The side that takes does not reach a
/// run that is still being added to, because nobody answers a request before the packet it came
/// in has arrived.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// When the last run began: tells whether another request is of its packet without a look at
    /// the run.
    last_ns: u64,
    /// Runs that were begun, modulo 2^32.
    added: u32,
    /// Runs that were answered when the side that adds last looked.
    taken_before: u32,
    runs: [Run; MAX_RUNS],
    /// CPUs fetch lines ahead of those that are asked for: what one side writes is out of the
    /// other one's reach.
    _gap: [[u64; 8]; 6],
    /// Runs that were answered, modulo 2^32.
    taken: u32,
    /// Requests of the oldest run that were answered.
    of_run: u32,
}
const _: () = assert!(size_of::<Pending>() == 664);

impl Pending {
    /// Adds a request; whether there was room.
    #[inline(always)]
    pub fn push(&mut self, method: Method, begun_ns: u64) -> bool {
        let method = u16::from(method.0);
        if self.last_ns == begun_ns && self.grow(method) {
            return true;
        }
        if !self.has_room() {
            return false;
        }
        self.runs[self.added as usize % MAX_RUNS] = Run {
            begun_ns,
            number: self.added.wrapping_add(1),
            count: 1,
            method,
        };
        self.added = self.added.wrapping_add(1);
        self.last_ns = begun_ns;
        true
    }

    /// Adds a request to the last run, if that is of the same method.
    #[inline(always)]
    fn grow(&mut self, method: u16) -> bool {
        let last = &mut self.runs[self.added.wrapping_sub(1) as usize % MAX_RUNS];
        if last.method != method || last.count == u16::MAX || self.added == self.taken {
            return false;
        }
        last.count += 1;
        true
    }

    #[inline(always)]
    fn has_room(&mut self) -> bool {
        if self.added.wrapping_sub(self.taken_before) < MAX_RUNS as u32 {
            return true;
        }
        self.taken_before = self.taken;
        self.added.wrapping_sub(self.taken_before) < MAX_RUNS as u32
    }

    /// Asks for the oldest run's cache line, which the other side has written last, before it is
    /// needed: it is on its way while the response is read.
    #[inline(always)]
    pub fn fetch(&self) {
        let oldest = &self.runs[self.taken as usize % MAX_RUNS];
        // SAFETY: a reference to a field.
        let _ = unsafe { core::ptr::read_volatile(&raw const oldest.number) };
    }

    /// Takes the oldest request out: a run of one. A count of 0 says that there is none.
    #[inline(always)]
    pub fn pop(&mut self) -> Run {
        let mut run = self.oldest();
        if run.count == 0 {
            return run;
        }
        self.of_run += 1;
        if self.of_run >= u32::from(run.count) {
            self.of_run = 0;
            self.taken = self.taken.wrapping_add(1);
        }
        run.count = 1;
        run
    }

    /// Takes the oldest run out. A count of 0 says that there is none.
    #[inline(always)]
    pub fn pop_run(&mut self) -> Run {
        let mut run = self.oldest();
        if run.count == 0 {
            return run;
        }
        run.count = run.count.saturating_sub(self.of_run as u16);
        self.of_run = 0;
        self.taken = self.taken.wrapping_add(1);
        run
    }

    /// The oldest run, which says itself whether it is there.
    #[inline(always)]
    fn oldest(&self) -> Run {
        let run = self.runs[self.taken as usize % MAX_RUNS];
        if run.number != self.taken.wrapping_add(1) {
            return Run::default();
        }
        run
    }
}
