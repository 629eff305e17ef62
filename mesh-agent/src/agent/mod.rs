//! The running agent: reloads the policy when the files change and answers what is asked of it.
//!
//! Comes in: settings, changed files, records. Goes out: a policy in force, snapshots, log
//! lines.

mod denials;
mod loaded;
mod names;
mod saved;
mod view;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use self::denials::Denials;
use self::loaded::{Loaded, render};
use self::names::Names;
use self::saved::Saved;
pub use self::watch::run_watch;
use crate::admin::{Rejected, Reloaded};
use crate::config::AgentConfig;
use crate::dataplane::{Dataplane, DataplaneError, Options, Reader, Touched};
use crate::policy::diagnostic::Diagnostic;
use crate::policy::ids::Ids;
use crate::policy::model::Policy;
use crate::policy::parse::LocalNode;

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel side.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The files are broken, and there is no earlier policy to enforce.
    #[error("the configuration is invalid and no earlier policy is known")]
    Configuration(Vec<Diagnostic>),
    /// A thread or a watch.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The agent.
pub struct Agent {
    config: AgentConfig,
    started: Instant,
    dataplane: Mutex<Dataplane>,
    state: Mutex<State>,
    denials: Mutex<Denials>,
    ready: std::sync::atomic::AtomicBool,
}

/// What the agent knows of its policy.
struct State {
    ids: Ids,
    current: Option<Arc<Current>>,
    rejected: Option<RejectedSet>,
    reloads_ok: u64,
    reloads_rejected: u64,
}

/// The policy in force.
struct Current {
    policy: Policy,
    names: Names,
    digest: String,
    files: Vec<String>,
    revision: u64,
    applied: SystemTime,
    took: Duration,
}

/// A set of files that was not applied.
struct RejectedSet {
    when: SystemTime,
    digest_of_problem: String,
}

/// Locks; a panic of another thread while it held the lock leaves data that is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
