//! `ca`: an authority for people who have none, in a directory, offline.

mod authority;
mod bundle;
mod directory;
mod error;
mod files;
mod index;
mod issue;
mod list;
mod names;
mod revoke;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};

use self::error::CaError;
use super::output::Output;
use crate::policy::model::ServiceName;

/// Where the authority is.
#[derive(Clone, Debug, Args)]
pub struct DirArg {
    /// The authority's directory: its keys, and what it has issued. Keep it off the nodes.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// What the authority is to do.
#[expect(
    missing_docs,
    reason = "the help of flattened fields is where they are declared"
)]
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Make an authority, or with --rotate the next root of one.
    ///
    /// The next root stands beside the old one, which vouches for it, so nodes that do not have
    /// it yet believe what it issues. Renew the bundles of all nodes, then remove the old root's
    /// root-N.* files.
    Init {
        #[command(flatten)]
        at: DirArg,
        #[command(flatten)]
        args: InitArgs,
    },
    /// Issue what a node needs to a directory that is copied to its /etc/mesh/tls.
    ///
    /// A certificate with a new key for each service placed on the node, one for the node
    /// itself, the roots, and the revocation list. The directory is replaced as a whole.
    Issue {
        #[command(flatten)]
        at: DirArg,
        #[command(flatten)]
        args: IssueArgs,
    },
    /// Renew what a bundle holds: the same names, new keys. Brings roots and the revocation list
    /// up to date.
    Renew {
        #[command(flatten)]
        at: DirArg,
        #[command(flatten)]
        args: RenewArgs,
    },
    /// Revoke certificates, and sign the revocation list anew.
    ///
    /// Copy DIR/ca.crl to /etc/mesh/tls of every node: connections are cut within a second.
    Revoke {
        #[command(flatten)]
        at: DirArg,
        #[command(flatten)]
        args: RevokeArgs,
    },
    /// Sign the revocation list anew, before it goes out of date.
    Crl {
        #[command(flatten)]
        at: DirArg,
        #[command(flatten)]
        next: CrlArg,
    },
    /// List what was issued.
    List {
        #[command(flatten)]
        at: DirArg,
        /// What to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// Of `ca init`.
#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    /// The trust domain of the identities, as in `node.trust_domain` of agent.toml.
    #[arg(long, value_name = "NAME", value_parser = names::trust_domain)]
    #[arg(required_unless_present = "rotate", conflicts_with = "rotate")]
    pub trust_domain: Option<Arc<str>>,
    /// How long the root is valid.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=30))]
    pub years: u32,
    /// Make the next root of an authority that exists.
    #[arg(long)]
    pub rotate: bool,
}

/// Of `ca issue`.
#[derive(Clone, Debug, Args)]
pub struct IssueArgs {
    /// The node.
    #[arg(long, value_name = "NAME", value_parser = names::node)]
    pub node: Arc<str>,
    /// The policy, which says what is placed on the node: services with an endpoint there, and
    /// services that only call.
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
    /// A service, as namespace/name; may be repeated.
    #[arg(long = "service", value_name = "SERVICE", value_parser = names::service)]
    pub services: Vec<ServiceName>,
    /// Where the bundle is written.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is where it is declared")]
    pub validity: ValidityArg,
}

/// Of `ca renew`.
#[derive(Clone, Debug, Args)]
pub struct RenewArgs {
    /// The bundle, as `ca issue` wrote it.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Renew what expires within so many days.
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub within: u32,
    /// Renew everything.
    #[arg(long, conflicts_with = "within")]
    pub all: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is where it is declared")]
    pub validity: ValidityArg,
}

/// Of `ca issue` and `ca renew`.
#[derive(Clone, Copy, Debug, Args)]
pub struct ValidityArg {
    /// How long the certificates are valid.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is where it is declared")]
    pub next: CrlArg,
}

/// Of `ca revoke`.
#[derive(Clone, Debug, Args)]
#[group(id = "what", required = true, multiple = true)]
pub struct RevokeArgs {
    /// The certificate with this serial number, as openssl and `ca list` show it.
    #[arg(long, value_name = "HEX", group = "what", value_parser = names::serial)]
    #[arg(conflicts_with_all = ["node", "service"])]
    pub serial: Option<crate::identity::Serial>,
    /// Everything that was issued for a node.
    #[arg(long, value_name = "NAME", group = "what", value_parser = names::node)]
    pub node: Option<Arc<str>>,
    /// Everything that was issued to a service; with --node on that node.
    #[arg(long, value_name = "SERVICE", group = "what", value_parser = names::service)]
    pub service: Option<ServiceName>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its help is where it is declared")]
    pub next: CrlArg,
}

/// When the next revocation list is due.
#[derive(Clone, Copy, Debug, Args)]
pub struct CrlArg {
    /// In how many days the next revocation list is due; nodes warn from then on.
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub crl_days: u32,
}

/// Does it, and returns the exit code: 0, 1 if it failed, 3 if the policy is invalid.
pub fn run(command: &Command, color: bool) -> u8 {
    match perform(command) {
        Ok(text) => {
            super::output::print(&text);
            0
        }
        Err(error) => {
            eprint!("{}", error.render(color));
            error.exit_code()
        }
    }
}

/// What is to be said about it.
fn perform(command: &Command) -> Result<String, CaError> {
    match command {
        Command::Init { at, args } => authority::init(&at.dir, args),
        Command::Issue { at, args } => issue::issue(&at.dir, args),
        Command::Renew { at, args } => issue::renew(&at.dir, args),
        Command::Revoke { at, args } => revoke::revoke(&at.dir, args),
        Command::Crl { at, next } => revoke::sign_again(&at.dir, *next),
        Command::List { at, output } => list::list(&at.dir, *output),
    }
}
