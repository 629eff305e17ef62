//! The access log as a file: appended to, opened again when it is told to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde_json::Value;

/// Mode of a file that is made.
const MODE: u32 = 0o640;

pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
}

impl LogFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Opens it, again if it is open: whoever rotates it has renamed it. A symbolic link is not
    /// followed, and nothing but a regular file is written to.
    pub(super) fn open(&mut self) -> io::Result<()> {
        // What was renamed is somebody else's by now.
        self.file = None;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(MODE)
            .custom_flags(flags.bits() as i32)
            .open(&self.path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        self.file = Some(file);
        Ok(())
    }

    /// Writes one line, whole.
    pub(super) fn write(&mut self, record: &Value) -> io::Result<()> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        file.write_all(format!("{record}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn it_is_not_for_everyone_and_follows_no_link() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let mut log = LogFile::new(path("log"));
        log.open().expect("opened");
        log.write(&Value::from(1)).expect("written");
        let mode = fs::metadata(path("log"))
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777 & !MODE, 0, "{mode:o}");

        fs::rename(path("log"), path("log.1")).expect("rotated");
        log.write(&Value::from(2)).expect("written");
        log.open().expect("opened");
        log.write(&Value::from(3)).expect("written");
        assert_eq!(fs::read_to_string(path("log.1")).expect("a file"), "1\n2\n");
        assert_eq!(fs::read_to_string(path("log")).expect("a file"), "3\n");

        symlink(path("log"), path("link")).expect("linked");
        for name in ["link", "missing/log", "."] {
            let mut log = LogFile::new(path(name));
            assert!(log.open().is_err(), "{name}");
            assert!(log.write(&Value::from(4)).is_err(), "{name}");
        }
        assert_eq!(fs::read_to_string(path("log")).expect("a file"), "3\n");
    }
}
