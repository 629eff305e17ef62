//! Puts together what belongs together: keys and their certificates, authorities and roots.

use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, anchor_from_trusted_cert};

use super::contents::{Authority, Certificate, Chain, Contents, Key};
use super::files::Files;
use super::problem::Problem;
use crate::identity::certificate::{Facts, Fingerprint};
use crate::identity::revocation::{Crl, is_signed_by};
use crate::identity::trust::Root;

/// A certificate with its key.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) facts: Facts,
    /// The certificate's and the key's.
    pub(super) files: [Arc<str>; 2],
}

/// What the files amount to, before anything is believed.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    pub(super) pairs: Vec<Arc<Pair>>,
    pub(super) roots: Vec<Arc<Root>>,
    pub(super) crls: Vec<Arc<Crl>>,
    pub(super) problems: Vec<Problem>,
}

impl Parts {
    pub(super) fn new(files: Files, trust_domain: &str) -> Self {
        let mut contents = Contents {
            problems: files.problems,
            ..Contents::default()
        };
        files.files.iter().for_each(|file| contents.take(file));
        let (roots, intermediates) = roots(&mut contents, trust_domain);
        let authorities = || {
            let chained = contents.chains.iter().flat_map(|chain| &chain.rest);
            let chained = chained.map(|certificate| &certificate.der);
            let roots = roots.iter().map(|root| &root.der);
            roots
                .chain(intermediates.iter().map(|one| &one.der))
                .chain(chained)
        };
        for crl in &mut contents.crls {
            crl.remember_signers(authorities());
        }
        let pairs = pairs(&mut contents, &roots, &intermediates);
        Self {
            pairs,
            roots,
            crls: contents.crls.into_iter().map(Arc::new).collect(),
            problems: contents.problems,
        }
    }

    /// Keeps of `old` what came from files that are broken now.
    pub(super) fn keep(&mut self, old: &Self, problems: &[Problem]) {
        let broken = |file: &str| problems.iter().any(|problem| problem.breaks(file));
        let pairs = old.pairs.iter();
        let pairs = pairs.filter(|old| old.files.iter().any(|file| broken(file)));
        add(&mut self.pairs, pairs, |pair| pair.facts.fingerprint);
        let roots = old.roots.iter().filter(|root| broken(&root.file));
        add(&mut self.roots, roots, |root| root.facts.fingerprint);
        let crls = old.crls.iter().filter(|crl| broken(&crl.file));
        add(&mut self.crls, crls, |crl| crl.fingerprint);
    }

    /// When something begins or ceases to be valid next.
    pub(super) fn next_event(&self, now: UnixTime) -> Option<UnixTime> {
        let pairs = self.pairs.iter().map(|pair| &pair.facts);
        let facts = pairs.chain(self.roots.iter().map(|root| &root.facts));
        let times = facts.flat_map(|facts| [facts.not_before, facts.not_after]);
        let updates = self.crls.iter().filter_map(|crl| crl.next_update);
        times.chain(updates).filter(|time| *time > now).min()
    }
}

fn add<'a, T: 'a>(
    to: &mut Vec<Arc<T>>,
    from: impl Iterator<Item = &'a Arc<T>>,
    fingerprint: impl Fn(&T) -> Fingerprint,
) {
    for item in from {
        if !to
            .iter()
            .any(|other| fingerprint(other) == fingerprint(item))
        {
            to.push(Arc::clone(item));
        }
    }
}

/// Authorities that are trusted, and those that merely stand between them and others: an
/// authority whose issuer is here too is not trusted for itself, or revoking it would be in vain.
fn roots(contents: &mut Contents, trust_domain: &str) -> (Vec<Arc<Root>>, Vec<Certificate>) {
    let authorities = std::mem::take(&mut contents.authorities);
    let (mut roots, mut intermediates): (Vec<Arc<Root>>, _) = (Vec::new(), Vec::new());
    let below: Vec<bool> = authorities
        .iter()
        .map(|one| authorities.iter().any(|other| has_issued(other, one)))
        .collect();
    for (authority, below) in authorities.into_iter().zip(below) {
        let known = |root: &Arc<Root>| root.der == authority.certificate.der;
        if below {
            intermediates.push(authority.certificate);
        } else if !roots.iter().any(known) {
            match root(authority, trust_domain) {
                Ok(root) => roots.push(Arc::new(root)),
                Err(problem) => contents.problems.push(problem),
            }
        }
    }
    (roots, intermediates)
}

fn has_issued(issuer: &Authority, issued: &Authority) -> bool {
    let (issuer, issued) = (&issuer.certificate, &issued.certificate);
    if issued.facts.self_issued || issuer.facts.subject != issued.facts.issuer {
        return false;
    }
    let Ok(key) = EndEntityCert::try_from(&issuer.der) else {
        return false;
    };
    x509_parser::parse_x509_certificate(&issued.der).is_ok_and(|(_, parsed)| {
        let signed = parsed.tbs_certificate.as_ref();
        is_signed_by(signed, &parsed.signature_value.data, &key)
    })
}

fn root(authority: Authority, trust_domain: &str) -> Result<Root, Problem> {
    let Authority { file, certificate } = authority;
    let Certificate { der, facts } = certificate;
    if let Some(weakness) = &facts.weak_key {
        let help = "make a root with a key on P-256 or P-384, of Ed25519, or of RSA with 2048 bits";
        let message = format!("the root {} has {weakness}", facts.subject);
        return Err(Problem::error(&file, "weak-key", message, help));
    }
    let own = format!("spiffe://{trust_domain}");
    let foreign = facts
        .uris
        .iter()
        .find(|uri| **uri != own && !uri.starts_with(&format!("{own}/")));
    if let Some(uri) = foreign {
        let message = format!(
            "the root {} is of another trust domain, {uri}",
            facts.subject
        );
        let help = "remove it from here: only roots of our own trust domain are trusted";
        return Err(Problem::error(&file, "foreign-root", message, help));
    }
    let readable = EndEntityCert::try_from(&der).and_then(|_| anchor_from_trusted_cert(&der));
    let anchor = readable.map_err(|error| {
        let message = format!("the root {} cannot be used: {error}", facts.subject);
        let help = "see `openssl x509 -noout -text -in FILE`; it must be an X.509 v3 certificate";
        Problem::error(&file, "broken-root", message, help)
    })?;
    Ok(Root {
        anchor: anchor.to_owned(),
        facts,
        file,
        der,
    })
}

fn pairs(
    contents: &mut Contents,
    roots: &[Arc<Root>],
    intermediates: &[Certificate],
) -> Vec<Arc<Pair>> {
    let mut pairs = Vec::new();
    for chain in std::mem::take(&mut contents.chains) {
        match key_for(&chain, &mut contents.keys) {
            Some((key, key_file)) => pairs.push(Arc::new(Pair {
                files: [Arc::clone(&chain.file), key_file],
                facts: chain.leaf.facts.clone(),
                key: Arc::new(CertifiedKey::new(
                    complete(chain, roots, intermediates),
                    key,
                )),
            })),
            None => contents.problems.push(no_key(&chain, &contents.keys)),
        }
    }
    for key in contents.keys.iter().filter(|key| !key.used) {
        let message = "its private key belongs to no certificate here";
        let help = "remove it, or put its certificate beside it; an authority's key must never be on a node";
        let problem = Problem::warning(&key.file, "unused-key", message, help);
        contents.problems.push(problem);
    }
    pairs
}

fn key_for(
    chain: &Chain,
    keys: &mut [Key],
) -> Option<(Arc<dyn rustls::sign::SigningKey>, Arc<str>)> {
    let leaf = EndEntityCert::try_from(&chain.leaf.der).ok()?;
    let wanted = leaf.subject_public_key_info();
    let key = keys
        .iter_mut()
        .find(|key| key.key.public_key().as_ref() == Some(&wanted))?;
    key.used = true;
    Some((Arc::clone(&key.key), Arc::clone(&key.file)))
}

fn no_key(chain: &Chain, keys: &[Key]) -> Problem {
    let stem = |name: &str| {
        name.rsplit_once('.')
            .map_or(name, |(stem, _)| stem)
            .to_owned()
    };
    let beside = keys.iter().find(|key| stem(&key.file) == stem(&chain.file));
    let help = "put the private key it was issued for beside it, in any *.key or *.pem file";
    match beside {
        Some(key) => {
            let message = format!("the key in {} is not that of this certificate", key.file);
            Problem::error(&chain.file, "key-mismatch", message, help)
        }
        None => {
            let message = "there is no private key for its certificate";
            Problem::error(&chain.file, "no-key", message, help)
        }
    }
}

/// The chain, with intermediates that are in files of their own.
fn complete(
    chain: Chain,
    roots: &[Arc<Root>],
    intermediates: &[Certificate],
) -> Vec<CertificateDer<'static>> {
    let mut top = chain.leaf.facts;
    let mut certificates = vec![chain.leaf.der];
    for certificate in chain.rest {
        certificates.push(certificate.der);
        top = certificate.facts;
    }
    while certificates.len() < LONGEST_CHAIN && !top.self_issued {
        if roots.iter().any(|root| root.facts.subject == top.issuer) {
            break;
        }
        let mut above = intermediates.iter();
        let Some(next) = above.find(|one| one.facts.subject == top.issuer) else {
            break;
        };
        certificates.push(next.der.clone());
        top = next.facts.clone();
    }
    certificates
}

const LONGEST_CHAIN: usize = 6;
