//! A token in a file: whoever has it may ask.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};

/// Fewest characters of a token: 128 bits in hexadecimal.
pub(super) const SHORTEST: usize = 32;
/// Most bytes of the file.
const LARGEST: u64 = 4096;

/// Why a file is not taken for a token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenProblem {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Others than its owner can read or change it, or its owner is somebody else.
    #[error("others than root can read or change it; run `chown root` and `chmod 600` on it")]
    Exposed,
    /// There is something else in it.
    #[error(
        "it has to hold one word of {SHORTEST} to {LARGEST} printable ASCII characters; `openssl rand -hex 32` makes one"
    )]
    NoToken,
}

/// See the module. The file is looked at with every question and read again when it has changed.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    stamp: Option<Stamp>,
    /// `None` while the file is no good: then nobody gets in.
    digest: Option<Digest>,
}

/// What changes when the file does.
type Stamp = [u64; 8];

impl TokenFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    ///
    /// It holds no token, or not only its owner can read it.
    pub(super) fn open(path: &Path) -> Result<Self, TokenProblem> {
        let (stamp, digest) = read(path)?;
        Ok(Self {
            path: path.into(),
            known: Mutex::new(Known {
                stamp: Some(stamp),
                digest: Some(digest),
            }),
        })
    }

    /// Whether this is the token. How long it takes says nothing about how much of it is right.
    pub(super) fn is(&self, offered: &[u8]) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.refresh(&self.path);
        let offered = digest(&SHA256, offered);
        known
            .digest
            .as_ref()
            .is_some_and(|token| verify_slices_are_equal(token.as_ref(), offered.as_ref()).is_ok())
    }
}

impl Known {
    fn refresh(&mut self, path: &Path) {
        let stamp = std::fs::metadata(path)
            .ok()
            .map(|metadata| stamp(&metadata));
        if stamp.is_some() && stamp == self.stamp {
            return;
        }
        match read(path) {
            Ok((stamp, digest)) => {
                tracing::info!("the token of the admin server was read again");
                (self.stamp, self.digest) = (Some(stamp), Some(digest));
            }
            Err(problem) => {
                if self.digest.is_some() {
                    tracing::error!("{}: {problem}: no token is accepted", path.display());
                }
                (self.stamp, self.digest) = (None, None);
            }
        }
    }
}

fn stamp(metadata: &Metadata) -> Stamp {
    [
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime() as u64,
        metadata.mtime_nsec() as u64,
        metadata.ctime() as u64,
        metadata.ctime_nsec() as u64,
        u64::from(metadata.mode()),
    ]
}

fn read(path: &Path) -> Result<(Stamp, Digest), TokenProblem> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let own = rustix::process::geteuid().as_raw();
    let trusted = metadata.uid() == 0 || metadata.uid() == own;
    if !trusted || metadata.mode() & 0o077 != 0 {
        return Err(TokenProblem::Exposed);
    }
    if !metadata.is_file() {
        return Err(TokenProblem::NoToken);
    }
    let mut text = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut text)?;
    let token = text.trim_ascii();
    let good = token.len() >= SHORTEST
        && text.len() as u64 <= LARGEST
        && token.iter().all(u8::is_ascii_graphic);
    if !good {
        return Err(TokenProblem::NoToken);
    }
    Ok((stamp(&metadata), digest(&SHA256, token)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    }

    #[test]
    fn only_a_word_that_only_its_owner_can_read_is_a_token() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        assert!(matches!(TokenFile::open(&path), Err(TokenProblem::Io(_))));
        for (text, mode, good) in [
            (TOKEN.to_owned(), 0o600, true),
            (format!("{TOKEN}\n"), 0o400, true),
            (TOKEN.to_owned(), 0o640, false),
            (TOKEN.to_owned(), 0o604, false),
            (TOKEN[1..].to_owned(), 0o600, false),
            (format!("{TOKEN} x"), 0o600, false),
            (format!("{TOKEN}\u{e9}"), 0o600, false),
            (TOKEN.repeat(200), 0o600, false),
            (String::new(), 0o600, false),
        ] {
            write(&path, &text, mode);
            let opened = TokenFile::open(&path);
            assert_eq!(opened.is_ok(), good, "{text:?} {mode:o}");
        }
        assert!(TokenFile::open(directory.path()).is_err());
    }

    #[test]
    fn a_new_token_takes_the_place_of_the_old_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        write(&path, TOKEN, 0o600);
        let token = TokenFile::open(&path).expect("a token");
        assert!(token.is(TOKEN.as_bytes()));
        for wrong in ["", &TOKEN[1..], &format!("{TOKEN}0"), &TOKEN.to_uppercase()] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
        let next = TOKEN.replace('0', "z");
        write(&directory.path().join("next"), &next, 0o600);
        fs::rename(directory.path().join("next"), &path).expect("replaced");
        assert!(token.is(next.as_bytes()) && !token.is(TOKEN.as_bytes()));
        // Whoever reads it could have copied it.
        write(&path, &next, 0o644);
        assert!(!token.is(next.as_bytes()));
        write(&path, &next, 0o600);
        assert!(token.is(next.as_bytes()));
        fs::remove_file(&path).expect("removed");
        assert!(!token.is(next.as_bytes()));
    }
}
