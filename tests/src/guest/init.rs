//! Process 1: mounts what a system has, starts the plan, reaps, switches the machine off.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;
use rustix::system::{RebootCommand, reboot};

/// File systems: type and place.
const MOUNTS: [(&str, &str); 8] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
];

/// Runs until the plan is done, then switches the machine off.
pub(super) fn run() -> Result<()> {
    if let Err(error) = work() {
        eprintln!("guest: {error:#}");
    }
    rustix::fs::sync();
    reboot(RebootCommand::PowerOff).context("cannot switch the machine off")
}

fn work() -> Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place)?;
        let flags = MsFlags::empty();
        match mount(Some(kind), place, Some(kind), flags, None::<&str>) {
            // Who found the disk has needed it, too.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot mount {place}")),
        }
    }
    let child = Command::new("/proc/self/exe")
        .env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin")
        .spawn()
        .context("cannot start the plan")?;
    reap_until(Pid::from_raw(child.id() as i32))
}

/// Takes over orphans, as the first process must, until `last` has ended.
fn reap_until(last: Pid) -> Result<()> {
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) if pid == last => {
                return Ok(());
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes the machine look like one whose kernel tells nothing of its types.
pub(super) fn hide_btf() -> io::Result<()> {
    const BTF: &str = "/sys/kernel/btf";
    if Path::new(BTF).exists() {
        let flags = MsFlags::empty();
        mount(Some("tmpfs"), BTF, Some("tmpfs"), flags, None::<&str>)?;
    }
    Ok(())
}
