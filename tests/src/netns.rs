//! Network namespaces of the calling thread.

use std::io;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use crate::host::{has_ipv6, sh};

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

/// Joins the calling thread's network namespace and that of the process `pid` by a pair of
/// interfaces: `10.88.0.1/24` and, where there is IPv6, `fd88::1/64` here, `.2` and `::2` there.
///
/// # Panics
///
/// `ip` fails.
pub fn join(pid: u32) {
    let inside = |command: &str| sh(&format!("nsenter --net=/proc/{pid}/ns/net {command}"));
    sh(&format!(
        "ip link add mesh0 type veth peer name eth0 netns {pid}"
    ));
    sh("ip address add 10.88.0.1/24 dev mesh0");
    if has_ipv6() {
        sh("ip address add fd88::1/64 dev mesh0 nodad");
    }
    sh("ip link set mesh0 up");
    inside("ip address add 10.88.0.2/24 dev eth0");
    if has_ipv6() {
        inside("ip address add fd88::2/64 dev eth0 nodad");
    }
    inside("ip link set eth0 up");
}
