//! A test's host: what it needs, a sandbox, a network namespace and a time limit.

use std::any::Any;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::unistd::Uid;

use crate::cgroup;
use crate::netns;
use crate::patience::scaled;
use crate::sandbox::Sandbox;

/// How long a test may take that says nothing else.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How long its end may take after that.
const GRACE: Duration = Duration::from_secs(20);

/// Runs a test on a host of its own, for at most [`LIMIT`].
///
/// # Panics
///
/// The test fails. If the system lacks what it needs it says `SKIPPED` and passes.
pub fn run(purpose: &str, body: impl FnOnce(&Sandbox) + Send + 'static) {
    run_for(LIMIT, purpose, body);
}

/// Runs a test on a host of its own, for at most `limit`.
///
/// # Panics
///
/// As [`run`].
pub fn run_for(limit: Duration, purpose: &str, body: impl FnOnce(&Sandbox) + Send + 'static) {
    if let Some(missing) = missing() {
        return skip(missing);
    }
    let purpose = purpose.to_owned();
    let (to_watch, watched) = channel::<PathBuf>();
    let (done, end) = channel::<Result<(), Box<dyn Any + Send>>>();
    thread::spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(|| {
            netns::enter_new().expect("a network namespace");
            let sandbox = Sandbox::new(&purpose).expect("a sandbox");
            let _ = to_watch.send(sandbox.cgroup.path().to_owned());
            body(&sandbox);
        }));
        let _ = done.send(result);
    });
    let result = match end.recv_timeout(scaled(limit)) {
        Err(RecvTimeoutError::Timeout) => {
            // Whoever waits for one of these processes no longer does, and cleans up.
            watched.try_iter().for_each(|cgroup| kill_all(&cgroup));
            let _ = end.recv_timeout(scaled(GRACE));
            panic!("not done after {limit:?}");
        }
        other => other,
    };
    if let Ok(Err(panic)) = result {
        resume_unwind(panic);
    }
}

/// Runs a test that makes no sense without IPv6.
///
/// # Panics
///
/// As [`run`].
pub fn run_with_ipv6(purpose: &str, body: impl FnOnce(&Sandbox) + Send + 'static) {
    if has_ipv6() {
        run(purpose, body);
    } else {
        skip("needs IPv6");
    }
}

/// Whether sockets can be IPv6: an administrator may have disabled it when the kernel started.
pub fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// Whether a socket can be made for an address. Rows of tables it cannot be made for are left out.
pub fn can_dial(address: &SocketAddr) -> bool {
    address.is_ipv4() || has_ipv6()
}

/// A port at every address of the host.
pub fn anywhere(port: u16) -> String {
    let address = if has_ipv6() { "[::]" } else { "0.0.0.0" };
    format!("{address}:{port}")
}

/// Gives the calling thread's network namespace an address, if it can have one of the family.
///
/// # Panics
///
/// The kernel refuses.
pub fn add_address(address: IpAddr) {
    match address {
        IpAddr::V4(_) => sh(&format!("ip address add {address}/32 dev lo")),
        IpAddr::V6(_) if has_ipv6() => sh(&format!("ip address add {address}/128 dev lo nodad")),
        IpAddr::V6(_) => {}
    }
}

/// Says why a test is not run. The test harness swallows what `eprintln` prints.
fn skip(why: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED: {why}");
}

/// Why tests that need the kernel cannot run here.
pub fn missing() -> Option<&'static str> {
    if !Uid::effective().is_root() {
        return Some("needs root");
    }
    if cgroup::mount_point().is_err() {
        return Some("needs a mounted cgroup2");
    }
    if Command::new("ip").arg("-V").output().is_err() {
        return Some("needs ip (Debian package iproute2)");
    }
    None
}

/// Runs a command in the calling thread's network namespace.
///
/// # Panics
///
/// It cannot be run or fails.
pub fn sh(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status();
    assert!(status.is_ok_and(|status| status.success()), "{command}");
}

fn kill_all(cgroup: &Path) {
    // Gone already, or on a kernel before 5.14; then the test ends by its other limits.
    let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
}
