//! Whom a worker trusts: what peers have proven, for as long as they are connected.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::shared::{Refused, Shared, count};
use crate::identity::{
    Bundle, Identity, Refusal, Role, client_config, server_config, server_name, verify,
};
use crate::tunnel::{Chain, Client, Control, Session};

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

impl Proven {
    /// What the called node has proven on a session for a key.
    pub(super) fn by_server(key: &Key, session: &Session<Client>) -> Self {
        let (_, called, node) = key;
        Self {
            identity: called.clone(),
            node: Arc::clone(node),
            chain: session.certificates().clone(),
            role: Role::Server,
        }
    }
}

/// What it takes to connect for a key.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) config: Arc<ClientConfig>,
    /// What the called service is asked for by.
    pub(super) name: ServerName<'static>,
}

/// What trust amounts to now.
struct Trusted {
    bundle: Arc<Bundle>,
    server: Arc<ServerConfig>,
    /// Own services by the name they are asked for.
    names: HashMap<String, Identity>,
    clients: HashMap<Key, Credentials>,
}

/// See the module.
pub(super) struct Peers {
    shared: Arc<Shared>,
    trusted: RefCell<Trusted>,
    /// Sessions that are there, with what their peers have proven.
    live: RefCell<HashMap<u64, (Control, Rc<Proven>)>>,
    next: Cell<u64>,
    /// How often trust has changed.
    changes: Cell<u64>,
}

/// A session that can be cut, as long as it is held.
pub(super) struct Registered {
    peers: Rc<Peers>,
    key: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.peers.live.borrow_mut().remove(&self.key);
    }
}

impl Peers {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            trusted: RefCell::new(Trusted::new(shared.store.bundle())),
            live: RefCell::default(),
            next: Cell::new(0),
            changes: Cell::new(0),
            shared,
        }
    }

    /// Trusts by other certificates from now on.
    pub(super) fn trust(&self, bundle: Arc<Bundle>) {
        *self.trusted.borrow_mut() = Trusted::new(bundle);
    }

    /// Lets every session end after its flow.
    pub(super) fn drain(&self) {
        let controls: Vec<Control> = self
            .live
            .borrow()
            .values()
            .map(|(control, _)| control.clone())
            .collect();
        controls.iter().for_each(Control::drain);
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.trusted.borrow().server)
    }

    /// The own service that a client has asked for by name.
    pub(super) fn asked_for(&self, name: &str) -> Option<Identity> {
        self.trusted.borrow().names.get(name).cloned()
    }

    /// What it takes to connect for a key; `None` without a certificate for the caller.
    pub(super) fn client(&self, key: &Key) -> Option<Credentials> {
        let mut trusted = self.trusted.borrow_mut();
        if let Some(known) = trusted.clients.get(key) {
            return Some(known.clone());
        }
        let (caller, called, node) = key;
        let credentials = Credentials {
            config: client_config(&trusted.bundle, caller, called, node)?,
            name: server_name(called)?,
        };
        if trusted.clients.len() >= MOST_CONFIGS {
            trusted.clients.clear();
        }
        trusted.clients.insert(key.clone(), credentials.clone());
        Some(credentials)
    }

    /// Judges the certificates of a node that calls.
    ///
    /// # Errors
    ///
    /// They prove nothing.
    pub(super) fn prove(&self, chain: Chain, from: SocketAddr) -> Result<Proven, Unproven> {
        let role = Role::Client;
        let trusted = self.trusted.borrow();
        let peer = verify(&chain, role, trusted.bundle.trust(), UnixTime::now())?;
        let node = self.shared.view().node_of(peer.node.as_ref(), from.ip());
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
            peers: Rc::clone(self),
            key,
        }
    }

    /// Whether a peer is still who it has proven to be, and may still be there.
    pub(super) fn still_holds(&self, proven: &Proven) -> Result<(), String> {
        let trusted = self.trusted.borrow();
        let now = UnixTime::now();
        let peer = verify(&proven.chain, proven.role, trusted.bundle.trust(), now);
        peer.map_err(|refusal| refusal.to_string())?;
        let view = self.shared.view();
        let fits = match proven.role {
            Role::Client => view.caller(&proven.identity, &proven.node).map(drop),
            Role::Server => view.is_placed(&proven.identity, &proven.node),
        };
        fits.map_err(|unfit| unfit.to_string())
    }

    /// Changes whenever trust does.
    pub(super) fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// Judges everybody once.
    pub(super) fn judging(&self) -> Judging<'_> {
        Judging {
            peers: self,
            known: HashMap::new(),
        }
    }

    /// Cuts the sessions of peers that are no longer trusted, after a change of trust.
    pub(super) fn judge_again(&self, record: impl Fn(Refused)) -> Judging<'_> {
        self.changes.set(self.changes.get() + 1);
        let live: Vec<_> = {
            let mut live = self.live.borrow_mut();
            if live.len() < live.capacity() / 8 {
                live.shrink_to_fit();
            }
            live.values().cloned().collect()
        };
        let mut judging = self.judging();
        for (control, proven) in live {
            let holds = judging.holds(&proven);
            if let Err(why) = holds {
                count(&self.shared.counters.revoked);
                record(Refused {
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
        judging
    }
}

/// What is judged: a chain, by where it is, and what it is to prove.
type Judged = (*const CertificateDer<'static>, Identity, Arc<str>, Role);

/// Judges each peer once, however many sessions it has.
pub(super) struct Judging<'p> {
    peers: &'p Peers,
    known: HashMap<Judged, Result<(), String>>,
}

impl Judging<'_> {
    /// Whether a peer is still who it has proven to be.
    fn holds(&mut self, proven: &Proven) -> &Result<(), String> {
        // Chains are shared: one for each peer.
        let key = (
            proven.chain.as_ptr(),
            proven.identity.clone(),
            Arc::clone(&proven.node),
            proven.role,
        );
        let judge = || self.peers.still_holds(proven);
        self.known.entry(key).or_insert_with(judge)
    }

    /// Whether both ends of a warm connection still are who they were.
    pub(super) fn still_hold(&mut self, key: &Key, session: &Session<Client>) -> bool {
        let has_certificate = self.peers.trusted.borrow().bundle.own(&key.0).is_some();
        has_certificate && self.holds(&Proven::by_server(key, session)).is_ok()
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
