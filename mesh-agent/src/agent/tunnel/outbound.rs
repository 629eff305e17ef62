//! Flows to other nodes: from the kernel's redirect to the other node's agent.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::{Reason, Redirect};
use rustix::net::sockopt::set_socket_linger;
use tokio::net::TcpStream;

use super::super::calls::Route;
use super::inbound::reason;
use super::shared::{Lasting, Refused, count};
use super::tap::Tap;
use super::trust::{Credentials, Key, Proven};
use super::view::Target;
use super::worker::{Room, Worker};
use crate::identity::{Identity, Refusal};
use crate::telemetry::snapshot::Crossing;
use crate::tunnel::wire::{Code, Open};
use crate::tunnel::{Client, DialError, HandshakeError, OpenError, Peer, Session};

/// Carries a connection that the kernel has sent here.
pub(super) async fn carry(
    worker: Rc<Worker>,
    netns: u64,
    app: TcpStream,
    client: SocketAddr,
    _room: Room,
) {
    reset_when_closed(&app);
    let redirect = worker.maps.borrow().redirect(netns, client);
    let known = redirect.and_then(|redirect| worker.shared.view().outbound(&redirect));
    let (Some((caller, target)), Some(redirect)) = (known, redirect) else {
        // Somebody who has dialled the listener itself, or a call under a policy that is gone.
        count(&worker.shared.counters.strays);
        return;
    };
    let open = Open {
        port: target.listen,
        endpoint: target.endpoint,
        client,
        version: (*target.version).into(),
        unknown: None,
    };
    let key = (
        caller,
        Identity::Service(target.service.clone()),
        Arc::clone(&target.node),
    );
    let trust = worker.peers.changes();
    match opened(&worker, &key, &target, &open).await {
        Ok(session) => {
            let tap = tap(&worker, &redirect, &target);
            relay(&worker, key, session, app, (trust, tap)).await;
        }
        Err(failure) => {
            // A refusal gives the session back to the pool, which no change since has seen there.
            if worker.peers.changes() != trust {
                worker.purge(&mut worker.peers.judging());
            }
            worker.record(failure.refused(&key.0, &target));
        }
    }
}

async fn relay(
    worker: &Rc<Worker>,
    key: Key,
    session: Session<Client>,
    app: TcpStream,
    (trust, tap): (u64, Option<Tap>),
) {
    let counters = &worker.shared.counters;
    let _flow = Lasting::outbound(counters);
    let proven = Rc::new(Proven::by_server(&key, &session));
    let _registered = worker.peers.register(session.control(), Rc::clone(&proven));
    // A change while the flow was opened has not seen the session.
    if worker.peers.changes() != trust
        && let Err(why) = worker.peers.still_holds(&proven)
    {
        tracing::debug!(
            why,
            "the other node lost our trust while the flow was opened"
        );
        return;
    }
    let mut flow = session.relay(app);
    if let Some(tap) = tap {
        flow = flow.watched_by(Box::new(tap));
    }
    let (outcome, session) = flow.await;
    counters.ended_by(&outcome.end);
    if let Some(session) = session {
        worker.pool.put(key, session);
    }
}

/// A look at the requests of a flow, if its port is declared to have some.
fn tap(worker: &Worker, redirect: &Redirect, target: &Target) -> Option<Tap> {
    let (service, version) = target.ids;
    let route = Route {
        source: redirect.source,
        service,
        version,
        crossing: Crossing::Outbound,
        protocol: target.requests?,
    };
    Tap::new(&worker.shared.calls, route)
}

/// A session on which the other node has accepted the flow.
async fn opened(
    worker: &Rc<Worker>,
    key: &Key,
    target: &Target,
    open: &Open,
) -> Result<Session<Client>, Failure> {
    let credentials = worker.peers.client(key);
    let Credentials { config, name } = credentials.ok_or(Failure::NoCertificate)?;
    let peer = Peer {
        address: SocketAddr::new(target.address, worker.shared.port),
        name,
        config,
    };
    Ok(worker.pool.open(key, &peer, open).await?)
}

/// Why a call does not reach the other node's workload.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(
        "this node has no certificate for the caller: issue one (mesh-agent ca issue --node ..)"
    )]
    NoCertificate,
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl Failure {
    fn reason(&self) -> Reason {
        match self {
            Self::NoCertificate => Reason::Identity,
            Self::Open(OpenError::Dial(error) | OpenError::BackOff(error)) => match &**error {
                DialError::Handshake(_, HandshakeError::Tls(error)) => {
                    reason(Refusal::from_tls(error).as_ref())
                }
                _ => Reason::NoTunnel,
            },
            Self::Open(OpenError::Refused(code)) => match code {
                Code::Denied => Reason::Policy,
                Code::Identity => Reason::Identity,
                _ => Reason::NoEndpoint,
            },
            Self::Open(OpenError::Broken(_)) => Reason::NoTunnel,
        }
    }

    fn refused(&self, caller: &Identity, target: &Target) -> Refused {
        Refused {
            reason: self.reason(),
            source: caller.to_string(),
            destination: target.service.to_string(),
            dialled: Some(target.endpoint),
            peer: None,
            detail: format!("node {}: {self}", target.node),
        }
    }
}

/// Lets a connection end by RST unless the flow ends as it should, also when this process is killed:
/// FIN would tell the application that there was an answer, and that it was empty.
fn reset_when_closed(app: &TcpStream) {
    // If it fails, the application sees that end.
    let _ = set_socket_linger(app, Some(Duration::ZERO));
}
