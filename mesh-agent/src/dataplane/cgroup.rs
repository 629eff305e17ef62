//! The cgroup2 hierarchy: where it is mounted, which part of it is the mesh's, what is in it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_common::global::ROOT_MAX;
use mesh_sys::open_cgroup;

use super::usher::Usher;

/// A cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its id: the inode number of its directory, what the kernel's helpers return.
    pub id: u64,
    /// Its path from the root of the hierarchy, as in `/proc/PID/cgroup`.
    pub path: String,
}

/// The part of the hierarchy the mesh is about.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    mount: PathBuf,
    root: PathBuf,
    /// Who tells paths; by itself it can only with `CAP_DAC_READ_SEARCH`.
    usher: Option<Arc<Usher>>,
}

impl Hierarchy {
    /// The whole hierarchy, or the part below `root` (a path in the file system).
    ///
    /// # Errors
    ///
    /// No cgroup2 is mounted, or `root` is no cgroup of it.
    pub fn find(root: Option<&Path>) -> io::Result<Self> {
        let mount = mount_point()?;
        let root = match root {
            None => mount.clone(),
            Some(root) => root
                .canonicalize()
                .map_err(|error| with_path(error, root))?,
        };
        let limited = Self {
            mount,
            root,
            usher: None,
        };
        if !limited.root.starts_with(&limited.mount) {
            return Err(io::Error::other(format!(
                "cgroup_root {} is not below the cgroup2 mount {}",
                limited.root.display(),
                limited.mount.display()
            )));
        }
        if limited.prefix().len() > ROOT_MAX {
            return Err(io::Error::other(format!(
                "the path of cgroup_root is longer than {ROOT_MAX} bytes"
            )));
        }
        Ok(limited)
    }

    /// The same, with somebody to ask for paths.
    pub(super) fn with_usher(self, usher: Arc<Usher>) -> Self {
        let usher = Some(usher);
        Self { usher, ..self }
    }

    /// Where all of it is mounted.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// The directory of the mesh's root cgroup.
    pub fn directory(&self) -> &Path {
        &self.root
    }

    /// The root cgroup, opened to attach programs to.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn open(&self) -> io::Result<File> {
        File::open(&self.root).map_err(|error| with_path(error, &self.root))
    }

    /// Path of the mesh's root from the root of the hierarchy; empty for the whole of it.
    pub fn prefix(&self) -> &str {
        let below = self.root.strip_prefix(&self.mount).unwrap_or(Path::new(""));
        if below.as_os_str().is_empty() {
            return "";
        }
        let start = self.mount.as_os_str().len();
        self.root
            .to_str()
            .and_then(|root| root.get(start..))
            .unwrap_or_default()
    }

    /// Directories of [`Self::walk`].
    pub fn directories(&self) -> Vec<PathBuf> {
        self.walk().iter().map(|cgroup| self.path(cgroup)).collect()
    }

    /// The directory of `cgroup`.
    pub fn path(&self, cgroup: &Cgroup) -> PathBuf {
        self.mount.join(cgroup.path.trim_start_matches('/'))
    }

    /// Path of the cgroup with this id, if it still exists and the kernel tells.
    pub fn path_of(&self, id: u64) -> Option<String> {
        if let Some(usher) = &self.usher {
            return usher.cgroup(id);
        }
        let cgroup = open_cgroup(self.open().ok()?.as_fd(), id).ok()?;
        let shown = fs::read_link(format!("/proc/self/fd/{}", cgroup.as_raw_fd())).ok()?;
        let below = shown.strip_prefix(&self.mount).ok()?.to_str()?;
        Some(format!("/{below}"))
    }

    /// The mesh's root cgroup and all below it. Cgroups that vanish meanwhile are left out.
    pub fn walk(&self) -> Vec<Cgroup> {
        let mut found = Vec::new();
        let mut open = vec![(self.root.clone(), self.prefix().to_owned())];
        while let Some((directory, path)) = open.pop() {
            let Ok(metadata) = fs::metadata(&directory) else {
                continue;
            };
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if let Some(name) = entry.file_name().to_str().filter(|_| is_directory) {
                    open.push((entry.path(), format!("{path}/{name}")));
                }
            }
            let path = if path.is_empty() {
                "/".to_owned()
            } else {
                path
            };
            found.push(Cgroup {
                id: metadata.ino(),
                path,
            });
        }
        found
    }
}

/// Where cgroup2 is mounted: not always `/sys/fs/cgroup`.
fn mount_point() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    mounts.lines().find_map(cgroup2_mount).ok_or_else(|| {
        io::Error::other(
            "no cgroup2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup",
        )
    })
}

/// The mount point in a line of mountinfo, if it is the root of a cgroup2 mount (proc(5)).
fn cgroup2_mount(line: &str) -> Option<PathBuf> {
    let (mount, filesystem) = line.split_once(" - ")?;
    if !filesystem.starts_with("cgroup2 ") {
        return None;
    }
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    (root == "/").then(|| PathBuf::from(point.replace("\\040", " ")))
}

fn with_path(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Whether a process, by its directory in `/proc`, is in the cgroup of this path or below it.
pub(crate) fn runs_below(process: &Path, cgroup: &str) -> bool {
    let cgroups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    let below = own.and_then(|own| own.strip_prefix(cgroup));
    below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_cgroup2_mounts_count() {
        for (line, expected) in [
            (
                "30 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
                Some("/sys/fs/cgroup"),
            ),
            (
                "30 24 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 none rw",
                Some("/sys/fs/cgroup/unified"),
            ),
            (
                "30 24 0:27 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
                None,
            ),
            (
                "30 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
                None,
            ),
            ("", None),
        ] {
            assert_eq!(
                cgroup2_mount(line).as_deref(),
                expected.map(Path::new),
                "{line}"
            );
        }
    }
}
