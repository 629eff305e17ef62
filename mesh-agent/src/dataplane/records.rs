//! Records and log lines of the kernel programs, read on a thread of their own.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapError, RingBuf};
use aya_log::EbpfLogger;
use mesh_common::{DenialRecord, FlowRecord};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::DataplaneError;
use super::policy_maps::take;

/// Most denials taken between two pauses.
const BATCH: usize = 512;
/// Most flow records taken between two pauses: 7,000 a second.
const FLOWS: usize = 350;
/// Pause after a batch, so that a flood of denials or of flows costs the agent little: what does
/// not fit the rings meanwhile is counted by the kernel side.
const PAUSE: Duration = Duration::from_millis(50);
/// Pause after what there was of HTTP/2 connections: the ring holds more than comes meanwhile.
const HEADS_PAUSE: Duration = Duration::from_millis(5);
/// How often the programs' log is looked at, milliseconds: it is for rare things.
const LOG_INTERVAL_MS: i64 = 5000;

/// Where records come from.
pub struct Records {
    denials: RingBuf<MapData>,
    flows: RingBuf<MapData>,
    /// Not mapped into memory before there is something in it.
    heads: MapData,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
}

/// A record; `None` for one that cannot be decoded.
#[derive(Clone, Copy, Debug)]
pub enum Record {
    /// Of a denial.
    Denial(Option<DenialRecord>),
    /// Of a flow.
    Flow(Option<FlowRecord>),
}

/// The word that asks for records of openings.
pub(super) struct Followed {
    map: Array<MapData, u32>,
    set: Option<bool>,
}

impl Followed {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        Ok(Self {
            map: take(ebpf, "FLOWS_FOLLOWED")?.try_into()?,
            // An earlier agent's may have stayed.
            set: None,
        })
    }

    pub(super) fn set(&mut self, wanted: bool) -> Result<(), MapError> {
        if self.set != Some(wanted) {
            self.map.set(0, u32::from(wanted), 0)?;
            self.set = Some(wanted);
        }
        Ok(())
    }
}

/// The thread that reads; dropping it ends it.
pub struct Reader {
    stop: OwnedFd,
    threads: Vec<JoinHandle<()>>,
}

impl Records {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        let denials = RingBuf::try_from(take(ebpf, "RECORDS")?)?;
        let flows = RingBuf::try_from(take(ebpf, "FLOW_RECORDS")?)?;
        let Map::RingBuf(heads) = take(ebpf, "HTTP_HEADS")? else {
            return Err(DataplaneError::NoMap("HTTP_HEADS"));
        };
        let logger = EbpfLogger::init_with_logger(ebpf, log::logger());
        if let Err(error) = &logger {
            tracing::debug!(%error, "the kernel programs do not log");
        }
        Ok(Self {
            denials,
            flows,
            heads,
            logger: logger.ok(),
        })
    }

    /// Begins to hand records to `each`, and what matters of HTTP/2 connections to `head`, see
    /// [`mesh_common::http2::Head::from_bytes`].
    ///
    /// # Errors
    ///
    /// No thread or no event descriptor can be had.
    pub fn read(
        self,
        each: impl FnMut(Record) + Send + 'static,
        head: impl FnMut(&[u8]) + Send + 'static,
    ) -> io::Result<Reader> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let stopped = [stop.try_clone()?, stop.try_clone()?];
        let mut reader = Reader {
            stop,
            threads: Vec::new(),
        };
        let Self {
            denials,
            flows,
            heads,
            logger,
        } = self;
        let [first, second] = stopped;
        let rare = Rare {
            denials,
            flows,
            logger,
        };
        reader.spawn("records", move || rare.run(&first, each))?;
        reader.spawn("heads", move || follow(heads, &second, head))?;
        Ok(reader)
    }
}

/// What is looked at now and then.
struct Rare {
    denials: RingBuf<MapData>,
    flows: RingBuf<MapData>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
}

impl Rare {
    fn run(mut self, stopped: &OwnedFd, mut each: impl FnMut(Record)) {
        let interval = rustix::time::Timespec {
            tv_sec: LOG_INTERVAL_MS / 1000,
            tv_nsec: 0,
        };
        loop {
            let mut ready = [
                PollFd::new(stopped, PollFlags::IN),
                PollFd::from_borrowed_fd(self.denials.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.flows.as_fd(), PollFlags::IN),
            ];
            let polled = poll(&mut ready, Some(&interval));
            if polled.is_err() || !ready[0].revents().is_empty() {
                return;
            }
            drain(&mut self.denials, BATCH, |bytes| {
                each(Record::Denial(DenialRecord::from_bytes(bytes)));
            });
            drain(&mut self.flows, FLOWS, |bytes| {
                each(Record::Flow(FlowRecord::from_bytes(bytes)));
            });
            if let Some(logger) = &mut self.logger {
                logger.flush();
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Hands over what comes of HTTP/2. A pause after what was there lets more come together, so that
/// few packets have to wake anybody.
fn follow(map: MapData, stopped: &OwnedFd, mut each: impl FnMut(&[u8])) {
    if !wait(map.fd().as_fd(), stopped) {
        return;
    }
    let mut ring = match RingBuf::try_from(Map::RingBuf(map)) {
        Ok(ring) => ring,
        Err(error) => return tracing::error!(%error, "requests of HTTP/2 cannot be read"),
    };
    loop {
        drain(&mut ring, usize::MAX, &mut each);
        thread::sleep(HEADS_PAUSE);
        if !wait(ring.as_fd(), stopped) {
            return;
        }
    }
}

/// Waits until there is something in a ring; `false` if the thread is to end instead.
fn wait(ring: BorrowedFd<'_>, stopped: &OwnedFd) -> bool {
    let mut ready = [
        PollFd::new(stopped, PollFlags::IN),
        PollFd::from_borrowed_fd(ring, PollFlags::IN),
    ];
    poll(&mut ready, None).is_ok() && ready[0].revents().is_empty()
}

fn drain(ring: &mut RingBuf<MapData>, most: usize, mut each: impl FnMut(&[u8])) {
    for _ in 0..most {
        let Some(item) = ring.next() else {
            return;
        };
        each(&item);
    }
}

impl Reader {
    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new()
            .name(name.into())
            .stack_size(256 << 10);
        self.threads.push(thread.spawn(body)?);
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // An eventfd takes a write of 1 unless it is at its maximum.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that reads records panicked");
            }
        }
    }
}
