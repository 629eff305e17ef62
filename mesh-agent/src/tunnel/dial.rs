//! A new connection to a peer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::session::{Client, Session};
use super::socket;
use super::tls::{self, HandshakeError};

/// How long a peer may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a peer may take for its part of a handshake. Longer than it gives others, because it
/// may be starting again: who waits is served once it is back.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// Whom to connect to, and as whom.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where its agent listens.
    pub address: SocketAddr,
    /// The name that goes into SNI and that the verifier is given.
    pub name: ServerName<'static>,
    /// The caller's certificate and the verifier. ALPN is `mesh/1`, and
    /// `enable_secret_extraction` is set: records are sealed here.
    pub config: Arc<ClientConfig>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody listens.
    #[error("connection refused: no agent listens on {0}")]
    Refused(SocketAddr),
    /// Nobody answers.
    #[error("no answer from {0}: the host is down, or a firewall drops port {port}", port = .0.port())]
    Timeout(SocketAddr),
    /// There is no way to it.
    #[error("{0} is unreachable: {1}")]
    Unreachable(SocketAddr, io::Error),
    /// This host has no socket for it.
    #[error("cannot connect to {0}: {1}")]
    Local(SocketAddr, io::Error),
    /// There is no session.
    #[error("{0}: {1}")]
    Handshake(SocketAddr, HandshakeError),
}

impl DialError {
    /// As it is in metrics and records.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Timeout(_) | Self::Handshake(_, HandshakeError::Timeout) => "timeout",
            Self::Unreachable(..) => "unreachable",
            Self::Local(..) => "local",
            Self::Handshake(..) => "tls",
        }
    }

    /// Whether another identity would have failed as well.
    pub(super) fn is_of_host(&self) -> bool {
        !matches!(self, Self::Handshake(..))
    }

    fn connect(address: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused(address),
            io::ErrorKind::TimedOut => Self::Timeout(address),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Self::Unreachable(address, error)
            }
            _ => Self::Local(address, error),
        }
    }
}

impl Peer {
    /// Connects.
    ///
    /// # Errors
    ///
    /// See [`DialError`].
    pub async fn dial(&self) -> Result<Session<Client>, DialError> {
        let Self {
            address,
            name,
            config,
        } = self;
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(*address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(DialError::connect(*address, error)),
            Err(_elapsed) => return Err(DialError::Timeout(*address)),
        };
        let failed = |error| DialError::Handshake(*address, error);
        socket::prepare_tunnel(&stream).map_err(|error| failed(error.into()))?;
        let handshake = tls::connect(&stream, config.clone(), name.clone());
        match timeout(HANDSHAKE_PATIENCE, handshake).await {
            Ok(Ok(handshaken)) => Ok(Session::begin(stream, handshaken)),
            Ok(Err(error)) => Err(failed(error)),
            Err(_elapsed) => Err(failed(HandshakeError::Timeout)),
        }
    }
}
