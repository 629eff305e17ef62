//! Ctrl-C as something a program looks at, so that it takes down what it has set up.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd as _;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};

/// SIGINT, SIGTERM and SIGHUP of this process, once they are caught. Children are started with
/// none of them blocked, and a terminal sends Ctrl-C to them too.
#[derive(Debug)]
pub struct Interrupt {
    signals: SignalFd,
    happened: Cell<bool>,
}

impl Interrupt {
    /// Keeps the signals from ending the process. To be called before threads are started.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn catch() -> io::Result<Self> {
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect();
        set.thread_block()?;
        Ok(Self {
            signals: SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            happened: Cell::new(false),
        })
    }

    /// Whether one has come.
    pub fn happened(&self) -> bool {
        if matches!(self.signals.read_signal(), Ok(Some(_))) {
            self.happened.set(true);
        }
        self.happened.get()
    }

    /// Waits for one.
    pub fn wait(&self) {
        while !self.happened() {
            let mut fds = [PollFd::from_borrowed_fd(
                self.signals.as_fd(),
                PollFlags::IN,
            )];
            // What woke it is looked at in any case.
            let _ = poll(&mut fds, None);
        }
    }
}
