//! A gzipped tar file that appears whole, or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Most bytes of one part.
const MOST: usize = 4 << 20;

/// A file in the archive.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Its name, below the archive's directory.
    pub(super) name: String,
    /// What it is.
    pub(super) about: &'static str,
    pub(super) content: String,
}

impl Part {
    /// The end of a part that is too long is cut off, and that is said in it.
    pub(super) fn new(name: &str, about: &'static str, mut content: String) -> Self {
        if content.len() > MOST {
            let end = (0..=MOST).rev().find(|at| content.is_char_boundary(*at));
            content.truncate(end.unwrap_or(0));
            content += "\n[cut off here]\n";
        }
        Self {
            name: name.into(),
            about,
            content,
        }
    }
}

/// Writes `parts` below the directory `name` of the archive `output`.
///
/// # Errors
///
/// The file system's; `output` exists.
pub(super) fn write(output: &Path, name: &str, parts: &[Part]) -> io::Result<()> {
    if output.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let beside = beside(output)?;
    let written = fill(&beside, name, parts).and_then(|()| appear(&beside, output));
    if written.is_err() {
        // It may not even have been made.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn beside(output: &Path) -> io::Result<PathBuf> {
    let name = output.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let name = format!(".{}.{}", name.to_string_lossy(), std::process::id());
    Ok(output.with_file_name(name))
}

fn fill(path: &Path, name: &str, parts: &[Part]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    for part in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(part.content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.as_ref().map_or(0, |now| now.as_secs()));
        let path = format!("{name}/{}", part.name);
        archive.append_data(&mut header, path, part.content.as_bytes())?;
    }
    let mut file: File = archive.into_inner()?.finish()?;
    file.flush()?;
    file.sync_all()
}

fn appear(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::EXIST) => Err(exists()),
        result => Ok(result?),
    }
}

fn exists() -> io::Error {
    io::Error::new(
        io::ErrorKind::AlreadyExists,
        "there is such a file; name another one by -o",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_over_and_nothing_is_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let output = directory.path().join("a.tar.gz");
        let parts = [Part::new("x", "", "text".into())];
        write(&output, "a", &parts).expect("written");
        let before = fs::read(&output).expect("read");
        let again = write(&output, "a", &parts).expect_err("it exists");
        assert!(again.to_string().contains("name another one"), "{again}");
        assert_eq!(fs::read(&output).expect("read"), before);
        assert_eq!(fs::read_dir(directory.path()).expect("a list").count(), 1);
        let nowhere = directory.path().join("missing/a.tar.gz");
        write(&nowhere, "a", &parts).expect_err("no directory");
    }

    #[test]
    fn a_part_has_an_end() {
        let part = Part::new("x", "", "ä".repeat(MOST));
        assert!(part.content.len() <= MOST + 20);
        assert!(part.content.ends_with("[cut off here]\n"));
    }
}
