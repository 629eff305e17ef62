//! Network namespaces.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::panic::resume_unwind;
use std::process::{self, Command};
use std::thread;

use anyhow::{Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

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

/// A network namespace, which lasts as long as this or a process in it does.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one with loopback up. The calling thread stays where it is.
    ///
    /// # Errors
    ///
    /// As for [`enter_new`].
    pub fn new() -> Result<Self> {
        let file = in_thread(|| {
            enter_new()?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        })?;
        Ok(Self { file })
    }

    /// Runs `body` in it. Processes it starts and sockets it makes stay in it.
    ///
    /// # Errors
    ///
    /// Those of `body`, or it cannot be entered.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            body()
        })
    }

    /// Another handle on the same one.
    ///
    /// # Errors
    ///
    /// There are no file descriptors left.
    pub fn share(&self) -> io::Result<Self> {
        let file = self.file.try_clone()?;
        Ok(Self { file })
    }

    /// How `ip` is told of it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd())
    }
}

/// Runs `body` in a thread of its own, which may change its namespace.
fn in_thread<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// Joins two namespaces by a pair of interfaces, `wire` in each, with these addresses in a /24.
///
/// # Errors
///
/// `ip` fails, with what it says.
pub fn wire(hosts: [&Namespace; 2], addresses: [Ipv4Addr; 2]) -> Result<()> {
    let other = hosts[1].path();
    let pair = format!("link add wire type veth peer name wire netns {other}");
    hosts[0].run(|| ip(&pair))?;
    for (host, address) in hosts.into_iter().zip(addresses) {
        host.run(|| {
            ip(&format!("address add {address}/24 dev wire"))?;
            ip("link set wire up")
        })?;
    }
    Ok(())
}

/// Runs `ip` with these arguments in the calling thread's namespace.
///
/// # Errors
///
/// It fails, with what it says.
pub fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("ip {arguments}: {}", errors.trim_end());
    }
    Ok(())
}
