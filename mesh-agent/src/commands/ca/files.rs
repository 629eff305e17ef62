//! Files that are either there as a whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use super::error::CaError;

/// Writes a file that only its owner can read, replacing one of that name.
pub(super) fn write(path: &Path, text: &str) -> Result<(), CaError> {
    let written = beside(path, "tmp");
    let failed = |error| CaError::file(&written, error);
    // One that was left by a run that was killed.
    let _ = fs::remove_file(&written);
    let mut file = create(&written).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&written, path).map_err(|error| CaError::file(path, error))?;
    sync_parent(path)
}

/// As [`write()`], but a file that is there already is an error.
pub(super) fn write_new(path: &Path, text: &str) -> Result<(), CaError> {
    let failed = |error| CaError::file(path, error);
    let mut file = create(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    sync_parent(path)
}

/// Makes a directory that only its owner can enter; it may be there.
pub(super) fn make_directory(path: &Path) -> Result<(), CaError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| CaError::file(path, error))
}

/// Replaces a directory by one with these files, at once for everybody who looks.
pub(super) fn replace_directory(path: &Path, files: &[(String, String)]) -> Result<(), CaError> {
    let path = std::path::absolute(path).map_err(|error| CaError::file(path, error))?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| CaError::file(parent, error))?;
    }
    let new = beside(&path, &format!("new-{}", std::process::id()));
    let made = make_directory(&new)
        .and_then(|()| {
            files
                .iter()
                .try_for_each(|(name, text)| write_new(&new.join(name), text))
        })
        .and_then(|()| exchange(&new, &path));
    // It is the old one now, or what could not be finished.
    let _ = fs::remove_dir_all(&new);
    made
}

fn exchange(new: &Path, path: &Path) -> Result<(), CaError> {
    let exchanged = match path.exists() {
        true => rustix::fs::renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE),
        false => rustix::fs::rename(new, path),
    };
    exchanged.map_err(|error| CaError::file(path, error))?;
    sync_parent(path)
}

fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{what}"))
}

fn sync_parent(path: &Path) -> Result<(), CaError> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let synced = File::open(parent).and_then(|directory| directory.sync_all());
    synced.map_err(|error| CaError::file(parent, error))
}
