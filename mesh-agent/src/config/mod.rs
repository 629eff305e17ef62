//! What this node is and where things are: `agent.toml`.
//!
//! Comes in: a path. Goes out: settings that need no further checks.

mod parse;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::identity::Identity;
use crate::policy::diagnostic::{Diagnostic, Label, Problems};
use crate::policy::parse::LocalNode;
use crate::policy::parse::document::{Document, Fields, unless_broken};
use crate::policy::source;

/// Where the file is if nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/mesh/agent.toml";

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// This node.
    pub node: NodeConfig,
    /// Files and directories.
    pub paths: Paths,
    /// Connections between nodes.
    pub tunnel: Tunnel,
    /// The administrative interface.
    pub admin: Admin,
    /// What is told of flows.
    pub flows: Flows,
    /// Where every flow is written to, if anywhere.
    pub access_log: AccessLog,
    /// Bounds on what the agent uses.
    pub limits: Limits,
    /// Kinds of sockets.
    pub sockets: Sockets,
    /// What is logged.
    pub log: Log,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name; the host's if the file has none.
    pub name: Arc<str>,
    /// Trust domain of the identities, such as `mesh.local`.
    pub trust_domain: Arc<str>,
    /// Where other nodes reach it.
    pub address: Option<IpAddr>,
}

/// Files and directories, all absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The mesh's configuration.
    pub config_dir: PathBuf,
    /// What outlives a boot.
    pub state_dir: PathBuf,
    /// The BPF file system.
    pub bpffs: PathBuf,
    /// The admin socket and the lock.
    pub run_dir: PathBuf,
    /// The cgroup the mesh is limited to; `None` for the root of cgroup2.
    pub cgroup_root: Option<PathBuf>,
}

/// Connections between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Where they are accepted.
    pub listen: SocketAddr,
    /// Directory of keys and certificates.
    pub certificates: PathBuf,
    /// How long flows may go on once the agent is told to stop.
    pub drain: Duration,
}

/// The administrative interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where HTTP is served.
    pub listen: SocketAddr,
    /// What it takes to ask there.
    pub access: Access,
}

/// What it takes to ask over TCP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The node that TLS is served as; `None` for no TLS.
    pub tls: Option<Identity>,
    /// File of the token that may be shown.
    pub token_file: Option<PathBuf>,
    /// Whose certificates may be shown.
    pub clients: Vec<Identity>,
}

impl Access {
    /// Whether anything has to be shown.
    pub fn is_restricted(&self) -> bool {
        self.token_file.is_some() || !self.clients.is_empty()
    }

    /// Whether it is fit for a network: encrypted, and not for everybody.
    pub fn is_safe(&self) -> bool {
        self.tls.is_some() && self.is_restricted()
    }
}

/// What is told of flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flows {
    /// How often open flows are looked at: their bytes in counters are that old at most.
    pub updates: Duration,
}

/// Where every flow is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// A file, one JSON object per line.
    pub file: Option<PathBuf>,
    /// The system's journal.
    pub journald: bool,
    /// Most records in a second, not 0.
    pub rate: u32,
}

impl AccessLog {
    /// Whether anything is written.
    pub fn is_on(&self) -> bool {
        self.file.is_some() || self.journald
    }
}

/// Bounds on what the agent uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory of the agent, its usher and its BPF maps together, bytes.
    pub memory: u64,
}

/// Kinds of sockets that services may make besides TCP and UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Bits of [`mesh_common::header_flag`], `ALLOW_*`.
    pub allowed: u32,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// By the agent.
    pub level: LogLevel,
    /// By the programs in the kernel.
    pub kernel: LogLevel,
}

/// How much is logged: this and everything more important.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What keeps the agent from doing its work.
    Error,
    /// What somebody should look at.
    Warn,
    /// What happens, seldom.
    Info,
    /// What helps to find a mistake.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The name in the file, which is also that of `tracing`'s level filters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl AgentConfig {
    /// Reads `path`. Without `must_exist`, a missing file is one without settings.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file.
    pub fn load(path: &Path, must_exist: bool) -> Result<Self, Vec<Diagnostic>> {
        unless_broken(Self::salvage(path, must_exist))
    }

    /// The same, but what can be understood of a file that something is wrong with, and defaults for the rest: to
    /// clean up, or to find out what is wrong. Nothing is to be enforced by it.
    pub fn salvage(path: &Path, must_exist: bool) -> (Self, Vec<Diagnostic>) {
        let name = path.display().to_string();
        let (text, problem) = match source::read_path(path) {
            Ok(None) if must_exist => (None, Some(missing(&name))),
            Ok(text) => (text, None),
            Err(problem) => (None, Some(problem)),
        };
        let (config, mut problems) = Self::understand(&name, &text.unwrap_or_default());
        problems.extend(problem);
        (config, problems)
    }

    /// Parses `text`, which is what the file `name` says.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self, Vec<Diagnostic>> {
        unless_broken(Self::understand(name, text))
    }

    /// What can be understood of `text`, and all that is wrong with it: nothing, or errors.
    fn understand(name: &str, text: &str) -> (Self, Vec<Diagnostic>) {
        let document = Document::new(name.into(), text);
        let (table, syntax) = document.recovered();
        let mut problems = Problems::default();
        let all = document.span(0..text.len());
        let config = parse::config(Fields::new(&table, all, "agent.toml", &mut problems));
        // What follows from a mistake of syntax is noise.
        let problems = if !syntax.is_empty() {
            syntax
        } else if problems.has_errors() {
            problems.into_sorted()
        } else {
            Vec::new()
        };
        (config, problems)
    }

    /// What the mesh's files need to know of this node.
    pub fn local_node(&self) -> LocalNode {
        LocalNode {
            name: Arc::clone(&self.node.name),
            address: self.node.address,
            trust_domain: Arc::clone(&self.node.trust_domain),
        }
    }
}

fn missing(name: &str) -> Diagnostic {
    Diagnostic::error("missing-file", "the configuration file does not exist")
        .label(Label::on_file(name, ""))
        .help("create it (an empty file is valid), or name another one by --config")
}
