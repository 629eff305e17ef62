//! Network namespaces of the calling thread.

use std::io;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Moves the calling thread into a new network namespace with loopback up. Processes and
/// threads it starts from now on are in it; it ends with the last of them.
///
/// # Errors
///
/// This is not root, or `ip` (Debian package iproute2) is missing.
pub fn enter_new() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other("ip link set lo up failed"))
    }
}
