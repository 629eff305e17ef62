//! A worker: one thread, one runtime, and its share of the flows between nodes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener as AsyncListener;
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{sleep, sleep_until};

use super::listeners::Order;
use super::shared::{Phase, Recorder, Refused, Shared, count};
use super::trust::{Judging, Key, Peers};
use super::{inbound, outbound};
use crate::dataplane::TunnelMaps;
use crate::tunnel::{Admission, AdmissionLimits, Pool, PoolLimits};

/// Most flows of a worker at a time, of each direction.
const MOST_FLOWS: usize = 16 * 1024;
/// How long nothing is accepted after accepting has failed, for want of descriptors mostly.
const PAUSE: Duration = Duration::from_millis(50);

/// See the module.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) maps: RefCell<TunnelMaps>,
    pub(super) admission: Admission,
    pub(super) pool: Pool<Key>,
    pub(super) peers: Rc<Peers>,
    recorder: RefCell<Recorder>,
    flows: Cell<usize>,
}

/// A flow that counts against the worker's bound, as long as it is held.
pub(super) struct Room(Rc<Worker>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.flows.set(self.0.flows.get() - 1);
    }
}

/// Runs worker number so and so until it has drained.
///
/// # Errors
///
/// There is no runtime.
pub(super) fn run(
    number: usize,
    shared: Arc<Shared>,
    maps: TunnelMaps,
    orders: mpsc::Receiver<Order>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // Not a LocalSet: each wake of one of its tasks has the runtime look for events twice.
        .build_local(LocalOptions::default())?;
    let worker = Rc::new(Worker::new(shared, maps));
    runtime.block_on(worker.work(number, orders));
    Ok(())
}

impl Worker {
    fn new(shared: Arc<Shared>, maps: TunnelMaps) -> Self {
        let counters = Arc::clone(&shared.admission);
        let all = PoolLimits::default();
        let limits = PoolLimits {
            total: shared.warm.clamp(1, all.total),
            ..all
        };
        Self {
            pool: Pool::new(limits, Arc::clone(&shared.pool)),
            admission: Admission::new(AdmissionLimits::default(), counters),
            maps: RefCell::new(maps),
            peers: Rc::new(Peers::new(Arc::clone(&shared))),
            recorder: RefCell::new(Recorder::new()),
            flows: Cell::new(0),
            shared,
        }
    }

    async fn work(self: &Rc<Self>, number: usize, mut orders: mpsc::Receiver<Order>) {
        let mut views = self.shared.view.subscribe();
        let mut bundles = self.shared.store.subscribe();
        let pool = self.pool.clone();
        spawn_local(async move { pool.run().await });
        let mut phases = self.shared.phase.subscribe();
        let mut pulses = self.shared.pulse.subscribe();
        let mut expiry = tokio::time::Instant::now() + EXPIRY;
        let mut taken: HashMap<u64, Vec<AbortHandle>> = HashMap::new();
        loop {
            tokio::select! {
                // There are no more once the agent stops; that is told by the phase.
                Some(order) = orders.recv() => match order {
                    Order::Take { netns, listeners } => {
                        taken.insert(netns, self.take_calls(netns, listeners));
                    }
                    Order::Close { netns } => close(taken.remove(&netns)),
                    Order::Serve { listeners } => {
                        close(taken.insert(PEERS, self.take_peers(listeners)));
                    }
                    Order::Deny => close(taken.remove(&PEERS)),
                },
                Ok(()) = views.changed() => self.judge_again(),
                Ok(()) = bundles.changed() => {
                    self.peers.trust(Arc::clone(&bundles.borrow_and_update()));
                    self.judge_again();
                }
                Ok(()) = pulses.changed() => {
                    self.shared.pulse.answer(number, *pulses.borrow_and_update());
                }
                // Not a time from now: the others come more often than that.
                () = sleep_until(expiry) => {
                    self.judge_again();
                    expiry = tokio::time::Instant::now() + EXPIRY;
                }
                Ok(()) = phases.changed() => {
                    let Phase::Draining(deadline) = *phases.borrow_and_update() else {
                        continue;
                    };
                    taken.drain().for_each(|(_, tasks)| close(Some(tasks)));
                    self.drain(deadline).await;
                    break;
                }
            }
        }
    }

    /// Lets flows end by themselves, until the deadline.
    async fn drain(&self, deadline: Instant) {
        self.peers.drain();
        while self.flows.get() > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn take_calls(self: &Rc<Self>, netns: u64, listeners: Vec<TcpListener>) -> Vec<AbortHandle> {
        self.accept(listeners, move |worker, app, client| {
            if let Some(room) = worker.room() {
                let worker = Rc::clone(worker);
                spawn_local(outbound::carry(worker, netns, app, client, room));
            }
        })
    }

    fn take_peers(self: &Rc<Self>, listeners: Vec<TcpListener>) -> Vec<AbortHandle> {
        self.accept(listeners, |worker, stream, from| {
            if let Some(handshaking) = worker.admission.admit(from.ip().to_canonical()) {
                spawn_local(inbound::serve(Rc::clone(worker), stream, from, handshaking));
            }
        })
    }

    fn accept(
        self: &Rc<Self>,
        listeners: Vec<TcpListener>,
        each: impl Fn(&Rc<Self>, tokio::net::TcpStream, SocketAddr) + Copy + 'static,
    ) -> Vec<AbortHandle> {
        let accepting = |listener: TcpListener| {
            let worker = Rc::clone(self);
            spawn_local(async move {
                let listener = match AsyncListener::from_std(listener) {
                    Ok(listener) => listener,
                    Err(error) => {
                        tracing::error!(%error, "cannot accept connections");
                        return;
                    }
                };
                loop {
                    match listener.accept().await {
                        Ok((stream, from)) => each(&worker, stream, from),
                        Err(error) => {
                            tracing::debug!(%error, "cannot accept a connection");
                            sleep(PAUSE).await;
                        }
                    }
                }
            })
            .abort_handle()
        };
        listeners.into_iter().map(accepting).collect()
    }

    /// Room for a flow; `None` if there are too many.
    pub(super) fn room(self: &Rc<Self>) -> Option<Room> {
        if self.flows.get() >= MOST_FLOWS {
            count(&self.shared.counters.overload);
            return None;
        }
        self.flows.set(self.flows.get() + 1);
        Some(Room(Rc::clone(self)))
    }

    /// Cuts and closes what is no longer trusted.
    fn judge_again(&self) {
        let mut judging = self.peers.judge_again(|refused| self.record(refused));
        self.purge(&mut judging);
    }

    /// Closes the connections that are ready for flows and no longer trusted.
    pub(super) fn purge(&self, judging: &mut Judging<'_>) {
        let purged = self
            .pool
            .purge(|key, session| !judging.still_hold(key, session));
        if purged > 0 {
            tracing::info!(
                purged,
                "connections closed that were ready: trust has changed"
            );
        }
    }

    pub(super) fn record(&self, refused: Refused) {
        self.recorder.borrow_mut().record(&self.shared, refused);
    }
}

fn close(tasks: Option<Vec<AbortHandle>>) {
    tasks.into_iter().flatten().for_each(|task| task.abort());
}

/// Stands among namespaces for the listeners for other nodes; no cookie is 0.
const PEERS: u64 = 0;
/// How often certificates of live sessions are looked at for having expired.
const EXPIRY: Duration = Duration::from_secs(30);
