//! Denial records and log lines of the kernel programs, read on a thread of their own.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use mesh_common::DenialRecord;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::DataplaneError;
use super::policy_maps::take;

/// Most records taken between two pauses.
const BATCH: usize = 512;
/// Pause after a batch, so that a flood of denials costs the agent little: what does not fit
/// the ring meanwhile is counted by the kernel side.
const PAUSE: Duration = Duration::from_millis(50);
/// How often the programs' log is looked at, milliseconds: it is for rare things.
const LOG_INTERVAL_MS: i64 = 5000;

/// Where records come from.
pub struct Records {
    ring: RingBuf<MapData>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
}

/// The thread that reads; dropping it ends it.
pub struct Reader {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Records {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        let ring = RingBuf::try_from(take(ebpf, "RECORDS")?)?;
        let logger = EbpfLogger::init_with_logger(ebpf, log::logger());
        if let Err(error) = &logger {
            tracing::debug!(%error, "the kernel programs do not log");
        }
        Ok(Self {
            ring,
            logger: logger.ok(),
        })
    }

    /// Begins to hand records to `each`; `None` for one that cannot be decoded.
    ///
    /// # Errors
    ///
    /// No thread or no event descriptor can be had.
    pub fn read(
        self,
        each: impl FnMut(Option<DenialRecord>) + Send + 'static,
    ) -> io::Result<Reader> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let stopped = stop.try_clone()?;
        let thread = thread::Builder::new()
            .name("records".into())
            .stack_size(256 << 10)
            .spawn(move || self.run(&stopped, each))?;
        Ok(Reader {
            stop,
            thread: Some(thread),
        })
    }

    fn run(mut self, stopped: &OwnedFd, mut each: impl FnMut(Option<DenialRecord>)) {
        let interval = rustix::time::Timespec {
            tv_sec: LOG_INTERVAL_MS / 1000,
            tv_nsec: 0,
        };
        loop {
            let mut ready = [
                PollFd::new(stopped, PollFlags::IN),
                PollFd::from_borrowed_fd(self.ring.as_fd(), PollFlags::IN),
            ];
            let polled = poll(&mut ready, Some(&interval));
            if polled.is_err() || !ready[0].revents().is_empty() {
                return;
            }
            for _ in 0..BATCH {
                let Some(item) = self.ring.next() else {
                    break;
                };
                each(DenialRecord::from_bytes(&item));
            }
            if let Some(logger) = &mut self.logger {
                logger.flush();
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // An eventfd takes a write of 1 unless it is at its maximum.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that reads denial records panicked");
        }
    }
}
