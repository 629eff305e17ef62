//! Revocation lists.
//!
//! A list counts for every issuer that has its name and whose key has signed it. What any list
//! names is revoked: of several lists of an issuer none is preferred, so an old file that comes
//! back cannot un-revoke anything.
//!
//! Source: RFC 5280, section 5.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{CertRevocationList, EndEntityCert, OwnedCertRevocationList};

use super::certificate::{Fingerprint, sha256, shown, unix};
use super::tls::ALGORITHMS;

/// A revocation list, whose signature is checked against each issuer that it is used for.
#[derive(Debug)]
pub(super) struct Crl {
    list: CertRevocationList<'static>,
    signed: Vec<u8>,
    signature: Vec<u8>,
    /// Keys that are known to have signed it (DER of their `SubjectPublicKeyInfo`).
    signers: Vec<Vec<u8>>,
    pub(super) issuer: String,
    pub(super) next_update: Option<UnixTime>,
    pub(super) fingerprint: Fingerprint,
    pub(super) file: Arc<str>,
}

impl Crl {
    /// Reads a list. The error is for people.
    pub(super) fn read(der: &[u8], file: Arc<str>) -> Result<Self, String> {
        let list = OwnedCertRevocationList::from_der(der).map_err(|error| format!("{error:?}"))?;
        let (_, parsed) = x509_parser::parse_x509_crl(der).map_err(|error| format!("{error}"))?;
        Ok(Self {
            list: list.into(),
            signed: parsed.tbs_cert_list.as_ref().to_vec(),
            signature: parsed.signature_value.data.to_vec(),
            signers: Vec::new(),
            issuer: shown(&parsed.issuer().to_string()),
            next_update: parsed.next_update().map(unix),
            fingerprint: sha256(der),
            file,
        })
    }

    /// Finds out which of these authorities have signed it, so that it is not computed again for
    /// each connection.
    pub(super) fn remember_signers<'a>(
        &mut self,
        authorities: impl Iterator<Item = &'a CertificateDer<'static>>,
    ) {
        for der in authorities {
            let Ok(authority) = EndEntityCert::try_from(der) else {
                continue;
            };
            let key = authority.subject_public_key_info().to_vec();
            let named = authority.subject() == self.list.issuer();
            if named && !self.signers.contains(&key) && self.is_signed_by(&authority) {
                self.signers.push(key);
            }
        }
    }

    /// Whether any known authority has signed it.
    pub(super) fn has_signer(&self) -> bool {
        !self.signers.is_empty()
    }

    /// Whether it revokes `certificate`, which `issuer` has issued.
    pub(super) fn revokes(
        &self,
        certificate: &webpki::Cert<'_>,
        issuer: &EndEntityCert<'_>,
    ) -> bool {
        self.list.issuer() == certificate.issuer()
            && matches!(self.list.find_serial(certificate.serial()), Ok(Some(_)))
            && self.counts_for(issuer)
    }

    fn counts_for(&self, issuer: &EndEntityCert<'_>) -> bool {
        let key = issuer.subject_public_key_info();
        let known = self.signers.iter().any(|signer| **signer == *key);
        known || self.is_signed_by(issuer)
    }

    fn is_signed_by(&self, issuer: &EndEntityCert<'_>) -> bool {
        is_signed_by(&self.signed, &self.signature, issuer)
    }
}

/// Whether the key of `issuer` has signed `message`, by any algorithm that is accepted.
pub(super) fn is_signed_by(message: &[u8], signature: &[u8], issuer: &EndEntityCert<'_>) -> bool {
    let mut algorithms = ALGORITHMS.all.iter();
    algorithms.any(|algorithm| {
        issuer
            .verify_signature(*algorithm, message, signature)
            .is_ok()
    })
}
