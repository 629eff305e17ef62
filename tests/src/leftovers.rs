//! What tests leave behind that were killed before they could clean up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup;

/// Begin of the names of all directories and cgroups that tests make.
pub(crate) const PREFIX: &str = "mesh-";

/// Name of something of this process, such as `mesh-PURPOSE-PID-NUMBER`.
pub(crate) fn name(purpose: &str, number: u32) -> String {
    format!("{PREFIX}{purpose}-{}-{number}", process::id())
}

/// Ends the agents and removes the mounts, directories and cgroups of processes that are gone.
pub(crate) fn remove() {
    // Whatever cannot be removed is somebody else's, or will be found the next time.
    for directory in abandoned(&std::env::temp_dir()) {
        end_agents(&directory);
        let mount = directory.join("bpf");
        let _ = fs::remove_dir_all(mount.join("mesh"));
        let _ = umount2(&mount, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&directory);
    }
    for path in cgroup::mount_point()
        .map(|point| abandoned(&point))
        .unwrap_or_default()
    {
        let _ = cgroup::remove(&path);
    }
}

/// Directories in `parent` whose name tells of a process that is gone.
fn abandoned(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let is_abandoned = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let pid = name.and_then(owner);
        pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    };
    entries
        .map(|entry| entry.path())
        .filter(is_abandoned)
        .collect()
}

/// The process in a name as [`name`] makes it.
fn owner(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix(PREFIX)?.rsplitn(3, '-');
    let (number, pid, purpose) = (parts.next()?, parts.next()?, parts.next()?);
    let _: u32 = number.parse().ok()?;
    (!purpose.is_empty()).then(|| pid.parse().ok())?
}

/// Ends agents whose settings are in `directory`.
fn end_agents(directory: &Path) {
    let settings = directory.join("agent.toml");
    let settings = settings.to_string_lossy();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|pid| pid.parse().ok());
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let is_agent = arguments
            .split(|byte| *byte == 0)
            .any(|argument| argument == settings.as_bytes());
        if let Some(pid) = pid.filter(|_| is_agent) {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_whose_they_are() {
        assert_eq!(owner(&name("a-test", 3)), Some(process::id()));
        for other in [
            "mesh-smoke",
            "mesh-7-3",
            "mesh--7-3",
            "x-a-7-3",
            "mesh-a-7-b",
            "mesh-a-b-3",
        ] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn only_what_is_nobodys_is_abandoned() {
        let parent = tempfile::tempdir().expect("a directory");
        let gone = parent.path().join(format!("mesh-a-{}-0", u32::MAX));
        for path in [
            parent.path().join(name("a", 0)),
            parent.path().join("mesh-x"),
            gone.clone(),
        ] {
            fs::create_dir(path).expect("made");
        }
        assert_eq!(abandoned(parent.path()), [gone]);
    }
}
