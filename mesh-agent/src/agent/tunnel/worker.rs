//! A worker: one thread, one runtime, and its share of the flows between nodes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::UnixTime;
use tokio::net::TcpListener as AsyncListener;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::sleep;

use super::listeners::Order;
use super::shared::{Phase, Recorder, Refused, Shared, count};
use super::view::View;
use super::{inbound, outbound};
use crate::dataplane::TunnelMaps;
use crate::identity::{Bundle, Identity, Refusal, Role, client_config, server_config, verify};
use crate::tunnel::{Admission, AdmissionLimits, Chain, Control, Pool, PoolLimits};

/// Most flows of a worker at a time, of each direction.
const MOST_FLOWS: usize = 16 * 1024;
/// How long nothing is accepted after accepting has failed, for want of descriptors mostly.
const PAUSE: Duration = Duration::from_millis(50);
/// Most configurations that are kept; they are made anew when needed.
const MOST_CONFIGS: usize = 1024;

/// What a warm connection may be used for: calls of whom, to whom, on which node.
pub(super) type Key = (Identity, Identity, Arc<str>);

/// What another node has proven.
#[derive(Debug)]
pub(super) struct Proven {
    /// Who it speaks for.
    pub(super) identity: Identity,
    /// Which node it is.
    pub(super) node: Arc<str>,
    /// Its certificates, to be judged again when trust changes.
    pub(super) chain: Chain,
    /// As what it has proven itself.
    pub(super) role: Role,
}

/// What trust amounts to now.
struct Trusted {
    bundle: Arc<Bundle>,
    server: Arc<ServerConfig>,
    /// Own services by the name they are asked for.
    names: HashMap<String, Identity>,
    clients: HashMap<Key, Arc<ClientConfig>>,
}

/// See the module.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) maps: RefCell<TunnelMaps>,
    pub(super) admission: Admission,
    pub(super) pool: Pool<Key>,
    trusted: RefCell<Trusted>,
    recorder: RefCell<Recorder>,
    /// Sessions that are there, with what their peers have proven.
    live: RefCell<HashMap<u64, (Control, Rc<Proven>)>>,
    next: Cell<u64>,
    /// How often trust has changed.
    trust: Cell<u64>,
    flows: Cell<usize>,
}

/// A session that can be cut, as long as it is held.
pub(super) struct Registered {
    worker: Rc<Worker>,
    key: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.live.borrow_mut().remove(&self.key);
    }
}

/// A flow that counts against the worker's bound, as long as it is held.
pub(super) struct Room(Rc<Worker>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.flows.set(self.0.flows.get() - 1);
    }
}

/// Runs a worker until it has drained.
///
/// # Errors
///
/// There is no runtime.
pub(super) fn run(
    shared: Arc<Shared>,
    maps: TunnelMaps,
    orders: mpsc::Receiver<Order>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let worker = Rc::new(Worker::new(shared, maps));
    LocalSet::new().block_on(&runtime, worker.work(orders));
    Ok(())
}

impl Worker {
    fn new(shared: Arc<Shared>, maps: TunnelMaps) -> Self {
        let bundle = shared.store.bundle();
        let counters = Arc::clone(&shared.admission);
        Self {
            pool: Pool::new(PoolLimits::default(), Arc::clone(&shared.pool)),
            admission: Admission::new(AdmissionLimits::default(), counters),
            maps: RefCell::new(maps),
            trusted: RefCell::new(Trusted::new(bundle)),
            recorder: RefCell::new(Recorder::new()),
            live: RefCell::default(),
            next: Cell::new(0),
            trust: Cell::new(0),
            flows: Cell::new(0),
            shared,
        }
    }

    async fn work(self: &Rc<Self>, mut orders: mpsc::Receiver<Order>) {
        let mut views = self.shared.view.subscribe();
        let mut bundles = self.shared.store.subscribe();
        let pool = self.pool.clone();
        spawn_local(async move { pool.run().await });
        let mut phases = self.shared.phase.subscribe();
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
                    let bundle = Arc::clone(&bundles.borrow_and_update());
                    *self.trusted.borrow_mut() = Trusted::new(bundle);
                    self.judge_again();
                }
                () = sleep(EXPIRY) => self.judge_again(),
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
        let controls: Vec<Control> = self
            .live
            .borrow()
            .values()
            .map(|(control, _)| control.clone())
            .collect();
        controls.iter().for_each(Control::drain);
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

    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.shared.view.borrow())
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.trusted.borrow().server)
    }

    /// The own service that a client has asked for by name.
    pub(super) fn asked_for(&self, name: &str) -> Option<Identity> {
        self.trusted.borrow().names.get(name).cloned()
    }

    /// The configuration for connections of a key; `None` without a certificate for the caller.
    pub(super) fn client(&self, key: &Key) -> Option<Arc<ClientConfig>> {
        let mut trusted = self.trusted.borrow_mut();
        if let Some(config) = trusted.clients.get(key) {
            return Some(Arc::clone(config));
        }
        let config = client_config(&trusted.bundle, &key.0, &key.1, &key.2)?;
        if trusted.clients.len() >= MOST_CONFIGS {
            trusted.clients.clear();
        }
        trusted.clients.insert(key.clone(), Arc::clone(&config));
        Some(config)
    }

    /// Judges a peer's certificates.
    ///
    /// # Errors
    ///
    /// They prove nothing.
    pub(super) fn prove(
        &self,
        chain: Chain,
        role: Role,
        from: SocketAddr,
    ) -> Result<Proven, Unproven> {
        let trusted = self.trusted.borrow();
        let peer = verify(&chain, role, trusted.bundle.trust(), UnixTime::now())?;
        let node = self.view().node_of(peer.node.as_ref(), from.ip());
        Ok(Proven {
            node: node.ok_or(Unproven::Node(peer.node, from))?,
            identity: peer.identity,
            chain,
            role,
        })
    }

    /// Has a session cut when its peer is no longer trusted. To be called before the peer is
    /// judged, so that no change comes in between.
    pub(super) fn register(self: &Rc<Self>, control: Control, proven: Rc<Proven>) -> Registered {
        let key = self.next.get();
        self.next.set(key + 1);
        self.live.borrow_mut().insert(key, (control, proven));
        Registered {
            worker: Rc::clone(self),
            key,
        }
    }

    /// Whether a peer is still who it has proven to be, and may still be there.
    pub(super) fn still_holds(&self, proven: &Proven) -> Result<(), String> {
        let trusted = self.trusted.borrow();
        let now = UnixTime::now();
        let peer = verify(&proven.chain, proven.role, trusted.bundle.trust(), now);
        peer.map_err(|refusal| refusal.to_string())?;
        let view = self.view();
        let fits = match proven.role {
            Role::Client => view.caller(&proven.identity, &proven.node).map(drop),
            Role::Server => view.is_placed(&proven.identity, &proven.node),
        };
        fits.map_err(|unfit| unfit.to_string())
    }

    /// Changes whenever trust does.
    pub(super) fn trust(&self) -> u64 {
        self.trust.get()
    }

    /// Cuts the sessions of peers that are no longer trusted.
    fn judge_again(&self) {
        self.trust.set(self.trust.get() + 1);
        let live: Vec<_> = self.live.borrow().values().cloned().collect();
        let mut known: HashMap<(*const _, Identity, Arc<str>), Result<(), String>> = HashMap::new();
        for (control, proven) in live {
            // Chains are shared: one for each peer.
            let key = (
                proven.chain.as_ptr(),
                proven.identity.clone(),
                Arc::clone(&proven.node),
            );
            let holds = known
                .entry(key)
                .or_insert_with(|| self.still_holds(&proven));
            if let Err(why) = holds {
                count(&self.shared.counters.revoked);
                self.record(Refused {
                    reason: mesh_common::Reason::CertificateRevoked,
                    source: proven.identity.to_string(),
                    destination: "-".into(),
                    dialled: None,
                    peer: None,
                    detail: format!("a live connection was cut: {why}"),
                });
                control.cut();
            }
        }
        let purged = self.pool.purge(|(_, called, node), session| {
            let proven = Proven {
                identity: called.clone(),
                node: Arc::clone(node),
                chain: session.certificates().clone(),
                role: Role::Server,
            };
            self.still_holds(&proven).is_err()
        });
        if purged > 0 {
            tracing::info!(
                purged,
                "warm connections closed: their peers are not trusted any more"
            );
        }
    }

    pub(super) fn record(&self, refused: Refused) {
        self.recorder.borrow_mut().record(&self.shared, refused);
    }
}

impl Trusted {
    fn new(bundle: Arc<Bundle>) -> Self {
        let names = bundle
            .identities()
            .map(|own| (own.identity.server_name(), own.identity.clone()));
        Self {
            server: server_config(&bundle),
            names: names.collect(),
            clients: HashMap::new(),
            bundle,
        }
    }
}

/// Why a peer is nobody.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unproven {
    /// Its certificates.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is no node of the policy.
    #[error("{} is no node of the policy: declare it by [[node]]", .0.as_deref().map_or_else(|| .1.ip().to_string(), str::to_owned))]
    Node(Option<Arc<str>>, SocketAddr),
}

fn close(tasks: Option<Vec<AbortHandle>>) {
    tasks.into_iter().flatten().for_each(|task| task.abort());
}

/// Stands among namespaces for the listeners for other nodes; no cookie is 0.
const PEERS: u64 = 0;
/// How often certificates of live sessions are looked at for having expired.
const EXPIRY: Duration = Duration::from_secs(30);
