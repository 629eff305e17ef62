//! A test's host: what it needs, a sandbox, a network namespace and a time limit.

use std::any::Any;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::unistd::Uid;

use crate::cgroup;
use crate::netns;
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
        // The test harness swallows what `eprintln` prints.
        let _ = writeln!(io::stderr(), "SKIPPED: {missing}");
        return;
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
    let result = match end.recv_timeout(limit) {
        Err(RecvTimeoutError::Timeout) => {
            // Whoever waits for one of these processes no longer does, and cleans up.
            watched.try_iter().for_each(|cgroup| kill_all(&cgroup));
            let _ = end.recv_timeout(GRACE);
            panic!("not done after {limit:?}");
        }
        other => other,
    };
    if let Ok(Err(panic)) = result {
        resume_unwind(panic);
    }
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
