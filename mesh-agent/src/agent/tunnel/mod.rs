//! Connections between nodes, driven: who calls, what for, whether it may.
//!
//! Comes in: the policy, the certificates, connections that the kernel sends here and those of
//! other nodes. Goes out: flows, records, counts. Workers share nothing but what [`shared`] has.

mod fdstore;
mod inbound;
mod listeners;
mod outbound;
mod pulse;
mod shared;
mod tap;
mod told;
mod trust;
mod view;
mod wanted;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle, available_parallelism};
use std::time::{Duration, Instant};

use rustls_pki_types::UnixTime;
use tokio::sync::{mpsc, watch};

use self::fdstore::FdStore;
use self::listeners::Listeners;
use self::pulse::Pulse;
use self::shared::{Counters, Phase, Shared};
pub(crate) use self::view::View;
use self::wanted::{Want, Wanted};
use super::calls::Calls;
use crate::config::AgentConfig;
use crate::dataplane::{Dataplane, DataplaneError, Usher};
use crate::identity::{Bundle, Store};
use crate::telemetry::denials::DenialView;
use crate::telemetry::tunnel::TunnelView;

/// Most workers: more cores than this are not for the mesh.
const MOST_WORKERS: usize = 4;
/// Orders that wait for a worker.
const ORDERS: usize = 64;
/// How long an agent that starts waits for its listeners.
const SETTLE: Duration = Duration::from_secs(2);
/// Stack of a worker: handshakes are what needs most.
const STACK: usize = 512 << 10;

/// As many as there are cores, up to a bound.
fn workers() -> usize {
    available_parallelism()
        .map_or(1, NonZero::get)
        .min(MOST_WORKERS)
}

/// File descriptors that the service manager has passed on, with their names.
pub(crate) type Inherited = Vec<(OwnedFd, String)>;

/// The tunnel; dropping it drains it.
pub(crate) struct Tunnel {
    shared: Arc<Shared>,
    listen: SocketAddr,
    /// How long flows may go on once the agent is told to stop.
    drain: Duration,
    threads: Vec<JoinHandle<()>>,
}

impl Tunnel {
    /// Starts it without a policy: nothing is listened for yet. `inherited` is what the service manager
    /// has passed on, with its names. At most `warm` connections are kept ready.
    ///
    /// # Errors
    ///
    /// The maps are missing, or there are no threads.
    pub(crate) fn start(
        config: &AgentConfig,
        dataplane: &Dataplane,
        usher: Option<Arc<Usher>>,
        inherited: Inherited,
        calls: Arc<Calls>,
        warm: usize,
        note: impl Fn(DenialView) + Send + Sync + 'static,
    ) -> Result<Self, DataplaneError> {
        let domain = &config.node.trust_domain;
        let (store, problems) = Store::open(&config.tunnel.certificates, domain, UnixTime::now());
        for problem in problems {
            tracing::error!("{problem}");
        }
        let workers = workers();
        let shared = Arc::new(Shared {
            view: watch::Sender::new(Arc::default()),
            store,
            wanted: Arc::new(Wanted::default()),
            phase: watch::Sender::new(Phase::Running),
            pulse: Pulse::new(workers),
            counters: Counters::default(),
            admission: Arc::default(),
            pool: Arc::default(),
            port: config.tunnel.listen.port(),
            calls,
            warm: warm / workers,
            note: Box::new(note),
        });
        let mut tunnel = Self {
            shared,
            listen: config.tunnel.listen,
            drain: config.tunnel.drain,
            threads: Vec::new(),
        };
        tunnel.start_threads(dataplane, usher, FdStore::new(inherited))?;
        Ok(tunnel)
    }

    fn start_threads(
        &mut self,
        dataplane: &Dataplane,
        usher: Option<Arc<Usher>>,
        kept: FdStore,
    ) -> Result<(), DataplaneError> {
        let workers = self.shared.pulse.workers();
        let mut senders = Vec::new();
        for number in 0..workers {
            let (sender, orders) = mpsc::channel(ORDERS);
            senders.push(sender);
            let (shared, maps) = (Arc::clone(&self.shared), dataplane.tunnel()?);
            self.spawn(format!("tunnel-{number}"), move || {
                if let Err(error) = worker::run(number, shared, maps, orders) {
                    tracing::error!(%error, "a tunnel worker cannot run");
                }
            })?;
        }
        let hand = move |worker: usize, order| {
            let sender: Option<&mpsc::Sender<_>> = senders.get(worker);
            sender.is_some_and(|sender| sender.blocking_send(order).is_ok())
        };
        let listeners = Listeners::new(
            Arc::clone(&self.shared.wanted),
            dataplane.tunnel()?,
            usher,
            dataplane.hierarchy().prefix().to_owned(),
            workers,
            kept,
            Box::new(hand),
        );
        self.spawn("listeners".into(), move || listeners.run())?;
        Ok(())
    }

    fn spawn(&mut self, name: String, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name).stack_size(STACK);
        self.threads.push(thread.spawn(body)?);
        Ok(())
    }

    /// Says what a policy means, before the kernel side enforces it.
    pub(crate) fn publish(&self, view: View) {
        self.shared.view.send_modify(|current| {
            *current = Arc::new(view.after(current));
        });
        self.listen();
    }

    /// Reads the certificates again. What no longer holds is cut.
    pub(crate) fn reload_certificates(&self) {
        let reload = self.shared.store.reload(UnixTime::now());
        for problem in &reload.problems {
            tracing::warn!("{problem}");
        }
        if !reload.changes.is_empty() {
            tracing::info!(
                identities = reload.changes.identities.len(),
                roots = reload.changes.roots,
                revocations = reload.changes.crls,
                "certificates read again"
            );
        }
        self.listen();
    }

    /// The certificates in force.
    pub(crate) fn certificates(&self) -> Arc<Bundle> {
        self.shared.store.bundle()
    }

    /// Where certificates are.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        self.shared.store.directories()
    }

    fn listen(&self) {
        let view = self.shared.view();
        let has_identity = self.shared.store.bundle().identities().next().is_some();
        self.shared.wanted.set(Want {
            calls: view.has_targets(),
            peers: (has_identity && view.serves()).then_some(self.listen),
        });
    }

    /// Waits until calls are taken, for a moment.
    pub(crate) fn settle(&self) {
        self.shared.wanted.settle(SETTLE);
    }

    /// Whether every worker has answered since this was asked last.
    pub(crate) fn answers(&self) -> bool {
        self.shared.pulse.ask()
    }

    /// How it is.
    pub(crate) fn told(&self) -> TunnelView {
        told::view(&self.shared)
    }

    /// How often memory was needed or freed so far: sessions that began, flows and sessions that ended.
    pub(crate) fn changes(&self) -> u64 {
        let Shared { counters, pool, .. } = &*self.shared;
        let changes = [
            &pool.dials,
            &counters.server_handshakes,
            &counters.ended,
            &pool.evicted,
            &pool.expired,
            &pool.dead,
            &pool.purged,
        ];
        changes.iter().map(|counter| counter.load(Relaxed)).sum()
    }

    /// A call found no listener.
    pub(crate) fn look_for_callers(&self) {
        self.shared.wanted.look();
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.shared.wanted.stop();
        let deadline = Instant::now() + self.drain;
        self.shared.phase.send_replace(Phase::Draining(deadline));
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the tunnel panicked");
            }
        }
    }
}
