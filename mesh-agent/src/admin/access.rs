//! Who may ask over TCP: everybody on this host, or whoever proves to be allowed to.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HeaderMap};
use rustls::ServerConfig;
use rustls_pki_types::UnixTime;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::BindError;
use super::token::TokenFile;
use crate::config::Access;
use crate::identity::{Bundle, Role, guest_config, verify};

/// Lets in who may come in.
#[derive(Debug)]
pub(super) struct Gate {
    access: Access,
    token: Option<TokenFile>,
    made: Mutex<Option<Made>>,
}

/// A configuration, and what it was made from.
#[derive(Debug)]
struct Made {
    bundle: Arc<Bundle>,
    config: Option<Arc<ServerConfig>>,
}

/// A connection, and whether its client has shown a certificate that is enough.
pub(super) type Opened = (TlsStream<TcpStream>, bool);

impl Gate {
    /// # Errors
    ///
    /// There is no token where it should be.
    pub(super) fn new(access: Access) -> Result<Self, BindError> {
        let open = |path: &PathBuf| {
            TokenFile::open(path).map_err(|problem| BindError::Token {
                path: path.clone(),
                problem,
            })
        };
        Ok(Self {
            token: access.token_file.as_ref().map(open).transpose()?,
            access,
            made: Mutex::default(),
        })
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.access.tls.is_some()
    }

    /// Whether a request may be answered; `proven` is what [`Self::open`] has told.
    pub(super) fn admits(&self, proven: bool, headers: &HeaderMap) -> bool {
        let shows_token = || {
            let token = self.token.as_ref()?;
            let header = headers.get(AUTHORIZATION)?.as_bytes();
            let (scheme, offered) = header.split_at_checked(BEARER.len())?;
            Some(scheme.eq_ignore_ascii_case(BEARER) && token.is(offered.trim_ascii()))
        };
        !self.access.is_restricted() || proven || shows_token() == Some(true)
    }

    /// Makes the handshake.
    ///
    /// # Errors
    ///
    /// It fails or takes too long, or this node has no certificate.
    pub(super) async fn open(
        &self,
        bundle: Option<Arc<Bundle>>,
        stream: TcpStream,
        patience: Duration,
    ) -> io::Result<Opened> {
        let none = || io::Error::other("this node has no certificate of its own");
        let bundle = bundle.ok_or_else(none)?;
        let config = self.config(&bundle).ok_or_else(none)?;
        let handshake = TlsAcceptor::from(config).accept(stream);
        let stream = timeout(patience, handshake).await??;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = verify(chain, Role::Client, bundle.trust(), UnixTime::now());
        let proven = peer.is_ok_and(|peer| self.access.clients.contains(&peer.identity));
        Ok((stream, proven))
    }

    /// The configuration for the certificates that are in force.
    fn config(&self, bundle: &Arc<Bundle>) -> Option<Arc<ServerConfig>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made
            .as_ref()
            .filter(|made| Arc::ptr_eq(&made.bundle, bundle))
        {
            return made.config.clone();
        }
        let config = self
            .access
            .tls
            .as_ref()
            .and_then(|node| guest_config(bundle, node));
        if config.is_none() {
            tracing::error!("admin.tls: there is no certificate of this node; nobody can connect");
        }
        *made = Some(Made {
            bundle: Arc::clone(bundle),
            config: config.clone(),
        });
        config
    }
}

/// How a token is shown (RFC 6750).
const BEARER: &[u8] = b"Bearer ";
