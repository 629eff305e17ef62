//! What the files hold, told by their content.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::files::{File, should_hold_something};
use super::problem::Problem;
use crate::identity::certificate::Facts;
use crate::identity::revocation::Crl;

/// A certificate and where it is from.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) der: CertificateDer<'static>,
    pub(super) facts: Facts,
}

/// A leaf and what follows it in its file.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) file: Arc<str>,
    pub(super) leaf: Certificate,
    pub(super) rest: Vec<Certificate>,
}

/// A private key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) file: Arc<str>,
    pub(super) key: Arc<dyn SigningKey>,
    pub(super) used: bool,
}

/// An authority's certificate in a file without leaves.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) file: Arc<str>,
    pub(super) certificate: Certificate,
}

/// What all files hold.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) chains: Vec<Chain>,
    pub(super) keys: Vec<Key>,
    pub(super) authorities: Vec<Authority>,
    pub(super) crls: Vec<Crl>,
    pub(super) problems: Vec<Problem>,
}

impl Contents {
    /// Sorts out what a file holds. A file that is broken anywhere counts as a whole.
    pub(super) fn take(&mut self, file: &File) {
        if is_federated(&file.name) {
            return;
        }
        match sections(file).and_then(|sections| self.take_sections(file, sections)) {
            Ok(()) => {}
            Err(problem) => self.problems.push(problem),
        }
    }

    fn take_sections(&mut self, file: &File, sections: Sections) -> Result<(), Problem> {
        if sections.is_empty() && should_hold_something(&file.name) {
            let message = "it holds no certificate, private key or revocation list in PEM";
            let help = "it may be half written; otherwise remove it from here";
            return Err(Problem::error(&file.name, "nothing-in-it", message, help));
        }
        let certificates = read_certificates(file, sections.certificates)?;
        let keys = read_keys(file, sections.keys)?;
        let crls = read_crls(file, sections.crls)?;
        self.take_certificates(file, certificates)?;
        self.keys.extend(keys);
        self.crls.extend(crls);
        Ok(())
    }

    fn take_certificates(
        &mut self,
        file: &File,
        mut certificates: Vec<Certificate>,
    ) -> Result<(), Problem> {
        let leaves = certificates.iter().filter(|one| !one.facts.is_ca).count();
        if leaves == 0 {
            let authority = |certificate| Authority {
                file: Arc::clone(&file.name),
                certificate,
            };
            self.authorities
                .extend(certificates.into_iter().map(authority));
            return Ok(());
        }
        let leads = certificates.first().is_some_and(|one| !one.facts.is_ca);
        if leaves > 1 || !leads {
            let message =
                "it is no chain: there must be one service's certificate, and before its issuers";
            let help =
                "put each service's certificate into a file of its own, then the intermediates";
            return Err(Problem::error(&file.name, "not-a-chain", message, help));
        }
        let rest = certificates.split_off(1);
        self.chains.extend(certificates.pop().map(|leaf| Chain {
            file: Arc::clone(&file.name),
            leaf,
            rest,
        }));
        Ok(())
    }
}

#[derive(Default)]
struct Sections {
    certificates: Vec<CertificateDer<'static>>,
    keys: Vec<PrivateKeyDer<'static>>,
    crls: Vec<Vec<u8>>,
}

impl Sections {
    fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.keys.is_empty() && self.crls.is_empty()
    }
}

fn sections(file: &File) -> Result<Sections, Problem> {
    if is_der(&file.bytes) {
        return Ok(der_sections(&file.bytes));
    }
    if contains(&file.bytes, b"ENCRYPTED") {
        let message = "its private key is encrypted, and nobody is there to type a passphrase";
        let help = "decrypt it (`openssl pkey -in FILE -out FILE`) and `chmod 600 FILE`, or keep it as a systemd credential";
        return Err(Problem::error(&file.name, "encrypted-key", message, help));
    }
    let mut sections = Sections::default();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&file.bytes) {
        let (kind, der) = section.map_err(|error| broken(file, &error))?;
        match kind {
            SectionKind::Certificate => sections.certificates.push(der.into()),
            SectionKind::Crl => sections.crls.push(der),
            kind => sections.keys.extend(PrivateKeyDer::from_pem(kind, der)),
        }
    }
    Ok(sections)
}

/// A DER file is one certificate or one revocation list.
fn der_sections(bytes: &[u8]) -> Sections {
    let mut sections = Sections::default();
    if x509_parser::parse_x509_crl(bytes).is_ok() {
        sections.crls.push(bytes.to_vec());
    } else if Facts::read(bytes).is_ok() {
        sections.certificates.push(bytes.to_vec().into());
    }
    sections
}

fn broken(file: &File, error: &rustls_pki_types::pem::Error) -> Problem {
    let message = format!("its PEM is broken: {error:?}");
    let help = "it may be half written: write to another name and rename";
    Problem::error(&file.name, "broken-pem", message, help)
}

fn read_certificates(
    file: &File,
    certificates: Vec<CertificateDer<'static>>,
) -> Result<Vec<Certificate>, Problem> {
    let read = |der: CertificateDer<'static>| match Facts::read(&der) {
        Ok(facts) => Ok(Certificate { der, facts }),
        Err(error) => {
            let message = format!("a certificate in it is broken: {error}");
            let help = "look at it with `openssl x509 -noout -text -in FILE`";
            Err(Problem::error(
                &file.name,
                "broken-certificate",
                message,
                help,
            ))
        }
    };
    certificates.into_iter().map(read).collect()
}

fn read_keys(file: &File, keys: Vec<PrivateKeyDer<'static>>) -> Result<Vec<Key>, Problem> {
    if let (Some(reason), false) = (&file.not_private, keys.is_empty()) {
        let message = format!("it holds a private key and {reason}");
        let help = format!(
            "run `chmod 600 {}`; if others may have read it, issue it again",
            file.path
        );
        return Err(Problem::error(&file.name, "key-not-private", message, help));
    }
    let read = |der: PrivateKeyDer<'static>| match any_supported_type(&der) {
        Ok(key) => Ok(Key {
            file: Arc::clone(&file.name),
            key,
            used: false,
        }),
        Err(error) => {
            let message = format!("its private key cannot be used: {error}");
            let help = "use a key on P-256 or P-384, of Ed25519, or of RSA with 2048 bits and more";
            Err(Problem::error(&file.name, "broken-key", message, help))
        }
    };
    keys.into_iter().map(read).collect()
}

fn read_crls(file: &File, crls: Vec<Vec<u8>>) -> Result<Vec<Crl>, Problem> {
    let read = |der: Vec<u8>| {
        Crl::read(&der, Arc::clone(&file.name)).map_err(|error| {
            let message = format!("its revocation list cannot be used: {error}");
            let help = "look at it with `openssl crl -noout -text -in FILE`; it must be complete, not a delta";
            Problem::error(&file.name, "broken-crl", message, help)
        })
    };
    crls.into_iter().map(read).collect()
}

/// SPIRE writes the roots of other trust domains beside ours.
fn is_federated(name: &str) -> bool {
    let base = name.rsplit('/').next().unwrap_or(name);
    base.starts_with("federated_bundle")
}

fn is_der(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x30])
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}
