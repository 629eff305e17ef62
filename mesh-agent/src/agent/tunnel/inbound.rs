//! Flows from other nodes: who calls is proven, whether it may is the policy's to say.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mesh_common::Reason;
use nix::errno::Errno;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::shared::{Lasting, Refused, count};
use super::trust::{Proven, Unproven};
use super::view::Unfit;
use super::worker::Worker;
use crate::identity::{Identity, Refusal};
use crate::policy::model::ServiceName;
use crate::tunnel::wire::{Code, Open};
use crate::tunnel::{Accepted, HandshakeError, Handshaking, Server, Session};

/// How long a workload may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a session may be idle. The client gives it up earlier.
const IDLE: Duration = Duration::from_secs(120);

/// Serves a connection from another node until it ends.
pub(super) async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    from: SocketAddr,
    handshaking: Handshaking,
) {
    let counters = &worker.shared.counters;
    let accepted = match Session::accept(stream, worker.peers.server(), &handshaking).await {
        Ok(accepted) => accepted,
        Err(error) => {
            count(&counters.server_failures);
            worker.record(failed(&error, from));
            return;
        }
    };
    let _admitted = handshaking.complete();
    count(&counters.server_handshakes);
    let Accepted {
        session,
        server_name,
        ..
    } = accepted;
    let called = server_name.and_then(|name| worker.peers.asked_for(&name));
    let Some(Identity::Service(called)) = called else {
        return;
    };
    let chain = session.certificates().clone();
    match worker.peers.prove(chain, from) {
        Ok(proven) => {
            flows(&worker, session, Rc::new(proven), &called, from).await;
            count(&counters.ended);
        }
        Err(unproven) => {
            count(&counters.server_failures);
            worker.record(unknown(&unproven, &called, from));
        }
    }
}

/// One flow after the other.
async fn flows(
    worker: &Rc<Worker>,
    mut session: Session<Server>,
    proven: Rc<Proven>,
    called: &ServiceName,
    from: SocketAddr,
) {
    // Registered before any flow is judged: a change in between is not missed.
    let _registered = worker.peers.register(session.control(), Rc::clone(&proven));
    while let Ok(Some(open)) = session.next_open(IDLE).await {
        // Boxed, so that a session's task does not keep room for a connect.
        let outcome = match Box::pin(begin(worker, &proven, called, &open)).await {
            Ok(app) => carry(worker, session, app).await,
            Err(stop) => {
                let code = stop.code;
                // Of what its rules refuse the kernel side has made a record.
                if code != Code::Denied {
                    worker.record(stop.refused(&proven, called, &open, from));
                }
                session.refuse(code).await.ok().map(|()| session)
            }
        };
        match outcome {
            Some(next) => session = next,
            None => return,
        }
    }
}

async fn carry(
    worker: &Rc<Worker>,
    session: Session<Server>,
    app: TcpStream,
) -> Option<Session<Server>> {
    let _room = worker.room()?;
    let counters = &worker.shared.counters;
    let _flow = Lasting::inbound(counters);
    let (outcome, next) = session.relay(app).ok()?.await;
    counters.ended_by(&outcome.end);
    next
}

/// Why a flow is refused.
struct Stop {
    code: Code,
    reason: Reason,
    detail: String,
}

/// Connects to the workload on behalf of the caller. The kernel judges that as if the caller were here.
async fn begin(
    worker: &Rc<Worker>,
    proven: &Proven,
    called: &ServiceName,
    open: &Open,
) -> Result<TcpStream, Stop> {
    let view = worker.shared.view();
    let fits = view
        .caller(&proven.identity, &proven.node)
        .and_then(|source| {
            view.endpoint(called, open.port, open.endpoint)
                .map(|()| source)
        });
    let source = fits.map_err(Stop::unfit)?;
    let connected = connect(worker, source, view.epoch, open.endpoint).await;
    connected.map_err(|error| Stop::connect(&error))
}

async fn connect(
    worker: &Worker,
    source: u32,
    epoch: u64,
    endpoint: SocketAddr,
) -> io::Result<TcpStream> {
    let socket = match endpoint {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    worker
        .maps
        .borrow_mut()
        .call_for(&socket, source, epoch)
        .map_err(io::Error::other)?;
    let stream = timeout(CONNECT, socket.connect(endpoint)).await??;
    if !worker.maps.borrow().was_allowed(&stream) {
        return Err(io::Error::other(
            "the kernel did not judge the call: the agent must run in a cgroup below paths.cgroup_root",
        ));
    }
    Ok(stream)
}

impl Stop {
    fn unfit(unfit: Unfit) -> Self {
        let code = match unfit {
            Unfit::UnknownEndpoint => Code::UnknownEndpoint,
            Unfit::UnknownNode | Unfit::Misplaced | Unfit::UnknownCaller => Code::Identity,
        };
        Self {
            code,
            reason: match code {
                Code::Identity => Reason::Identity,
                _ => Reason::NoEndpoint,
            },
            detail: unfit.to_string(),
        }
    }

    fn connect(error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::ConnectionRefused => Code::ConnectRefused,
            io::ErrorKind::TimedOut => Code::ConnectTimeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Code::Unreachable,
            _ if error.raw_os_error() == Some(Errno::EPERM as i32) => Code::Denied,
            _ => Code::Internal,
        };
        Self {
            code,
            reason: match code {
                Code::Denied => Reason::Policy,
                _ => Reason::NoEndpoint,
            },
            detail: format!("the endpoint: {error}"),
        }
    }

    fn refused(
        self,
        proven: &Proven,
        called: &ServiceName,
        open: &Open,
        from: SocketAddr,
    ) -> Refused {
        Refused {
            reason: self.reason,
            source: proven.identity.to_string(),
            destination: called.to_string(),
            dialled: Some(open.endpoint),
            peer: Some(from),
            detail: self.detail,
        }
    }
}

/// A handshake that came to nothing.
fn failed(error: &HandshakeError, from: SocketAddr) -> Refused {
    let refusal = match error {
        HandshakeError::Tls(error) => Refusal::from_tls(error),
        _ => None,
    };
    Refused {
        reason: reason(refusal.as_ref()),
        source: "unknown".into(),
        destination: "-".into(),
        dialled: None,
        peer: Some(from),
        detail: match refusal {
            Some(refusal) => format!("{refusal}: {}", refusal.help()),
            None => error.to_string(),
        },
    }
}

/// What a record says of a certificate that is refused.
pub(super) fn reason(refusal: Option<&Refusal>) -> Reason {
    match refusal {
        Some(Refusal::Revoked { .. }) => Reason::CertificateRevoked,
        Some(_) => Reason::Identity,
        None => Reason::NoTunnel,
    }
}

fn unknown(unproven: &Unproven, called: &ServiceName, from: SocketAddr) -> Refused {
    let refusal = match unproven {
        Unproven::Refused(refusal) => Some(refusal),
        Unproven::Node(..) => None,
    };
    Refused {
        reason: refusal.map_or(Reason::Identity, |refusal| reason(Some(refusal))),
        source: "unknown".into(),
        destination: called.to_string(),
        dialled: None,
        peer: Some(from),
        detail: unproven.to_string(),
    }
}
