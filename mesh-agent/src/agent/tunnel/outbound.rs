//! Flows to other nodes: from the kernel's redirect to the other node's agent.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mesh_common::Reason;
use rustix::net::sockopt::set_socket_linger;
use tokio::net::TcpStream;

use super::inbound::reason;
use super::shared::{Lasting, Refused, count};
use super::view::Target;
use super::worker::{Room, Worker};
use crate::identity::{Identity, Refusal, server_name};
use crate::tunnel::wire::{Code, Open};
use crate::tunnel::{Broken, Client, DialError, End, HandshakeError, NotOpened, Peer, Session};

/// Carries a connection that the kernel has sent here.
pub(super) async fn carry(
    worker: Rc<Worker>,
    netns: u64,
    app: TcpStream,
    client: SocketAddr,
    _room: Room,
) {
    let redirect = worker.maps.borrow().redirect(netns, client);
    let known = redirect.and_then(|redirect| worker.view().outbound(&redirect));
    let Some((caller, target)) = known else {
        // Somebody who has dialled the listener itself, or a call under a policy that is gone.
        count(&worker.shared.counters.strays);
        return reset(app);
    };
    let open = Open {
        port: target.listen,
        endpoint: target.endpoint,
        client,
        version: (*target.version).into(),
        unknown: None,
    };
    match opened(&worker, &caller, &target, open).await {
        Ok(session) => relay(&worker, session, app).await,
        Err(failure) => {
            worker.record(failure.refused(&caller, &target));
            reset(app);
        }
    }
}

async fn relay(worker: &Worker, session: Session<Client>, app: TcpStream) {
    let counters = &worker.shared.counters;
    let _flow = Lasting::new(&counters.outbound);
    let (outcome, _next) = session.relay(app).await;
    if matches!(outcome.end, End::Broken(ref broken) if *broken != Broken::Cut) {
        count(&counters.broken);
    }
}

/// A session on which the other node has accepted the flow.
async fn opened(
    worker: &Rc<Worker>,
    caller: &Identity,
    target: &Target,
    open: Open,
) -> Result<Session<Client>, Failure> {
    let called = Identity::Service(target.service.clone());
    let config = worker
        .client(caller, target)
        .ok_or(Failure::NoCertificate)?;
    let peer = Peer {
        address: SocketAddr::new(target.address, worker.shared.port),
        name: server_name(&called).ok_or(Failure::NoCertificate)?,
        config,
    };
    let counters = &worker.shared.counters;
    let mut session = peer.dial().await.inspect_err(|error| {
        if matches!(error, DialError::Handshake(..)) {
            count(&counters.client_failures);
        }
    })?;
    count(&counters.client_handshakes);
    session.open(open).await?;
    Ok(session)
}

/// Why a call does not reach the other node's workload.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(
        "this node has no certificate for the caller: issue one (mesh-agent ca issue --node ..)"
    )]
    NoCertificate,
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Open(#[from] NotOpened),
}

impl Failure {
    fn reason(&self) -> Reason {
        match self {
            Self::NoCertificate => Reason::Identity,
            Self::Dial(DialError::Handshake(_, HandshakeError::Tls(error))) => {
                reason(Refusal::from_tls(error).as_ref())
            }
            Self::Dial(_) => Reason::NoTunnel,
            Self::Open(NotOpened::Refused(code)) => match code {
                Code::Denied => Reason::Policy,
                Code::Identity => Reason::Identity,
                _ => Reason::NoEndpoint,
            },
            Self::Open(NotOpened::Broken(_)) => Reason::NoTunnel,
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

/// Resets a connection: the application learns that nothing came of it.
fn reset(app: TcpStream) {
    // Without it the connection ends by FIN, which says that there was something.
    let _ = set_socket_linger(&app, Some(Duration::ZERO));
    drop(app);
}
