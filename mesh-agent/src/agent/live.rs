//! Long flows while they live: their bytes in counters, and a record of those that move most.
//!
//! Comes in: sockets of every network namespace, with what the mesh remembers with them. Goes
//! out: what counters must show at least, and records. It looks at nothing while nothing of the mesh
//! is open.

mod pass;
mod sums;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mesh_common::{FlowKey, FlowStats};

use self::pass::{Known, Pass};
use self::sums::Sums;
use super::{Agent, lock};

/// What there is to know of open flows.
#[derive(Default)]
pub(super) struct Live {
    stopped: Mutex<bool>,
    wake: Condvar,
    sums: Mutex<Sums>,
    /// Updates that were not recorded because others had moved more bytes.
    pub(super) skipped: AtomicU64,
    /// Flows that were not looked at because there were too many.
    pub(super) unseen: AtomicU64,
}

impl Live {
    /// Adds to what was counted at closes what the open flows had moved when they were looked
    /// at last.
    pub(super) fn raise(&self, flows: &mut [(FlowKey, FlowStats)], epoch: u64) {
        lock(&self.sums).raise(flows, epoch);
    }

    /// Waits; whether to go on.
    fn wait(&self, time: Duration) -> bool {
        let (stopped, _) = self
            .wake
            .wait_timeout_while(lock(&self.stopped), time, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        !*stopped
    }

    fn stop(&self) {
        *lock(&self.stopped) = true;
        self.wake.notify_all();
    }
}

/// The thread that looks; dropping it ends it.
pub struct Watcher {
    agent: Arc<Agent>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub(super) fn start(agent: &Arc<Agent>) -> io::Result<Self> {
        let sockets = lock(&agent.dataplane).sockets()?;
        let of_thread = Arc::clone(agent);
        let (done, first) = channel();
        let thread = thread::Builder::new()
            .name("live".into())
            .stack_size(256 << 10)
            .spawn(move || run(&of_thread, &sockets, &done))?;
        // An earlier agent has shown the bytes of open flows: counters begin no lower.
        let _ = first.recv();
        Ok(Self {
            agent: Arc::clone(agent),
            thread: Some(thread),
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.agent.live.stop();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that looks at open flows panicked");
        }
    }
}

fn run(agent: &Agent, sockets: &OwnedFd, first: &Sender<()>) {
    let mut known = Known::default();
    loop {
        if let Err(error) = look(agent, sockets, &mut known) {
            tracing::warn!(%error, "cannot look at open flows");
        }
        // Only the first is waited for.
        let _ = first.send(());
        if !agent.live.wait(agent.config.flows.updates) {
            return;
        }
    }
}

/// Looks at every open flow of the mesh once.
fn look(agent: &Agent, sockets: &OwnedFd, known: &mut Known) -> io::Result<()> {
    let Some(current) = agent.current() else {
        return Ok(());
    };
    // Read before the sockets are: a flow that closes in between is in neither sum, and never in
    // both.
    let closed = lock(&agent.dataplane).stats().map_err(io::Error::other)?;
    let any = |(_, stats): &(FlowKey, FlowStats)| stats.opened > stats.closed;
    if !closed.flows.iter().any(any) {
        *known = Known::default();
        return Ok(());
    }
    let epoch = current.names.epoch;
    let pass = Pass::of(
        sockets,
        agent.usher(),
        epoch,
        agent.config.flows.updates,
        known,
    )?;
    lock(&agent.live.sums).take(&closed.flows, &pass.moved, epoch);
    agent.live.skipped.fetch_add(pass.skipped, Relaxed);
    agent.live.unseen.fetch_add(pass.unseen, Relaxed);
    *known = pass.known;
    for record in pass.records {
        agent.flows.take(Some(record), &current.names);
    }
    Ok(())
}
