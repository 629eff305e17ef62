//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::output::Output;
use crate::commands::{ca, doctor, explain, flows, status, suggest, support, top};
use crate::config::DEFAULT_PATH;

/// A service mesh for edge Linux hosts: policy, identity and metrics at the socket.
///
/// Policy is TOML in a directory (default /etc/mesh/conf.d). The agent compiles it and puts it in
/// the kernel, where it stays in force without the agent.
///
/// Exit codes: 0 ok, 1 failed, 2 usage, 3 invalid configuration, 4 agent not reachable,
/// 5 denied or degraded.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the agent's own settings are.
#[derive(Clone, Debug, Args)]
pub struct ConfigArg {
    /// The node's settings; a missing default file is one without settings.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
}

/// The commands.
#[expect(
    missing_docs,
    reason = "the help of flattened fields is where they are declared"
)]
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent: enforce the policy, reload it when its files change, serve metrics.
    ///
    /// SIGHUP reloads. SIGTERM stops the agent; what it enforces stays in force (see unload).
    /// With systemd use Type=notify.
    Run {
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Put the policy in force and exit: at boot, before anything can dial.
    ///
    /// The files, or if they are broken the last good ones. An agent that is run later takes over.
    Load {
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Check configuration files: the agent's own parser and compiler, offline, without root.
    ///
    /// Prints every problem of every file at once. Exits with 3 if there are errors, and with 5 if
    /// flows that were recorded (--against) would get another verdict.
    Check {
        /// The directory; default: the one agent.toml names.
        directory: Option<PathBuf>,
        /// Tell what would change for these flows, as `mesh-agent flows -o jsonl` and the access log
        /// write them; - for standard input.
        #[arg(long, value_name = "FLOWS")]
        against: Option<PathBuf>,
        #[command(flatten)]
        config: ConfigArg,
        /// How the result is shown.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Tell which rule decides on a call, and why.
    ///
    /// From the files, or with --live from the policy the running agent enforces. Exits with 5
    /// if the call is denied.
    Explain {
        #[command(flatten)]
        args: explain::Args,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Show how the running agent is: what it enforces, since when, what it denied and lost.
    ///
    /// Exits with 4 if no agent answers, with 5 if something is wrong.
    Status {
        #[command(flatten)]
        args: status::Args,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Show the latest flows and denials of this host, or with -f those to come.
    ///
    /// The last line, on stderr, says how many were not shown or lost. Exits with 4 if no agent
    /// answers.
    Flows {
        #[command(flatten)]
        args: flows::Args,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Suggest rules for the calls of this host that no rule allows yet, as TOML.
    ///
    /// For a host that is migrated: under `default = "allow"` or audit rules the agent counts
    /// what would be denied. Print the rules, read them, put them beside the policy. Exits with 4
    /// if no agent answers.
    Suggest {
        #[command(flatten)]
        args: suggest::Args,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Show services and how they are, once a second: rate, success, latency, bytes, denials.
    ///
    /// What a service is called for, or what it calls if it is never called. Keys sort and quit; the last line
    /// tells them. Exits with 4 if no agent answers.
    Top {
        #[command(flatten)]
        args: top::Args,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Tell what this kernel and host can do, before anything is loaded.
    Doctor {
        #[command(flatten)]
        args: doctor::Args,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Gather what helps to find out what is wrong with this node, in one archive for root alone.
    ///
    /// Status, metrics, the latest flows and denials, what is pinned, what this host can do, and the
    /// agent's log; no keys, tokens or texts of the policy. Works without an agent, too.
    Support {
        #[command(flatten)]
        args: support::Args,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// An authority for the certificates of the mesh, for people who have none.
    ///
    /// A directory of files, offline: it needs no agent and no root. Keep it on a machine that is
    /// no node. Certificates of step-ca, cert-manager, Vault or SPIRE work just as well.
    Ca {
        #[command(subcommand)]
        command: ca::Command,
    },
    /// Look into network namespaces for the agent, which may not: it starts this itself, and answers it on
    /// standard input.
    #[command(hide = true)]
    Usher {
        /// Where a BPF file system may be mounted.
        #[arg(long)]
        bpffs: Option<PathBuf>,
    },
    /// End enforcement: remove every program and map of the mesh from the kernel.
    ///
    /// The only way it ends without a reboot. Stop the agent first.
    Unload {
        #[command(flatten)]
        config: ConfigArg,
    },
}
