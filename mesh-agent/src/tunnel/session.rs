//! A connection that carries one flow after the other, seen from either side.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::admission::Handshaking;
use super::broken::Broken;
use super::chains::Chain;
use super::control::Control;
use super::link::Link;
use super::relay::Relay;
use super::socket;
use super::tls::{self, HandshakeError};
use super::wire::{Code, Frame, Open, WireError};

/// How long a client may take for its part of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(4);

/// How long the server may take to answer OPEN, its connecting included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The side that connects and asks for flows.
#[derive(Debug)]
pub enum Client {}

/// The side that is connected to.
#[derive(Debug)]
pub enum Server {}

/// Either side.
pub trait Role {
    #[doc(hidden)]
    const IS_SERVER: bool;
}

impl Role for Client {
    const IS_SERVER: bool = false;
}

impl Role for Server {
    const IS_SERVER: bool = true;
}

/// A connection between two flows. Dropping it closes the socket.
pub struct Session<R> {
    link: Box<Link>,
    role: PhantomData<R>,
}

/// A session that a client has begun, and what it has proven.
pub struct Accepted {
    /// The session.
    pub session: Session<Server>,
    /// The name that the client asked for (SNI).
    pub server_name: Option<Box<str>>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

/// Why an OPEN was not answered with OPENED.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    /// The server refused it; the session goes on.
    #[error("the peer refused: {}", .0.name())]
    Refused(Code),
    /// The connection is of no more use.
    #[error("{0}")]
    Broken(#[from] Broken),
}

impl<R: Role> Session<R> {
    pub(super) fn new(link: Box<Link>) -> Self {
        Self {
            link,
            role: PhantomData,
        }
    }

    /// What the peer has proven itself with.
    pub fn certificates(&self) -> &Chain {
        &self.link.peer
    }

    /// A handle on it.
    pub fn control(&self) -> Control {
        self.link.control.clone()
    }

    /// For tests of what lies below.
    #[cfg(test)]
    pub(super) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Says goodbye, where dropping it would not.
    pub fn close(self) {
        self.link.close();
    }
}

impl Session<Client> {
    pub(super) fn begin(stream: TcpStream, handshaken: tls::Handshaken) -> Self {
        Self::new(Box::new(Link::new(stream, handshaken)))
    }

    /// Whether it can take another flow, as far as can be seen without asking the server.
    pub fn is_usable(&mut self) -> bool {
        self.link.is_usable()
    }

    /// Asks for a flow.
    ///
    /// # Errors
    ///
    /// The server refuses, or the connection fails; then no byte of the application was sent.
    pub async fn open(&mut self, open: Open) -> Result<(), NotOpened> {
        self.link.control.begin_flow();
        self.link.queue(&Frame::Open(Box::new(open)))?;
        let answer = poll_fn(|context| self.poll_answer(context));
        match timeout(OPEN_TIMEOUT, answer).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(Broken::Timeout.into()),
        }
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<(), NotOpened>> {
        self.link.control.register(context);
        ready!(self.link.poll_flush(context))?;
        loop {
            return Poll::Ready(match ready!(self.link.poll_frame(context))? {
                Frame::Opened => Ok(()),
                Frame::Refused(code) => Err(NotOpened::Refused(code)),
                Frame::GoAway => {
                    self.link.is_last = true;
                    continue;
                }
                frame => Err(Broken::from(WireError::Unexpected(frame.name())).into()),
            });
        }
    }

    /// Carries the flow that [`Session::open`] has opened.
    pub fn relay(self, app: TcpStream) -> Relay<Client> {
        Relay::new(self.link, app)
    }
}

impl Session<Server> {
    /// Makes the server's side of a connection; `admitted` may end it early for others' sake.
    ///
    /// # Errors
    ///
    /// See [`HandshakeError`].
    pub async fn accept(
        stream: TcpStream,
        config: Arc<ServerConfig>,
        admitted: &Handshaking,
    ) -> Result<Accepted, HandshakeError> {
        socket::prepare_tunnel(&stream)?;
        // Boxed, so that a task does not keep room for a handshake as long as it lives.
        let handshake = Box::pin(timeout(HANDSHAKE_TIMEOUT, tls::accept(&stream, config)));
        let mut handshaken = tokio::select! {
            biased;
            made = handshake => made.map_err(|_elapsed| HandshakeError::Timeout)??,
            () = admitted.evicted() => return Err(HandshakeError::Crowded),
        };
        Ok(Accepted {
            server_name: handshaken.server_name.take(),
            resumed: handshaken.resumed,
            session: Self::new(Box::new(Link::new(stream, handshaken))),
        })
    }

    /// The next flow that the client asks for; `None` once there will be none, because the
    /// client has closed or has been `idle` for so long. What has to be refused whatever is
    /// asked for (this side drains) is refused here.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub async fn next_open(&mut self, idle: Duration) -> Result<Option<Open>, Broken> {
        let open = poll_fn(|context| self.poll_open(context));
        match timeout(idle, open).await {
            Ok(Ok(open)) => Ok(Some(open)),
            Ok(Err(Broken::Closed)) | Err(_) => Ok(None),
            Ok(Err(broken)) => Err(broken),
        }
    }

    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<Result<Open, Broken>> {
        let link = &mut self.link;
        link.control.register(context);
        if link.control.is_draining() && !link.has_said_goaway {
            link.has_said_goaway = true;
            link.queue(&Frame::GoAway)?;
        }
        loop {
            ready!(link.poll_flush(context))?;
            let open = match ready!(link.poll_frame(context))? {
                Frame::Open(open) => open,
                frame => return Poll::Ready(Err(WireError::Unexpected(frame.name()).into())),
            };
            if link.control.is_draining() {
                link.queue(&Frame::Refused(Code::Draining))?;
            } else if open.unknown.is_some() {
                link.queue(&Frame::Refused(Code::Unsupported))?;
            } else {
                link.control.begin_flow();
                return Poll::Ready(Ok(*open));
            }
        }
    }

    /// Refuses the flow that [`Session::next_open`] gave.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub async fn refuse(&mut self, code: Code) -> Result<(), Broken> {
        self.link.queue(&Frame::Refused(code))?;
        let flush = poll_fn(|context| self.link.poll_flush(context));
        let flushed = timeout(OPEN_TIMEOUT, flush).await;
        flushed.unwrap_or(Err(Broken::Timeout))
    }

    /// Says OPENED, and carries the flow that [`Session::next_open`] gave.
    ///
    /// # Errors
    ///
    /// The connection cannot be sealed any more.
    pub fn relay(mut self, app: TcpStream) -> Result<Relay<Server>, Broken> {
        self.link.queue(&Frame::Opened)?;
        Ok(Relay::new(self.link, app))
    }
}
