//! What ends a connection before its time.

use std::io;

use super::wire::WireError;

/// Why a connection can carry no further flow, and not the rest of the one it carries.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Broken {
    /// The peer closed it, or its host did.
    #[error("the peer closed the connection")]
    Closed,
    /// The socket.
    #[error("the connection failed: {0}")]
    Io(io::ErrorKind),
    /// Records that are not the peer's, or an alert.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The peer does not keep to the protocol.
    #[error("the peer breaks the protocol: {0}")]
    Wire(#[from] WireError),
    /// [`super::Control::cut`].
    #[error("cut: what allowed it is no longer so")]
    Cut,
    /// The peer kept sending after RESET.
    #[error("the peer did not end a flow that was reset")]
    Unended,
    /// No answer in time.
    #[error("no answer from the peer in time")]
    Timeout,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}
