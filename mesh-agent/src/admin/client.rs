//! The other end of the unix socket, for commands.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::SOCKET;

/// An answer of the agent.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: StatusCode,
    /// Body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent answers at {}: is it running? `systemctl status mesh-agent`, or see `journalctl -u mesh-agent`",
        .0.display()
    )]
    NotRunning(PathBuf),
    /// The socket is not for this user.
    #[error("{} is for root only: use sudo", .0.display())]
    Forbidden(PathBuf),
    /// The connection fails in another way.
    #[error("cannot ask the agent at {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It is not HTTP, or ends too early, or is too long.
    #[error("the agent at {} answers, but not as expected: {reason}", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// It takes too long.
    #[error(
        "the agent at {} does not answer within {} s: it may be stuck, see `journalctl -u mesh-agent`",
        .0.display(),
        PATIENCE.as_secs()
    )]
    Silent(PathBuf),
}

/// Sends a request to the agent whose socket is in `run_dir`, and waits for the answer.
pub fn request(run_dir: &Path, method: Method, target: &str) -> Result<Response, ClientError> {
    let path = run_dir.join(SOCKET);
    let io_error = |source| ClientError::Io {
        path: path.clone(),
        source,
    };
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(io_error)?;
    let outcome = runtime.block_on(async {
        let exchange = exchange(&path, method, target);
        timeout(PATIENCE, exchange).await
    });
    outcome.unwrap_or_else(|_| Err(ClientError::Silent(path)))
}

async fn exchange(path: &Path, method: Method, target: &str) -> Result<Response, ClientError> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| connect_error(path, source))?;
    let protocol = |error: &dyn std::fmt::Display| ClientError::Protocol {
        path: path.into(),
        reason: error.to_string(),
    };
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", "mesh-agent")
        .body(Empty::<Bytes>::new())
        .map_err(|error| protocol(&error))?;
    let (mut sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|error| protocol(&error))?;
    let answer = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, LARGEST).collect().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Response {
            status: head.status,
            body: body.to_bytes(),
        })
    };
    let (answer, _) = tokio::join!(answer, connection);
    answer.map_err(|error| protocol(&error))
}

fn connect_error(path: &Path, source: io::Error) -> ClientError {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning(path.into())
        }
        io::ErrorKind::PermissionDenied => ClientError::Forbidden(path.into()),
        _ => ClientError::Io {
            path: path.into(),
            source,
        },
    }
}

/// Longer than the server's own patience, so that its answer is seen.
const PATIENCE: Duration = Duration::from_secs(15);

/// Largest body that is read.
const LARGEST: usize = 16 << 20;
