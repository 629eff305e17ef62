//! The handshake.

use std::io;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{Acceptor, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, HandshakeKind, ServerConfig};
use tokio::net::TcpStream;

use super::{Kernel, Tls};
use crate::tunnel::scratch;
use crate::tunnel::wire::ALPN;

/// What is read at a time, bytes.
const READ: usize = 4 * 1024;

/// Most that a peer may send without completing a message, bytes: longer than any certificate
/// chain that rustls takes.
const MOST: usize = 80 * 1024;

/// Why there was no session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The certificates, the names or the protocol.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The peer closed the connection.
    #[error("the peer closed the connection within the handshake")]
    Closed,
    /// The peer does not speak `mesh/1`.
    #[error("the peer does not speak mesh/1")]
    Protocol,
    /// The socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("no handshake in time")]
    Timeout,
    /// It was given up for the sake of others.
    #[error("too many handshakes at a time")]
    Crowded,
}

/// What is there after the handshake.
pub(in crate::tunnel) struct Handshaken {
    pub(in crate::tunnel) tls: Box<Tls>,
    /// Data that came with the handshake.
    pub(in crate::tunnel) plain: Vec<u8>,
    /// Records, or the beginning of one, that came with the handshake.
    pub(in crate::tunnel) cipher: Vec<u8>,
    /// What the peer has proven itself with, its own certificate first.
    pub(in crate::tunnel) certificates: Vec<CertificateDer<'static>>,
    /// The name that the client asked for.
    pub(in crate::tunnel) server_name: Option<Box<str>>,
    /// Whether an earlier session was resumed.
    pub(in crate::tunnel) resumed: bool,
}

/// Makes the handshake of the side that connects.
pub(in crate::tunnel) async fn connect(
    stream: &TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Handshaken, HandshakeError> {
    let mut side = Box::new(UnbufferedClientConnection::new(config, name)?);
    let mut buffers = Buffers::default();
    buffers.run(stream, &mut *side).await?;
    let (certificates, resumed) = proven(&side)?;
    let (secrets, kernel) = side.dangerous_into_kernel_connection()?;
    let suite = kernel.negotiated_cipher_suite();
    let tls = Tls::new(suite, secrets, Kernel::Client(kernel))?;
    Ok(buffers.complete(tls, certificates, None, resumed))
}

/// Makes the handshake of the side that is connected to.
pub(in crate::tunnel) async fn accept(
    stream: &TcpStream,
    config: Arc<ServerConfig>,
) -> Result<Handshaken, HandshakeError> {
    // Who sends nothing costs nothing but a socket.
    stream.readable().await?;
    let mut buffers = Buffers::default();
    let server_name = buffers.hello(stream).await?;
    let mut side = Box::new(UnbufferedServerConnection::new(config)?);
    buffers.run(stream, &mut *side).await?;
    let (certificates, resumed) = proven(&side)?;
    let (secrets, kernel) = side.dangerous_into_kernel_connection()?;
    let suite = kernel.negotiated_cipher_suite();
    let tls = Tls::new(suite, secrets, Kernel::Server(kernel))?;
    Ok(buffers.complete(tls, certificates, server_name, resumed))
}

fn proven(state: &CommonState) -> Result<(Vec<CertificateDer<'static>>, bool), HandshakeError> {
    if state.alpn_protocol() != Some(ALPN) {
        return Err(HandshakeError::Protocol);
    }
    let certificates = state.peer_certificates().unwrap_or_default();
    let resumed = state.handshake_kind() == Some(HandshakeKind::Resumed);
    Ok((certificates.to_vec(), resumed))
}

/// Either end.
trait Side {
    type Data;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
    /// Whether records wait to be encoded.
    fn has_output(&self) -> bool;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn has_output(&self) -> bool {
        self.wants_write()
    }
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn has_output(&self) -> bool {
        self.wants_write()
    }
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

/// What a handshake needs, and leaves.
#[derive(Default)]
struct Buffers {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    plain: Vec<u8>,
}

/// What the handshake waits for.
enum Next {
    Process,
    Send,
    Receive,
    Complete,
}

impl Buffers {
    async fn run<S: Side>(
        &mut self,
        stream: &TcpStream,
        side: &mut S,
    ) -> Result<(), HandshakeError> {
        loop {
            match self.step(side) {
                Ok(Next::Process) => {}
                Ok(Next::Send) => self.send(stream).await?,
                Ok(Next::Receive) => self.receive(stream).await?,
                Ok(Next::Complete) => return Ok(()),
                Err(error) => {
                    self.explain(stream, side);
                    return Err(error);
                }
            }
        }
    }

    /// Reads until the client has said which name it wants, and keeps what was read. The
    /// unbuffered connection does not tell it (rustls 0.23).
    async fn hello(&mut self, stream: &TcpStream) -> Result<Option<Box<str>>, HandshakeError> {
        let mut acceptor = Acceptor::default();
        loop {
            let known = self.incoming.len();
            self.receive(stream).await?;
            let mut new = &self.incoming[known..];
            while !new.is_empty() {
                acceptor.read_tls(&mut new)?;
                match acceptor.accept() {
                    Ok(None) => {}
                    Ok(Some(hello)) => {
                        return Ok(hello.client_hello().server_name().map(Box::from));
                    }
                    // The connection itself finds the same, and sends the alert.
                    Err(_found_again) => return Ok(None),
                }
            }
        }
    }

    fn step<S: Side>(&mut self, side: &mut S) -> Result<Next, HandshakeError> {
        let UnbufferedStatus { mut discard, state } = side.process(&mut self.incoming);
        let next = match state? {
            ConnectionState::EncodeTlsData(data) => {
                encode(data, &mut self.outgoing)?;
                Next::Process
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                Next::Send
            }
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    self.plain.extend_from_slice(record.payload);
                }
                Next::Process
            }
            ConnectionState::BlockedHandshake => Next::Receive,
            ConnectionState::WriteTraffic(_) => Next::Complete,
            // Early data is never accepted, and whoever closes here has nothing to say.
            _ => return Err(HandshakeError::Closed),
        };
        self.incoming.drain(..discard);
        Ok(next)
    }

    async fn send(&mut self, stream: &TcpStream) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.outgoing.len() {
            match stream.try_write(&self.outgoing[sent..]) {
                Ok(part) => sent += part,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stream.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        self.outgoing.clear();
        Ok(())
    }

    async fn receive(&mut self, stream: &TcpStream) -> Result<(), HandshakeError> {
        let filled = self.incoming.len();
        if filled > MOST {
            return Err(rustls::Error::PeerSentOversizedRecord.into());
        }
        loop {
            // Who waits has no room of his own.
            let read = scratch::with(|bytes| {
                let read = stream.try_read(&mut bytes[..READ])?;
                self.incoming.extend_from_slice(&bytes[..read]);
                Ok::<_, io::Error>(read)
            });
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stream.readable().await?;
                }
                Err(error) => return Err(error.into()),
                Ok(0) => return Err(HandshakeError::Closed),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Sends the alert that goes with an error, if the socket takes it at once.
    fn explain<S: Side>(&mut self, stream: &TcpStream, side: &mut S) {
        // What is left to encode comes before anything else; nothing else may come (rustls
        // would find the same error, and queue the same alert).
        while side.has_output()
            && let Ok(ConnectionState::EncodeTlsData(data)) = side.process(&mut []).state
            && encode(data, &mut self.outgoing).is_ok()
        {}
        // The peer learns it from the end of the connection otherwise.
        let _ = stream.try_write(&self.outgoing);
    }

    fn complete(
        self,
        tls: Tls,
        certificates: Vec<CertificateDer<'static>>,
        server_name: Option<Box<str>>,
        resumed: bool,
    ) -> Handshaken {
        let Self {
            mut incoming,
            mut plain,
            ..
        } = self;
        incoming.shrink_to_fit();
        plain.shrink_to_fit();
        Handshaken {
            tls: Box::new(tls),
            plain,
            cipher: incoming,
            certificates,
            server_name,
            resumed,
        }
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> Result<(), rustls::Error> {
    let start = out.len();
    let mut room = 0;
    loop {
        out.resize(start + room, 0);
        match data.encode(&mut out[start..]) {
            Ok(length) => {
                out.truncate(start + length);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
            Err(EncodeError::AlreadyEncoded) => {
                return Err(rustls::Error::General("a record was encoded twice".into()));
            }
        }
    }
}
