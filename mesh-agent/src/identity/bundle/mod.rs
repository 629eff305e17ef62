//! What this node can prove and whom it trusts, from a directory of files.
//!
//! The files are recognised by what they hold ([`contents`]), put together ([`parts`]), and every
//! own certificate is judged as the other nodes will judge it before it is used.

mod contents;
mod files;
mod parts;
mod problem;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::path::Path;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::UnixTime;

use self::files::Files;
use self::parts::{Pair, Parts};
pub use self::problem::Problem;
use super::certificate::{Fingerprint, Serial};
use super::name::Identity;
use super::peer::Peer;
use super::refusal::Refusal;
use super::trust::Trust;
use super::verify::{Role, verify};

/// A certificate of this node that is valid, with its key.
#[derive(Clone, Debug)]
pub struct Own {
    /// Whom it proves.
    pub identity: Identity,
    /// The node it was issued for, if it names one.
    pub node: Option<Arc<str>>,
    /// The chain and the key.
    pub key: Arc<CertifiedKey>,
    /// The serial number.
    pub serial: Serial,
    /// SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// When it began to be valid.
    pub not_before: UnixTime,
    /// The last moment at which it is valid.
    pub not_after: UnixTime,
}

/// What an [`Expiry`] is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExpiryKind {
    /// A certificate of this node, in use or not.
    Own(Identity),
    /// A root.
    Root(Arc<str>),
    /// A revocation list: when its next edition is due.
    Crl(Arc<str>),
}

/// When something ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expiry {
    /// What.
    pub kind: ExpiryKind,
    /// When.
    pub at: UnixTime,
}

/// What this node can prove and whom it trusts.
#[derive(Clone, Debug)]
pub struct Bundle {
    own: BTreeMap<Identity, Own>,
    trust: Arc<Trust>,
    expiries: Vec<Expiry>,
    /// What it is made of, without what is not in use.
    parts: Parts,
}

/// What came of a directory.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What can be used.
    pub bundle: Bundle,
    /// Everything that is wrong, in the order of files.
    pub problems: Vec<Problem>,
    /// Tells whether the files are the same as another time.
    pub(super) digest: u64,
    /// When something begins or ceases to be valid next.
    pub(super) next_event: Option<UnixTime>,
}

impl Bundle {
    /// Reads a directory. One that does not exist makes a bundle without identities and roots,
    /// with which nothing can be dialled and nobody gets in.
    pub fn load(directory: &Path, trust_domain: &Arc<str>, now: UnixTime) -> Loaded {
        let files = Files::read(directory);
        let digest = digest(&files);
        Self::from_files(files, digest, trust_domain, now, None)
    }

    /// As [`Self::load`], but what came from a file that is broken now stays as it is in `self`.
    /// `None` if what was read is, by its digest, known to mean the same.
    pub(super) fn load_again(
        &self,
        directory: &Path,
        now: UnixTime,
        known: impl FnOnce(u64) -> bool,
    ) -> Option<Loaded> {
        let files = Files::read(directory);
        let digest = digest(&files);
        let load = || Self::from_files(files, digest, &self.trust.domain, now, Some(self));
        (!known(digest)).then(load)
    }

    fn from_files(
        files: Files,
        digest: u64,
        domain: &Arc<str>,
        now: UnixTime,
        old: Option<&Self>,
    ) -> Loaded {
        let mut parts = Parts::new(files, domain);
        let unreadable = parts.problems.clone();
        if let Some(old) = old {
            parts.keep(&old.parts, &unreadable);
        }
        let (mut bundle, mut problems) = Self::select(&parts, domain, now);
        let refused = problems.iter().any(|problem| !problem.used);
        if let (Some(old), true) = (old, refused) {
            // What is wrong with what was kept is known already.
            parts.keep(&old.parts, &problems);
            bundle = Self::select(&parts, domain, now).0;
        }
        problems.sort();
        problems.dedup();
        Loaded {
            bundle,
            problems,
            digest,
            next_event: parts.next_event(now),
        }
    }

    /// A bundle of nothing.
    pub fn empty(trust_domain: &Arc<str>) -> Self {
        let now = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
        Self::select(&Parts::default(), trust_domain, now).0
    }

    /// Chooses for each identity the valid certificate that lasts longest.
    fn select(parts: &Parts, domain: &Arc<str>, now: UnixTime) -> (Self, Vec<Problem>) {
        let (roots, crls) = (parts.roots.clone(), parts.crls.clone());
        let trust = Arc::new(Trust::new(Arc::clone(domain), roots, crls));
        let mut problems = parts.problems.clone();
        problems.extend(problems_of_trust(parts, now));
        let mut own: BTreeMap<Identity, (Own, Arc<Pair>)> = BTreeMap::new();
        for pair in &parts.pairs {
            match judge(pair, &trust, now) {
                Ok((peer, warning)) => {
                    problems.extend(warning);
                    let candidate = pair.own(peer);
                    let known = own.get(&candidate.identity);
                    if known.is_none_or(|(known, _)| candidate.outlasts(known)) {
                        let pair = Arc::clone(pair);
                        own.insert(candidate.identity.clone(), (candidate, pair));
                    }
                }
                Err(refusal) => problems.push(pair.refused(&refusal)),
            }
        }
        let used = own.values().map(|(_, pair)| Arc::clone(pair)).collect();
        let bundle = Self {
            trust,
            expiries: expiries(parts, domain),
            parts: Parts {
                pairs: used,
                problems: Vec::new(),
                ..parts.clone()
            },
            own: own
                .into_iter()
                .map(|(name, (own, _))| (name, own))
                .collect(),
        };
        (bundle, problems)
    }

    /// The certificate that proves `identity` from here.
    pub fn own(&self, identity: &Identity) -> Option<&Own> {
        self.own.get(identity)
    }

    /// Everything this node can prove, by name.
    pub fn identities(&self) -> impl Iterator<Item = &Own> {
        self.own.values()
    }

    /// Whom this node trusts.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// When certificates, roots and revocation lists end, also those that have ended.
    pub fn expiries(&self) -> &[Expiry] {
        &self.expiries
    }
}

impl Own {
    fn outlasts(&self, other: &Self) -> bool {
        (self.not_after, self.fingerprint) > (other.not_after, other.fingerprint)
    }
}

impl Pair {
    fn own(&self, peer: Peer) -> Own {
        Own {
            identity: peer.identity,
            node: peer.node,
            key: Arc::clone(&self.key),
            serial: peer.serial,
            fingerprint: peer.fingerprint,
            not_before: self.facts.not_before,
            not_after: peer.not_after,
        }
    }

    fn refused(&self, refusal: &Refusal) -> Problem {
        let message = format!("other nodes would refuse its certificate: {refusal}");
        let [file, _] = &self.files;
        Problem::error(file, refusal.code(), message, refusal.help())
    }
}

/// Judges an own certificate as others will. One that fits only one side is used.
fn judge(pair: &Pair, trust: &Trust, now: UnixTime) -> Result<(Peer, Option<Problem>), Refusal> {
    let chain = &pair.key.cert;
    let client = verify(chain, Role::Client, trust, now);
    let server = verify(chain, Role::Server, trust, now);
    let (peer, refusal) = match (client, server) {
        (Ok(peer), Ok(_)) => return Ok((peer, None)),
        (Ok(peer), Err(refusal)) | (Err(refusal), Ok(peer)) => (peer, refusal),
        (Err(refusal), Err(_)) => return Err(refusal),
    };
    let [file, _] = &pair.files;
    let problem = Problem::warning(file, refusal.code(), refusal.to_string(), refusal.help());
    Ok((peer, Some(problem)))
}

fn problems_of_trust(parts: &Parts, now: UnixTime) -> Vec<Problem> {
    let expired = parts
        .roots
        .iter()
        .filter(|root| !root.is_valid(now))
        .map(|root| {
            let facts = &root.facts;
            let refusal = match now < facts.not_before {
                true => Refusal::NotYetValid {
                    not_before: facts.not_before,
                    now,
                },
                false => Refusal::Expired {
                    not_after: facts.not_after,
                    now,
                },
            };
            let message = format!("the root {} is not valid: {refusal}", facts.subject);
            Problem::warning(
                &root.file,
                refusal.code(),
                message,
                "make a new root, and remove this one",
            )
        });
    let stale = |crl: &&Arc<super::revocation::Crl>| crl.next_update.is_some_and(|at| at < now);
    let stale = parts.crls.iter().filter(stale).map(|crl| {
        let message = format!("the revocation list of {} is out of date", crl.issuer);
        let help = "what it revokes stays revoked; fetch the next edition (`mesh-agent ca crl`)";
        Problem::warning(&crl.file, "stale-crl", message, help)
    });
    let orphans = parts
        .crls
        .iter()
        .filter(|crl| !crl.has_signer())
        .map(|crl| {
            let message = format!(
                "the revocation list is signed by no authority here (issuer: {})",
                crl.issuer
            );
            let help = "put the authority's certificate beside it, or remove the list";
            Problem::warning(&crl.file, "crl-unknown-issuer", message, help)
        });
    expired.chain(stale).chain(orphans).collect()
}

fn expiries(parts: &Parts, domain: &str) -> Vec<Expiry> {
    let own = parts.pairs.iter().filter_map(|pair| {
        let uri = pair.facts.uris.first()?;
        Some(Expiry {
            kind: ExpiryKind::Own(Identity::parse(uri, domain).ok()?),
            at: pair.facts.not_after,
        })
    });
    let roots = parts.roots.iter().map(|root| Expiry {
        kind: ExpiryKind::Root(root.facts.subject.as_str().into()),
        at: root.facts.not_after,
    });
    let crls = parts.crls.iter().filter_map(|crl| {
        Some(Expiry {
            kind: ExpiryKind::Crl(crl.issuer.as_str().into()),
            at: crl.next_update?,
        })
    });
    let mut all: Vec<Expiry> = own.chain(roots).chain(crls).collect();
    all.sort();
    all
}

fn digest(files: &Files) -> u64 {
    foldhash::fast::FixedState::default().hash_one(files)
}
