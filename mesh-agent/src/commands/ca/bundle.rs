//! The directory that is copied to a node.

use std::fs;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::authority::Issued;
use super::directory::{Directory, LISTS, ROOTS};
use super::error::CaError;
use super::files;
use super::index::Entry;
use crate::identity::{Facts, Identity};

/// A certificate that is in a bundle.
pub(super) struct Held {
    pub(super) entry: Entry,
    certificate: String,
    key: String,
}

/// What a bundle is to hold.
#[derive(Default)]
pub(super) struct Contents {
    files: Vec<(String, String)>,
}

impl Contents {
    pub(super) fn add(&mut self, identity: &Identity, issued: &Issued) {
        self.pair(identity, &issued.certificate, &issued.key);
    }

    pub(super) fn keep(&mut self, identity: &Identity, held: &Held) {
        self.pair(identity, &held.certificate, &held.key);
    }

    fn pair(&mut self, identity: &Identity, certificate: &str, key: &str) {
        let name = identity.readable_name();
        self.files.push((format!("{name}.crt"), certificate.into()));
        self.files.push((format!("{name}.key"), key.into()));
    }

    /// Writes it, with the roots and the revocation lists, in place of what was there.
    pub(super) fn write(mut self, path: &Path, directory: &Directory) -> Result<(), CaError> {
        self.files.push((ROOTS.into(), directory.all_roots()));
        let lists = directory.revocation_lists()?;
        self.files.extend(lists.map(|lists| (LISTS.into(), lists)));
        files::replace_directory(path, &self.files)
    }
}

/// What a bundle holds. A directory with anything else in it is not ours to replace.
pub(super) fn read(path: &Path, directory: &Directory) -> Result<Vec<Held>, CaError> {
    let failed = |error| CaError::file(path, error);
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(
            entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort();
    let mut held = Vec::new();
    for stem in names.iter().filter_map(|name| name.strip_suffix(".crt")) {
        if stem != "ca" {
            held.push((stem, read_pair(path, stem, directory)?));
        }
    }
    let ours = |name: &String| {
        let stem = name.strip_suffix(".crt").or(name.strip_suffix(".key"));
        let of_pair = stem.is_some_and(|stem| held.iter().any(|(other, _)| *other == stem));
        of_pair || name == ROOTS || name == LISTS
    };
    match names.iter().find(|name| !ours(name)) {
        Some(file) => Err(not_ours(path, file)),
        None => Ok(held.into_iter().map(|(_, held)| held).collect()),
    }
}

fn read_pair(path: &Path, stem: &str, directory: &Directory) -> Result<Held, CaError> {
    let read = |extension: &str| {
        let path = path.join(format!("{stem}.{extension}"));
        fs::read_to_string(&path).map_err(|error| CaError::file(&path, error))
    };
    let certificate = read("crt")?;
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).ok();
    let facts = der.and_then(|der| Facts::read(&der).ok());
    let entry = facts.and_then(|facts| directory.index.find(&facts.serial).cloned());
    Ok(Held {
        entry: entry.ok_or_else(|| not_ours(path, &format!("{stem}.crt")))?,
        key: read("key")?,
        certificate,
    })
}

fn not_ours(path: &Path, file: &str) -> CaError {
    CaError::NotOurs {
        path: path.to_owned(),
        file: file.to_owned(),
    }
}
