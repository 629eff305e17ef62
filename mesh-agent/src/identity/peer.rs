//! Who the other side of a connection has proven to be.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, UnixTime};

use super::certificate::{Fingerprint, Serial};
use super::name::Identity;
use super::refusal::Refusal;
use super::trust::Trust;
use super::verify::{Role, verify};

/// A peer whose certificate was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub identity: Identity,
    /// The node its certificate was issued for; `None` if the issuer names none.
    pub node: Option<Arc<str>>,
    /// The certificate's serial number.
    pub serial: Serial,
    /// SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// Until when the certificate, and every authority above it, is valid.
    pub not_after: UnixTime,
}

impl Peer {
    /// Whether what was proven when the connection was made still holds under other trust or at
    /// a later time. `chain` is what the connection has as its `peer_certificates()`.
    ///
    /// # Errors
    ///
    /// Why it no longer does, such as [`Refusal::Revoked`]: the connection is to be cut.
    pub fn still_holds(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        trust: &Trust,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let again = verify(chain, role, trust, now)?;
        if again.identity == self.identity {
            return Ok(());
        }
        Err(Refusal::WrongIdentity {
            expected: self.identity.clone(),
            presented: again.identity,
        })
    }
}

/// The server that is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Who it must be.
    pub identity: Identity,
    /// The node it must be on.
    pub node: Arc<str>,
}

impl Expected {
    /// Compares with who it is.
    ///
    /// # Errors
    ///
    /// [`Refusal::WrongIdentity`], or [`Refusal::WrongNode`] if its certificate names another node.
    pub fn admit(&self, peer: Peer) -> Result<Peer, Refusal> {
        if peer.identity != self.identity {
            return Err(Refusal::WrongIdentity {
                expected: self.identity.clone(),
                presented: peer.identity,
            });
        }
        match &peer.node {
            Some(node) if *node != self.node => Err(Refusal::WrongNode {
                expected: Arc::clone(&self.node),
                presented: Arc::clone(node),
            }),
            _ => Ok(peer),
        }
    }
}
