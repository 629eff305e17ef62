//! The authority's directory: `index.json`, `root-N.crt` and `root-N.key`, `root-N.cross.crt`,
//! `ca.crt` (all roots) and `ca.crl`.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{Issuer, KeyPair};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::error::CaError;
use super::files;
use super::index::{Index, SCHEMA_VERSION};
use crate::identity::Facts;

/// The directory, locked as long as this lives.
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) index: Index,
    /// By number; the last one issues.
    pub(super) roots: Vec<Root>,
    _lock: Lock,
}

/// A root of the authority.
pub(super) struct Root {
    pub(super) number: u32,
    pub(super) pem: String,
    pub(super) facts: Facts,
    key_path: PathBuf,
}

impl Directory {
    /// Opens one that exists.
    pub(super) fn open(path: &Path) -> Result<Self, CaError> {
        if !path.join(INDEX).exists() {
            return Err(CaError::Missing(path.to_owned()));
        }
        let lock = lock(path)?;
        let file = path.join(INDEX);
        let failed = |error: &dyn ToString| CaError::file(&file, error.to_string());
        let text = fs::read_to_string(&file).map_err(|error| failed(&error))?;
        let index: Index = serde_json::from_str(&text).map_err(|error| failed(&error))?;
        if index.schema_version != SCHEMA_VERSION {
            return Err(failed(&"it was written by another version of mesh-agent"));
        }
        Ok(Self {
            roots: roots(path)?,
            path: path.to_owned(),
            index,
            _lock: lock,
        })
    }

    /// Makes a new one, which has no root yet.
    pub(super) fn create(path: &Path, index: Index) -> Result<Self, CaError> {
        files::make_directory(path)?;
        let lock = lock(path)?;
        // An index without a root is what a run that was killed has left.
        if !roots(path)?.is_empty() {
            return Err(CaError::Exists(path.to_owned()));
        }
        Ok(Self {
            path: path.to_owned(),
            index,
            roots: Vec::new(),
            _lock: lock,
        })
    }

    /// Writes the index.
    pub(super) fn save(&self) -> Result<(), CaError> {
        let path = self.path.join(INDEX);
        let text = serde_json::to_string_pretty(&self.index);
        let text = text.map_err(|error| CaError::file(&path, error))?;
        files::write(&path, &(text + "\n"))
    }

    /// Takes in a root that was just written, and writes the file of all of them.
    pub(super) fn read_roots(&mut self) -> Result<(), CaError> {
        self.roots = roots(&self.path)?;
        files::write(&self.path.join(ROOTS), &self.all_roots())
    }

    /// The root that issues.
    pub(super) fn newest(&self) -> Result<&Root, CaError> {
        let newest = self.roots.last();
        newest.ok_or_else(|| CaError::Missing(self.path.clone()))
    }

    /// Every root, in PEM.
    pub(super) fn all_roots(&self) -> String {
        self.roots.iter().map(|root| root.pem.as_str()).collect()
    }

    /// The revocation lists, in PEM, if there are any.
    pub(super) fn revocation_lists(&self) -> Result<Option<String>, CaError> {
        let path = self.path.join(LISTS);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CaError::file(&path, error)),
        }
    }

    /// What older roots say for newer ones, from the newest down.
    pub(super) fn cross_certificates(&self) -> String {
        let vouched = self
            .roots
            .iter()
            .rev()
            .map_while(|root| self.cross_certificate(root));
        vouched.take(MOST_CROSS).collect()
    }

    /// What another root that is still here says for `root`.
    fn cross_certificate(&self, root: &Root) -> Option<String> {
        let pem = fs::read_to_string(self.path.join(cross_file(root.number))).ok()?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let issuer = Facts::read(&der).ok()?.issuer;
        let mut roots = self.roots.iter();
        roots
            .any(|other| other.facts.subject == issuer)
            .then_some(pem)
    }

    /// A number that no root has had, as far as anything of it is left.
    pub(super) fn next_number(&self) -> Result<u32, CaError> {
        let names = names(&self.path)?;
        let numbers = names.iter().filter_map(|name| {
            let number = name.strip_prefix("root-")?.split('.').next()?;
            number.parse::<u32>().ok()
        });
        Ok(numbers.max().map_or(1, |last| last.saturating_add(1)))
    }
}

impl Root {
    fn read(path: PathBuf, number: u32) -> Result<Self, CaError> {
        let pem = fs::read_to_string(&path).map_err(|error| CaError::file(&path, error))?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes());
        let der = der.map_err(|error| CaError::file(&path, format!("{error:?}")))?;
        let facts = Facts::read(&der).map_err(|error| CaError::file(&path, error))?;
        Ok(Self {
            number,
            pem,
            facts,
            key_path: path.with_extension("key"),
        })
    }

    /// With its key, to sign with.
    pub(super) fn issuer(&self) -> Result<Issuer<'static, KeyPair>, CaError> {
        let path = &self.key_path;
        let metadata = fs::metadata(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                let key = path.file_name().unwrap_or_default().to_string_lossy();
                CaError::NoKey(path.with_extension("crt"), key.into_owned())
            }
            _ => CaError::file(path, error),
        })?;
        let owner = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
        if metadata.permissions().mode() & 0o077 != 0 || !owner {
            return Err(CaError::NotPrivate(path.clone()));
        }
        let text = fs::read_to_string(path).map_err(|error| CaError::file(path, error))?;
        let key = KeyPair::from_pem(&text).map_err(|error| CaError::file(path, error))?;
        Ok(Issuer::from_ca_cert_pem(&self.pem, key)?)
    }
}

fn roots(path: &Path) -> Result<Vec<Root>, CaError> {
    let mut roots = Vec::new();
    for name in names(path)? {
        let number = name
            .strip_prefix("root-")
            .and_then(|name| name.strip_suffix(".crt"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            roots.push(Root::read(path.join(root_file(number)), number)?);
        }
    }
    roots.sort_by_key(|root| root.number);
    Ok(roots)
}

fn names(path: &Path) -> Result<Vec<String>, CaError> {
    let failed = |error| CaError::file(path, error);
    let entries = fs::read_dir(path).map_err(failed)?;
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.map_err(failed)?.file_name();
        Ok(name.to_string_lossy().into_owned())
    };
    entries.map(name).collect()
}

/// A locked directory.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would not do while a process that is just being started has it open.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// One command at a time: two would issue from the same index.
fn lock(path: &Path) -> Result<Lock, CaError> {
    let directory = File::open(path).map_err(|error| CaError::file(path, error))?;
    let locked = rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive);
    locked.map_err(|errno| match errno {
        Errno::WOULDBLOCK => {
            CaError::file(path, "another mesh-agent ca is at work here: try again")
        }
        errno => CaError::file(path, errno),
    })?;
    Ok(Lock(directory))
}

pub(super) fn root_file(number: u32) -> String {
    format!("root-{number}.crt")
}

pub(super) fn key_file(number: u32) -> String {
    format!("root-{number}.key")
}

pub(super) fn cross_file(number: u32) -> String {
    format!("root-{number}.cross.crt")
}

const INDEX: &str = "index.json";
pub(super) const ROOTS: &str = "ca.crt";
pub(super) const LISTS: &str = "ca.crl";
/// Chains stay short: a node that missed more rotations needs a new bundle.
const MOST_CROSS: usize = 2;
