//! The files of the host that checks read.

use std::fs;
use std::path::{Path, PathBuf};

/// A host's file system; a test's own directory in tests.
#[derive(Clone, Debug)]
pub(super) struct Host(PathBuf);

/// A mount, as in `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Which directory of the file system is mounted.
    pub(super) root: String,
    /// Where.
    pub(super) point: PathBuf,
    /// Whether nothing can be written there.
    pub(super) read_only: bool,
    /// Type of the file system.
    pub(super) kind: String,
}

impl Host {
    pub(super) fn at(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    fn path(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The trimmed text of a file, if it can be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(Path::new(path))).ok()?;
        Some(text.trim().to_owned())
    }

    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path.as_ref()).exists()
    }

    /// The mounts, in order; later ones hide earlier ones at the same place.
    pub(super) fn mounts(&self) -> Vec<Mount> {
        let text = self.read("/proc/self/mountinfo").unwrap_or_default();
        text.lines().filter_map(mount).collect()
    }

    /// The mount at a place.
    pub(super) fn mount_at(&self, point: &Path) -> Option<Mount> {
        let mounts = self.mounts();
        mounts.into_iter().rev().find(|mount| mount.point == point)
    }

    /// Whether the kernel knows a type of file system.
    pub(super) fn knows(&self, kind: &str) -> bool {
        let known = self.read("/proc/filesystems").unwrap_or_default();
        known
            .lines()
            .any(|l| l.split_whitespace().last() == Some(kind))
    }

    /// Effective capabilities of this process.
    pub(super) fn capabilities(&self) -> u64 {
        let status = self.read("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0)
    }
}

/// One line of mountinfo; the optional fields end with a lone dash.
fn mount(line: &str) -> Option<Mount> {
    let (here, there) = line.split_once(" - ")?;
    let mut here = here.split(' ').skip(3);
    let (root, point, options) = (here.next()?, here.next()?, here.next()?);
    Some(Mount {
        root: unescape(root),
        point: unescape(point).into(),
        read_only: options.split(',').any(|option| option == "ro"),
        kind: there.split(' ').next()?.to_owned(),
    })
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_understood() {
        let line = "41 31 0:38 / /mnt/a\\040b rw,relatime shared:4 - cgroup2 cgroup2 rw";
        let expected = Mount {
            root: "/".into(),
            point: "/mnt/a b".into(),
            read_only: false,
            kind: "cgroup2".into(),
        };
        assert_eq!(mount(line), Some(expected));
        assert!(mount("1 2 0:3 / /x ro - bpf bpf rw").is_some_and(|m| m.read_only));
        assert_eq!(mount("nonsense"), None);
        assert_eq!(mount("1 - 2"), None);
    }
}
