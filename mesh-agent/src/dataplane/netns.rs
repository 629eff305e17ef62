//! The network namespaces of this host, as the usher finds and enters them.
//!
//! One that nobody is in and nobody has mounted, but that some socket keeps, is not found.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use super::cgroup;

/// Most namespaces that are looked at.
pub(crate) const MOST: usize = 4096;

/// A network namespace.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
    /// What tells it from others: the inode number of its file.
    pub(crate) inode: u64,
}

impl Netns {
    /// The calling thread's.
    pub(crate) fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode })
    }

    /// Moves the calling thread into it.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_SYS_ADMIN`.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }
}

/// Those that a process below the cgroup `below` is in, by a path of theirs; at most [`MOST`].
pub(crate) fn of_processes(below: &str) -> BTreeMap<u64, PathBuf> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_process = name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
        let is_wanted = || below.is_empty() || cgroup::runs_below(&entry.path(), below);
        if is_process && found.len() < MOST && is_wanted() {
            let path = entry.path().join("ns/net");
            // It may have ended.
            if let Some(inode) = inode(&path) {
                found.entry(inode).or_insert(path);
            }
        }
    }
    found
}

/// All that a process is in or that is mounted, by a path of theirs; at most [`MOST`].
pub(crate) fn all() -> BTreeMap<u64, PathBuf> {
    let mut found = of_processes("");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for path in mounts.lines().filter_map(mounted) {
        if let Some(inode) = inode(&path).filter(|_| found.len() < MOST) {
            found.entry(inode).or_insert(path);
        }
    }
    found
}

/// Opens what [`all`] found; `None` if it is gone.
pub(crate) fn open(inode: u64, path: &Path) -> Option<Netns> {
    Netns::open(path).ok().filter(|netns| netns.inode == inode)
}

/// The ports that clients get from the kernel in the calling thread's namespace.
pub(crate) fn client_ports() -> RangeInclusive<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let range = range.unwrap_or_default();
    let mut bounds = range.split_whitespace().map(str::parse);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        _ => 32_768..=60_999,
    }
}

fn inode(path: &Path) -> Option<u64> {
    let link = fs::metadata(path).ok()?;
    Some(link.ino())
}

/// Where a network namespace is mounted, if that is what a line of mountinfo says (proc(5)).
fn mounted(line: &str) -> Option<PathBuf> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let root = fields.next()?;
    let is_netns = filesystem.starts_with("nsfs ") && root.starts_with("net:");
    is_netns.then(|| PathBuf::from(fields.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounted_namespaces_are_found() {
        for (line, expected) in [
            (
                "9 1 0:4 net:[4026532265] /run/netns/a rw shared:5 - nsfs nsfs rw",
                Some("/run/netns/a"),
            ),
            ("9 1 0:4 mnt:[4026532265] /x rw - nsfs nsfs rw", None),
            ("9 1 0:4 / /proc rw - proc proc rw", None),
            ("nonsense", None),
        ] {
            assert_eq!(mounted(line), expected.map(PathBuf::from), "{line}");
        }
    }

    #[test]
    fn the_own_namespace_is_among_all() {
        let own = Netns::current().expect("a namespace");
        let all = all();
        let path = all.get(&own.inode).expect("found");
        assert!(open(own.inode, path).is_some());
    }
}
