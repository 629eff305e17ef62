//! The admin server: requests come in, a [`Source`] answers them.
//!
//! Two listeners share one router. TCP has what Prometheus, probes and the page need, without TLS on
//! loopback only;
//! the unix socket, for root and the agent's own user, also has the status and the reload. Both
//! run on a thread of their own, so that a slow or hostile client costs nothing but this thread,
//! and every dimension is bounded: connections, header size, time, scrapes at a time.

mod access;
mod bind;
mod client;
mod guard;
mod limits;
mod metrics;
mod observatory;
mod page;
mod peer;
mod query;
mod routes;
mod scrape;
mod server;
mod single;
mod token;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Access;
use crate::identity::Bundle;
use crate::policy::source::SourceSet;
use crate::telemetry::declared::Declared;
use crate::telemetry::flows::{FlowQuery, FlowsDocument};
use crate::telemetry::observed::Observed;
use crate::telemetry::registry::{Build, DEFAULT_SERIES};
use crate::telemetry::snapshot::Snapshot;
use crate::telemetry::status::Status;

pub use bind::BindError;
pub use client::{ClientError, Response, request};
pub use server::{Running, Server};
pub use token::TokenProblem;

/// Name of the unix socket in `paths.run_dir`.
pub const SOCKET: &str = "admin.sock";

/// Where the answers come from. Called from the server's threads, one call of each method at a
/// time; none may block for long, and a panic in one costs only the request.
pub trait Source: Send + Sync + 'static {
    /// What is measured now.
    fn snapshot(&self) -> Snapshot;

    /// How the agent is now.
    fn status(&self) -> Status;

    /// What is still missing until the agent enforces its policy; empty means ready.
    fn readiness(&self) -> Vec<String>;

    /// The files of the policy in force; `None` if it is not this agent's.
    fn policy(&self) -> Option<Arc<SourceSet>>;

    /// The flows that `query` asks for.
    fn flows(&self, query: &FlowQuery) -> FlowsDocument;

    /// The services of the policy in force; none if it is not this agent's.
    fn declared(&self) -> Vec<Declared>;

    /// The certificates of this node; `None` while there are none.
    fn certificates(&self) -> Option<Arc<Bundle>>;

    /// What was decided so far.
    fn observed(&self) -> Observed;

    /// Reads the policy files again and applies them.
    fn reload(&self) -> Result<Reloaded, Rejected>;
}

/// A policy that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Its number.
    pub revision: u64,
    /// Its digest.
    pub digest: String,
}

/// A policy that was not applied; the one before it stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// What is wrong with it, as `mesh-agent check` says it.
    pub diagnostics: String,
}

/// What the server needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// `admin.listen`; `None` for no TCP at all.
    pub listen: Option<SocketAddr>,
    /// What it takes to ask over TCP.
    pub access: Access,
    /// `paths.run_dir`: the unix socket goes there. It must exist.
    pub run_dir: Option<PathBuf>,
    /// Names of this node: browsers may call it by these, by an address and as `localhost`.
    pub names: Vec<Arc<str>>,
    /// How many label sets of each kind metrics show on their own.
    pub series: usize,
    /// What `mesh_build_info` says.
    pub build: Build,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 15020))),
            access: Access::default(),
            run_dir: Some("/run/mesh".into()),
            names: Vec::new(),
            series: DEFAULT_SERIES,
            build: Build::CURRENT,
        }
    }
}

#[cfg(test)]
mod tests;
