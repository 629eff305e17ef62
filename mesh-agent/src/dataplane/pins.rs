//! Where the kernel side is pinned, and who may work on it.
//!
//! `<bpffs>/mesh/<abi>/maps/<MAP>` and `<bpffs>/mesh/<abi>/links/<program>`. Whoever holds the
//! lock on `<bpffs>/mesh` is the one agent.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_programs;
use mesh_common::ABI_VERSION;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use rustix::fs::{FlockOperation, flock};

use super::usher::Usher;

/// The pin directory, locked.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    directory: PathBuf,
    lock: File,
    usher: Option<Arc<Usher>>,
}

/// Why the pin directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// Another agent has it.
    #[error("another mesh-agent is running on {0}; stop it first, or use another [paths] bpffs")]
    Locked(PathBuf),
    /// The file system refuses.
    #[error("cannot use {path} as a BPF file system: {error}")]
    Io {
        /// Which path.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl Pins {
    /// Takes the pin directory below `bpffs`, mounting a BPF file system there and making the
    /// directories where they are missing. An agent that may no longer mount has its usher do so.
    ///
    /// # Errors
    ///
    /// Another agent has it, or it cannot be made.
    pub fn take(bpffs: &Path, usher: Option<Arc<Usher>>) -> Result<Self, PinsError> {
        let failed = |error: io::Error| PinsError::Io {
            path: bpffs.to_owned(),
            error,
        };
        mount_if_needed(bpffs, usher.as_deref()).map_err(failed)?;
        let root = bpffs.join("mesh");
        let directory = root.join(ABI_VERSION.to_string());
        fs::create_dir_all(directory.join("maps")).map_err(failed)?;
        fs::create_dir_all(directory.join("links")).map_err(failed)?;
        let lock = lock(&root)?;
        Ok(Self {
            root,
            directory,
            lock,
            usher,
        })
    }

    /// Takes the pin directory if there is one.
    ///
    /// # Errors
    ///
    /// Another agent has it.
    pub fn take_existing(bpffs: &Path) -> Result<Option<Self>, PinsError> {
        let root = bpffs.join("mesh");
        if !root.is_dir() {
            return Ok(None);
        }
        let lock = lock(&root)?;
        let directory = root.join(ABI_VERSION.to_string());
        Ok(Some(Self {
            root,
            directory,
            lock,
            usher: None,
        }))
    }

    /// Makes the directories again if they are gone, or the file system they were on; whether
    /// they were.
    ///
    /// # Errors
    ///
    /// Another agent has taken their place, or they cannot be made.
    pub fn restore(&mut self) -> Result<bool, PinsError> {
        let same = |root: fs::Metadata, locked: fs::Metadata| {
            (root.dev(), root.ino()) == (locked.dev(), locked.ino())
        };
        let ours = match (fs::metadata(&self.root), self.lock.metadata()) {
            (Ok(root), Ok(locked)) => same(root, locked),
            _ => false,
        };
        let whole = ["maps", "links"].map(|name| self.directory.join(name).is_dir());
        if ours && whole == [true, true] {
            return Ok(false);
        }
        let bpffs = self.root.parent().unwrap_or(&self.root).to_owned();
        *self = Self::take(&bpffs, self.usher.clone())?;
        Ok(true)
    }

    /// The directory of all versions.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the map `name` is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join("maps").join(name)
    }

    /// Where the link of program `name` is pinned.
    pub fn link(&self, name: &str) -> PathBuf {
        self.directory.join("links").join(name)
    }

    /// Removes every pin, of every version, and waits until the programs are gone: enforcement
    /// ends here.
    ///
    /// Links go before maps, so that no program is left with a policy it cannot read.
    ///
    /// # Errors
    ///
    /// What could not be removed, or programs that something else keeps alive.
    pub fn remove_all(self) -> io::Result<()> {
        let mut programs = BTreeSet::new();
        for version in fs::read_dir(&self.root)?.flatten() {
            let links = version.path().join("links");
            if links.is_dir() {
                programs.extend(linked_programs(&links)?);
                fs::remove_dir_all(links)?;
            }
        }
        fs::remove_dir_all(&self.root)?;
        wait_until_gone(&programs)
    }
}

/// Ids of the programs that the pinned links run.
fn linked_programs(links: &Path) -> io::Result<Vec<u32>> {
    let pins = fs::read_dir(links)?.flatten();
    let links = pins.filter_map(|pin| PinnedLink::from_pin(pin.path()).ok());
    Ok(links
        .filter_map(|link| FdLink::from(link).info().ok())
        .map(|link| link.program_id())
        .collect())
}

/// The kernel lets go of a link's program some time after the link.
fn wait_until_gone(programs: &BTreeSet<u32>) -> io::Result<()> {
    let alive = || {
        loaded_programs()
            .flatten()
            .any(|program| programs.contains(&program.id()))
    };
    for _ in 0..100 {
        if !alive() {
            return Ok(());
        }
        sleep(Duration::from_millis(20));
    }
    Err(io::Error::other(
        "the pins are removed, but something else keeps the programs alive",
    ))
}

fn lock(root: &Path) -> Result<File, PinsError> {
    let failed = |error: io::Error| PinsError::Io {
        path: root.to_owned(),
        error,
    };
    let file = File::open(root).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(PinsError::Locked(root.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

fn mount_if_needed(bpffs: &Path, usher: Option<&Usher>) -> io::Result<()> {
    fs::create_dir_all(bpffs)?;
    if is_bpf(bpffs)? {
        return Ok(());
    }
    tracing::info!(path = %bpffs.display(), "mounting a BPF file system");
    match usher {
        Some(usher) => usher.mount_bpf(),
        None => mount_bpf(bpffs),
    }
}

fn is_bpf(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts a BPF file system at `bpffs` unless there is one.
pub(super) fn mount_bpf(bpffs: &Path) -> io::Result<()> {
    if is_bpf(bpffs)? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), bpffs, Some("bpf"), flags, Some("mode=700"))?;
    Ok(())
}
