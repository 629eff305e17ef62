//! Judges a chain of certificates.
//!
//! Sources: RFC 5280, section 6; SPIFFE X509-SVID
//! (github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md), section 5.

use std::fmt;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::certificate::{Facts, shown};
use super::name::{Identity, InvalidIdentity};
use super::peer::Peer;
use super::refusal::Refusal;
use super::tls::ALGORITHMS;
use super::trust::Trust;

/// The side of a connection that a chain is presented by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The one that dials.
    Client,
    /// The one that is dialled.
    Server,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// Finds out who presents `chain`, leaf first, to a node that trusts `trust`.
///
/// The same in a handshake and for a connection that is alive. What the certificate claims is
/// only looked at once it is known that a trusted authority says so.
///
/// # Errors
///
/// Why it is not believed.
pub fn verify(
    chain: &[CertificateDer<'_>],
    role: Role,
    trust: &Trust,
    now: UnixTime,
) -> Result<Peer, Refusal> {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(Refusal::NoCertificate);
    };
    if intermediates.len() > MOST_INTERMEDIATES {
        let problem = format!("more than {MOST_INTERMEDIATES} intermediates");
        return Err(Refusal::Chain(problem));
    }
    let facts = read(leaf)?;
    let authorities: Vec<Facts> = intermediates.iter().map(read).collect::<Result<_, _>>()?;
    let all = || authorities.iter().chain([&facts]);
    if let Some(weakness) = all().find_map(|facts| facts.weak_key.as_ref()) {
        return Err(Refusal::WeakKey(weakness.clone()));
    }
    let not_after = trusted_until(leaf, intermediates, role, trust, now)
        .map_err(|error| refusal(&error, all(), role, now))?
        .map_err(|serial| Refusal::Revoked {
            serial: Some(serial),
        })?;
    // webpki lets a leaf pass that says nothing about its usage.
    let [client, server] = facts.usages;
    if !(match role {
        Role::Client => client,
        Role::Server => server,
    }) {
        return Err(Refusal::WrongUsage { role });
    }
    let identity = identity(&facts, &trust.domain)?;
    Ok(Peer {
        node: node(&facts, &identity)?,
        identity,
        serial: facts.serial,
        fingerprint: facts.fingerprint,
        not_after,
    })
}

fn read(der: &CertificateDer<'_>) -> Result<Facts, Refusal> {
    Facts::read(der).map_err(|error| Refusal::Malformed(error.to_string()))
}

/// Until when there is a path to a root; or what was revoked on it.
fn trusted_until(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    role: Role,
    trust: &Trust,
    now: UnixTime,
) -> Result<Result<UnixTime, super::Serial>, webpki::Error> {
    let leaf = EndEntityCert::try_from(leaf)?;
    let usage = match role {
        Role::Client => KeyUsage::client_auth(),
        Role::Server => KeyUsage::server_auth(),
    };
    // webpki takes roots for valid whatever their dates say.
    let dates = |path: &VerifiedPath<'_>| in_time(path, trust, now);
    let path = leaf.verify_for_usage(
        ALGORITHMS.all,
        trust.anchors(),
        intermediates,
        now,
        usage,
        None,
        Some(&dates),
    )?;
    Ok(match trust.revoked(&path) {
        Some(serial) => Err(serial),
        None => Ok(end(&path, trust)),
    })
}

fn in_time(path: &VerifiedPath<'_>, trust: &Trust, now: UnixTime) -> Result<(), webpki::Error> {
    match trust.root(path.anchor()) {
        Some(root) if root.is_valid(now) => Ok(()),
        Some(root) if now < root.facts.not_before => Err(webpki::Error::CertNotValidYet {
            time: now,
            not_before: root.facts.not_before,
        }),
        Some(root) => Err(webpki::Error::CertExpired {
            time: now,
            not_after: root.facts.not_after,
        }),
        None => Err(webpki::Error::UnknownIssuer),
    }
}

/// The earliest end of what the path consists of.
fn end(path: &VerifiedPath<'_>, trust: &Trust) -> UnixTime {
    let root = trust.root(path.anchor()).map(|root| root.facts.not_after);
    let ends = path
        .intermediate_certificates()
        .map(|authority| authority.der())
        .chain([path.end_entity().der()])
        .filter_map(|der| Facts::read(&der).ok())
        .map(|facts| facts.not_after);
    let earliest = ends.chain(root).min();
    earliest.unwrap_or(UnixTime::since_unix_epoch(std::time::Duration::ZERO))
}

fn refusal<'a>(
    error: &webpki::Error,
    mut chain: impl Iterator<Item = &'a Facts>,
    role: Role,
    now: UnixTime,
) -> Refusal {
    use webpki::Error;
    match error {
        Error::CertExpired { not_after, .. } => Refusal::Expired {
            not_after: *not_after,
            now,
        },
        Error::CertNotValidYet { not_before, .. } => Refusal::NotYetValid {
            not_before: *not_before,
            now,
        },
        Error::UnknownIssuer => Refusal::UnknownIssuer {
            issuer: chain.next().map(|facts| facts.issuer.clone()),
        },
        Error::InvalidSignatureForPublicKey => Refusal::BadSignature,
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | Error::SignatureAlgorithmMismatch => Refusal::WeakAlgorithm,
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => {
            Refusal::WrongUsage { role }
        }
        Error::NameConstraintViolation => Refusal::NameConstraint,
        Error::CaUsedAsEndEntity => Refusal::Authority,
        Error::BadDer | Error::BadDerTime | Error::MalformedExtensions | Error::TrailingData(_) => {
            Refusal::Malformed(error.to_string())
        }
        other => Refusal::Chain(other.to_string()),
    }
}

fn identity(facts: &Facts, domain: &Arc<str>) -> Result<Identity, Refusal> {
    let uri = match &facts.uris[..] {
        [] => return Err(Refusal::NoUri),
        [uri] => uri,
        uris => return Err(Refusal::ExtraUri { count: uris.len() }),
    };
    Identity::parse(uri, domain).map_err(|error| match error {
        InvalidIdentity::TrustDomain => Refusal::WrongTrustDomain {
            uri: shown(uri),
            expected: Arc::clone(domain),
        },
        InvalidIdentity::Path => Refusal::UnknownIdentity { uri: shown(uri) },
    })
}

/// The one node that the certificate names, if it names any.
fn node(facts: &Facts, identity: &Identity) -> Result<Option<Arc<str>>, Refusal> {
    let own = match identity {
        Identity::Node(name) => Some(&**name),
        Identity::Service(_) => None,
    };
    let mut nodes = facts.nodes().chain(own);
    let first = nodes.next();
    if nodes.any(|node| Some(node) != first) {
        return Err(Refusal::ExtraNode);
    }
    Ok(first.map(Arc::from))
}

/// As many as webpki would follow.
const MOST_INTERMEDIATES: usize = 6;
