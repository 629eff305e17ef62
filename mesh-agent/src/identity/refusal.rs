//! Why a chain of certificates is not believed, and what to do about it.

use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, OtherError};
use rustls_pki_types::UnixTime;

use super::certificate::Serial;
use super::name::Identity;
use super::verify::Role;
use crate::telemetry::time::{rough, utc};

/// Why a peer's certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no certificate.
    #[error("it presents no certificate")]
    NoCertificate,
    /// A certificate cannot be read.
    #[error("a certificate cannot be read: {0}")]
    Malformed(String),
    /// The chain leads to no root of ours.
    #[error("no root here has issued it{}", issuer.as_ref().map(|name| format!(" (issuer: {name})")).unwrap_or_default())]
    UnknownIssuer {
        /// The issuer's name, if it is known.
        issuer: Option<String>,
    },
    /// A signature does not fit the key of the issuer of that name.
    #[error("its signature is not by the key of the issuer it names")]
    BadSignature,
    /// A signature of a kind that is not accepted, such as SHA-1.
    #[error("it is signed by a weak or unknown algorithm")]
    WeakAlgorithm,
    /// A key that is too short or of a kind that is not accepted.
    #[error("it has {0}")]
    WeakKey(String),
    /// It is no longer valid.
    #[error("it expired {} ago, at {}; this host's clock says {}", between(*not_after, *now), time(*not_after), time(*now))]
    Expired {
        /// The last moment at which it was valid.
        not_after: UnixTime,
        /// The time here.
        now: UnixTime,
    },
    /// It is not valid yet.
    #[error("it becomes valid in {}, at {}; this host's clock says {}", between(*now, *not_before), time(*not_before), time(*now))]
    NotYetValid {
        /// The first moment at which it is valid.
        not_before: UnixTime,
        /// The time here.
        now: UnixTime,
    },
    /// Its key may not be used for this side of a connection.
    #[error("it may not be used by a {role}")]
    WrongUsage {
        /// The side.
        role: Role,
    },
    /// An authority above it may not issue such names.
    #[error("an authority above it may not issue its names")]
    NameConstraint,
    /// It belongs to an authority, not to a service.
    #[error("it is an authority's own certificate")]
    Authority,
    /// The chain breaks another rule of RFC 5280.
    #[error("its chain breaks the rules: {0}")]
    Chain(String),
    /// It, or an authority above it, was revoked.
    #[error("it was revoked{}", serial.as_ref().map(|serial| format!(" (serial {serial})")).unwrap_or_default())]
    Revoked {
        /// The serial number of what was revoked, if it is known.
        serial: Option<Serial>,
    },
    /// It has no URI, so it says nothing about an identity.
    #[error("it names no identity: it has no URI among its alternative names")]
    NoUri,
    /// It has more than one URI, so it is not clear which one it proves.
    #[error("it has {count} URIs among its alternative names")]
    ExtraUri {
        /// How many.
        count: usize,
    },
    /// Its URI is of another trust domain.
    #[error("`{uri}` is not in the trust domain {expected}")]
    WrongTrustDomain {
        /// The URI.
        uri: String,
        /// Our trust domain.
        expected: Arc<str>,
    },
    /// Its URI is in our trust domain and is nobody's.
    #[error("`{uri}` is neither a service's nor a node's")]
    UnknownIdentity {
        /// The URI.
        uri: String,
    },
    /// It names more than one node.
    #[error("it names several nodes")]
    ExtraNode,
    /// The server is not the one that was dialled.
    #[error("it proves {presented}, but {expected} was dialled")]
    WrongIdentity {
        /// Who was dialled.
        expected: Identity,
        /// Who it is.
        presented: Identity,
    },
    /// The certificate was issued for another node than the one that was dialled.
    #[error("it was issued for node {presented}, but node {expected} was dialled")]
    WrongNode {
        /// The node that was dialled.
        expected: Arc<str>,
        /// The node in the certificate.
        presented: Arc<str>,
    },
}

impl Refusal {
    /// A stable name, for metrics and records.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::Malformed(_) => "malformed",
            Self::UnknownIssuer { .. } => "unknown-issuer",
            Self::BadSignature => "bad-signature",
            Self::WeakAlgorithm => "weak-algorithm",
            Self::WeakKey(_) => "weak-key",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::WrongUsage { .. } => "wrong-usage",
            Self::NameConstraint => "name-constraint",
            Self::Authority => "authority",
            Self::Chain(_) => "bad-chain",
            Self::Revoked { .. } => "revoked",
            Self::NoUri => "no-uri",
            Self::ExtraUri { .. } => "extra-uri",
            Self::WrongTrustDomain { .. } => "wrong-trust-domain",
            Self::UnknownIdentity { .. } => "unknown-identity",
            Self::ExtraNode => "extra-node",
            Self::WrongIdentity { .. } => "wrong-identity",
            Self::WrongNode { .. } => "wrong-node",
        }
    }

    /// What to do.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NoCertificate => {
                "put a certificate and its key into the other node's tunnel.certificates"
            }
            Self::Malformed(_) => {
                "look at the file with `openssl x509 -noout -text -in FILE` and issue it again"
            }
            Self::UnknownIssuer { .. } => {
                "put the root that issued it into tunnel.certificates here, and its intermediates behind it in the \
                 other side's file"
            }
            Self::BadSignature => {
                "two authorities have the same name: put the root that really issued it into tunnel.certificates here"
            }
            Self::WeakAlgorithm => {
                "issue it again, and its authorities, with SHA-256 or better: ECDSA, Ed25519 or RSA"
            }
            Self::WeakKey(_) => {
                "issue it again with a key on P-256 or P-384, of Ed25519, or of RSA with 2048 bits"
            }
            Self::Expired { .. } => {
                "renew it (`mesh-agent ca renew`); if the times do not fit, set this host's clock"
            }
            Self::NotYetValid { .. } => {
                "one of the clocks is wrong: compare `timedatectl` on both hosts and the one that issues"
            }
            Self::WrongUsage { .. } => {
                "issue it with the extended key usages clientAuth and serverAuth"
            }
            Self::NameConstraint => {
                "use an authority without name constraints on URIs (they are refused whatever they permit)"
            }
            Self::Authority => {
                "give the service a certificate of its own, issued by that authority"
            }
            Self::Chain(_) => {
                "see `openssl verify -CAfile ROOT -untrusted CHAIN CHAIN`, and issue it again"
            }
            Self::Revoked { .. } => "if it should be trusted, issue a new one with a new key",
            Self::NoUri => {
                "issue it with the URI spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME; the CN is never looked at"
            }
            Self::ExtraUri { .. } => "issue one certificate for each identity, with one URI",
            Self::WrongTrustDomain { .. } => {
                "use the same [node] trust_domain and the same authority on every node"
            }
            Self::UnknownIdentity { .. } => "the path must be /ns/NAMESPACE/sa/NAME or /node/NAME",
            Self::ExtraNode => "issue it for one node: a single DNS name NODE.node.mesh",
            Self::WrongIdentity { .. } => {
                "the endpoint's address leads to somebody else: see the policy's endpoints"
            }
            Self::WrongNode { .. } => {
                "see the address of the node in the policy, and that each node has the bundle that was issued for it"
            }
        }
    }

    /// The refusal inside of an error of a handshake, if it is one of the peer's certificate.
    pub fn from_tls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            rustls::Error::InvalidCertificate(error) => Some(Self::from_certificate_error(error)),
            _ => None,
        }
    }

    fn from_certificate_error(error: &CertificateError) -> Self {
        match error {
            CertificateError::Other(OtherError(inner)) => match inner.downcast_ref::<Self>() {
                Some(refusal) => refusal.clone(),
                None => Self::Chain(inner.to_string()),
            },
            CertificateError::ExpiredContext { time, not_after } => Self::Expired {
                not_after: *not_after,
                now: *time,
            },
            CertificateError::NotValidYetContext { time, not_before } => Self::NotYetValid {
                not_before: *not_before,
                now: *time,
            },
            CertificateError::Revoked => Self::Revoked { serial: None },
            CertificateError::UnknownIssuer => Self::UnknownIssuer { issuer: None },
            CertificateError::BadSignature => Self::BadSignature,
            CertificateError::BadEncoding => Self::Malformed("bad encoding".into()),
            other => Self::Chain(other.to_string()),
        }
    }
}

/// Where TLS has an alert of its own, the other side is told that; everything else is
/// `certificate_unknown` there, with the details here.
impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(match refusal {
            Refusal::Expired { not_after, now } => CertificateError::ExpiredContext {
                time: now,
                not_after,
            },
            Refusal::NotYetValid { not_before, now } => CertificateError::NotValidYetContext {
                time: now,
                not_before,
            },
            Refusal::Revoked { .. } => CertificateError::Revoked,
            Refusal::UnknownIssuer { .. } => CertificateError::UnknownIssuer,
            refusal => CertificateError::Other(OtherError(Arc::new(refusal))),
        })
    }
}

/// Why the other side refuses our certificate, as far as its alert tells: a code of [`Refusal`],
/// or `refused` where only its own log knows. `None` if this is something else.
///
/// Source: RFC 8446, section 6.2.
pub fn refused_by_peer(error: &rustls::Error) -> Option<&'static str> {
    let rustls::Error::AlertReceived(alert) = error else {
        return None;
    };
    match alert {
        AlertDescription::CertificateExpired => Some("expired"),
        AlertDescription::CertificateRevoked => Some("revoked"),
        AlertDescription::UnknownCA => Some("unknown-issuer"),
        AlertDescription::CertificateRequired => Some("no-certificate"),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::DecryptError
        | AlertDescription::AccessDenied => Some("refused"),
        _ => None,
    }
}

fn time(time: UnixTime) -> String {
    utc(time.as_secs() as f64)
}

fn between(from: UnixTime, to: UnixTime) -> String {
    rough(Duration::from_secs(
        to.as_secs().saturating_sub(from.as_secs()),
    ))
}
