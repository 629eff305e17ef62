//! Cgroups that exist as long as somebody holds them.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use crate::{guest, leftovers};

/// A command that runs in the cgroup at `path`, from its first instruction on.
pub fn in_cgroup(path: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "echo 0 > \"$0\"/cgroup.procs; exec \"$@\""])
        .arg(path)
        .arg(program);
    command
}

/// A cgroup subtree; dropping it ends its processes and removes it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A new one below the cgroup2 mount, never the root of it.
    ///
    /// # Errors
    ///
    /// No cgroup2 is mounted, or this is not root.
    pub fn new(purpose: &str) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = mount_point()?.join(leftovers::name(purpose, number));
        fs::create_dir(&path)?;
        Ok(Self { path })
    }

    /// One of the machine's own names, such as `system.slice`. Only in a guest.
    ///
    /// # Errors
    ///
    /// This is no guest, or it exists already.
    pub fn at_root(name: &str) -> io::Result<Self> {
        guest::required()?;
        let path = mount_point()?.join(name);
        fs::create_dir(&path)?;
        Ok(Self { path })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Directory of the cgroup `name` (such as `system.slice/a.service`) in it, made if need be.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn child(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Id of the cgroup at `path`, as the kernel's helpers return it.
    ///
    /// # Errors
    ///
    /// It does not exist.
    pub fn id(path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.ino())
    }
}

/// Moves the calling process into the cgroup at `path`.
///
/// # Errors
///
/// The kernel's.
pub fn join(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.procs"), "0")
}

/// Stays in another cgroup with the whole process until it is dropped. What is opened meanwhile is
/// of that cgroup for good.
#[derive(Debug)]
pub struct Visit {
    home: PathBuf,
}

impl Visit {
    /// Goes to the cgroup at `path`.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn to(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string("/proc/self/cgroup")?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let own = own.ok_or_else(|| io::Error::other("this process is in no cgroup2"))?;
        let home = mount_point()?.join(own);
        join(path)?;
        Ok(Self { home })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        // Whoever stays ends with the cgroup.
        if let Err(error) = join(&self.home) {
            eprintln!("cannot return to {}: {error}", self.home.display());
        }
    }
}

/// Ends every process below `path` and removes the cgroups, the deepest first.
pub fn remove(path: &Path) -> io::Result<()> {
    let kill = path.join("cgroup.kill");
    if kill.exists() {
        fs::write(kill, "1")?;
    }
    for _ in 0..200 {
        if remove_empty(path) {
            return Ok(());
        }
        sleep(Duration::from_millis(10));
    }
    Err(io::Error::other(format!(
        "{} does not become empty",
        path.display()
    )))
}

fn remove_empty(path: &Path) -> bool {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !remove_empty(&entry.path()) {
            return false;
        }
    }
    fs::remove_dir(path).is_ok() || !path.exists()
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("left behind: {error}");
        }
    }
}

/// Where cgroup2 is mounted.
///
/// # Errors
///
/// It is not.
pub fn mount_point() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let point = line.and_then(|line| line.split(' ').nth(4));
    point
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::other("no cgroup2 is mounted"))
}
