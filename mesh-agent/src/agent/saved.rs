//! The last good policy on disk: what is enforced after a boot if the files are broken by then.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::policy::ids::Ids;
use crate::policy::source::SourceSet;

const FILE: &str = "last-good.json";
const SCHEMA_VERSION: u32 = 1;

/// What is saved: the files as they were, and the numbers their names have.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    schema_version: u32,
    pub(super) ids: Ids,
    pub(super) sources: Arc<SourceSet>,
}

impl Saved {
    pub(super) fn new(ids: Ids, sources: Arc<SourceSet>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            ids,
            sources,
        }
    }

    /// Reads what was saved in `directory`; `None` if there is nothing, or nothing usable,
    /// which is logged.
    pub(super) fn load(directory: &Path) -> Option<Self> {
        let path = directory.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read the last good policy");
                return None;
            }
        };
        match serde_json::from_slice::<Self>(&text) {
            Ok(saved) if saved.schema_version == SCHEMA_VERSION => Some(saved),
            Ok(_) | Err(_) => {
                tracing::warn!(path = %path.display(), "the last good policy is not readable by this version");
                None
            }
        }
    }

    /// Saves in `directory`, making it if need be: the old file or the new one is there at any
    /// moment, never half of one.
    pub(super) fn store(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        fs::set_permissions(directory, Permissions::from_mode(0o700))?;
        let (path, next) = (directory.join(FILE), next(directory));
        let mut file = BufWriter::new(File::create(&next)?);
        serde_json::to_writer(&mut file, self)?;
        file.write_all(b"\n")?;
        file.into_inner()?.sync_all()?;
        fs::rename(&next, &path)?;
        File::open(directory)?.sync_all()
    }
}

fn next(directory: &Path) -> PathBuf {
    directory.join(format!(".{FILE}.next"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(Saved::load(directory.path()).is_none());
        let mut ids = Ids::new(7);
        ids.subjects.id("shop/a");
        let sources = Arc::new(SourceSet::from_texts([("a.toml", "[mesh]\n")]));
        Saved::new(ids.clone(), sources.clone())
            .store(directory.path())
            .expect("stored");
        let loaded = Saved::load(directory.path()).expect("loaded");
        assert_eq!((loaded.ids, loaded.sources), (ids, sources));
        fs::write(directory.path().join(FILE), "{").expect("written");
        assert!(Saved::load(directory.path()).is_none());
    }
}
