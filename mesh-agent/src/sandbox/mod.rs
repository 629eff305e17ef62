//! What the agent can no longer do once it has started: layers that each hold by themselves.
//!
//! Entered by the one thread there is, after everything is loaded and opened, so that every later thread
//! is inside. There is no way to turn it off. Capabilities and system calls are always limited; files are where the
//! kernel has Landlock.

mod calls;
mod files;
mod rights;

use std::fs;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::set_no_new_privs;

pub use self::files::Files;

/// How long threads that have ended may still be told of.
const GONE: Duration = Duration::from_secs(1);

/// Which layers hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Capabilities that are left, by name.
    pub capabilities: Vec<&'static str>,
    /// Whether system calls are filtered.
    pub system_calls: bool,
    /// Version of the kernel's Landlock interface that is used; `None` if files are not limited.
    pub landlock: Option<u32>,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Threads that are there already would stay outside.
    #[error("there are threads already")]
    Threads,
    /// The kernel refuses.
    #[error("cannot limit {what}: {error}")]
    Kernel {
        /// What.
        what: &'static str,
        /// What it said.
        error: io::Error,
    },
}

/// Confines this process to `files` and all threads it will have.
///
/// # Errors
///
/// There are other threads, or the kernel refuses something other than Landlock.
pub fn enter(files: &Files) -> Result<Sandbox, SandboxError> {
    alone()?;
    let capabilities = rights::keep(rights::AGENT).map_err(refused("capabilities"))?;
    common()?;
    let landlock = files::limit(files)?;
    calls::filter(calls::Whose::Agent).map_err(refused("system calls"))?;
    Ok(Sandbox {
        capabilities,
        system_calls: true,
        landlock,
    })
}

/// Confines the usher. Not its files: see [`crate::dataplane::usher`]. It can open them for reading only.
///
/// # Errors
///
/// As [`enter`].
pub fn enter_as_usher() -> Result<(), SandboxError> {
    alone()?;
    rights::keep(rights::USHER).map_err(refused("capabilities"))?;
    common()?;
    calls::filter(calls::Whose::Usher).map_err(refused("system calls"))
}

/// Nothing that is executed has more rights, and memory, with its keys, goes to nobody.
fn common() -> Result<(), SandboxError> {
    set_no_new_privs(true).map_err(|error| refused("new privileges")(error.into()))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| refused("core dumps")(error.into()))
}

/// A thread that has been joined is told of a moment longer: the kernel wakes whoever waits for it before it is gone.
fn alone() -> Result<(), SandboxError> {
    let until = Instant::now() + GONE;
    loop {
        match fs::read_dir("/proc/self/task").map(Iterator::count) {
            Ok(1) => return Ok(()),
            Ok(_) if Instant::now() < until => sleep(Duration::from_millis(1)),
            Ok(_) => return Err(SandboxError::Threads),
            Err(error) => return Err(refused("threads")(error)),
        }
    }
}

fn refused(what: &'static str) -> impl FnOnce(io::Error) -> SandboxError {
    move |error| SandboxError::Kernel { what, error }
}
