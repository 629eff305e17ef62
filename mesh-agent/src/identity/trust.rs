//! Whom this node trusts: a trust domain, its roots, and what they have revoked.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{Cert, EndEntityCert, VerifiedPath};

use super::certificate::{Facts, Fingerprint, Serial};
use super::revocation::Crl;

/// An authority that is trusted.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) der: CertificateDer<'static>,
    pub(super) anchor: TrustAnchor<'static>,
    pub(super) facts: Facts,
    pub(super) file: Arc<str>,
}

/// Whom to believe.
#[derive(Clone, Debug)]
pub struct Trust {
    pub(super) domain: Arc<str>,
    pub(super) roots: Vec<Arc<Root>>,
    pub(super) crls: Vec<Arc<Crl>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Trust {
    pub(super) fn new(domain: Arc<str>, roots: Vec<Arc<Root>>, crls: Vec<Arc<Crl>>) -> Self {
        let anchors = roots.iter().map(|root| root.anchor.clone()).collect();
        Self {
            domain,
            roots,
            crls,
            anchors,
        }
    }

    /// The trust domain, such as `mesh.local`.
    pub fn domain(&self) -> &Arc<str> {
        &self.domain
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    pub(super) fn root_fingerprints(&self) -> BTreeSet<Fingerprint> {
        let roots = self.roots.iter();
        roots.map(|root| root.facts.fingerprint).collect()
    }

    pub(super) fn crl_fingerprints(&self) -> BTreeSet<Fingerprint> {
        self.crls.iter().map(|crl| crl.fingerprint).collect()
    }

    /// The root that a chain leads to.
    pub(super) fn root(&self, anchor: &TrustAnchor<'_>) -> Option<&Root> {
        let same = |root: &&Arc<Root>| {
            root.anchor.subject == anchor.subject
                && root.anchor.subject_public_key_info == anchor.subject_public_key_info
        };
        self.roots.iter().find(same).map(|root| &**root)
    }

    /// The first certificate of a chain, from its end, that its issuer has revoked.
    pub(super) fn revoked(&self, path: &VerifiedPath<'_>) -> Option<Serial> {
        if self.crls.is_empty() {
            return None;
        }
        let root = self.root(path.anchor())?;
        let authorities: Vec<CertificateDer<'_>> =
            path.intermediate_certificates().map(Cert::der).collect();
        let mut issued: &Cert<'_> = path.end_entity();
        for (certificate, issuer) in path
            .intermediate_certificates()
            .map(Some)
            .chain([None])
            .zip(authorities.iter().chain([&root.der]))
        {
            // Both were read when the chain was built.
            if self.is_revoked(issued, &EndEntityCert::try_from(issuer).ok()?) {
                return Some(Serial::new(issued.serial()));
            }
            issued = certificate.unwrap_or(issued);
        }
        None
    }

    fn is_revoked(&self, certificate: &Cert<'_>, issuer: &EndEntityCert<'_>) -> bool {
        self.crls.iter().any(|crl| crl.revokes(certificate, issuer))
    }
}

impl Root {
    pub(super) fn is_valid(&self, now: UnixTime) -> bool {
        now >= self.facts.not_before && now <= self.facts.not_after
    }
}
