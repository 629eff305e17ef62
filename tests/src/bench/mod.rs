//! The benchmarks: what the mesh costs, held against its targets.
//!
//! Costs are ratios: the variants take turns within each round, so what else the machine does
//! hits them alike, and rounds in which it did much are not counted.

mod apply;
mod connect;
mod host;
mod http;
mod lab;
mod memory;
mod nat;
mod policy;
mod programs;
mod report;
mod rounds;
mod scrape;
mod storm;
mod stream;
mod tunnel;
mod worker;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use nix::unistd::geteuid;

use self::report::Report;
use crate::interrupt::Interrupt;
use crate::netns;

/// Measure what the mesh costs on this host.
///
/// Runs in network namespaces and cgroup subtrees of its own and leaves nothing behind.
#[derive(Debug, Parser)]
#[command(name = "mesh-bench", args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    task: Option<Task>,
}

/// What needs options of its own.
#[derive(Debug, Subcommand)]
enum Task {
    /// mTLS from one host to another, beside other proxies that do it.
    Tunnel(tunnel::Options),
    /// Requests to nginx by wrk: exact counts, and what counting costs.
    Http(http::Options),
    #[command(flatten)]
    Role(worker::Role),
}

#[derive(Debug, clap::Args)]
struct Options {
    /// What to measure; everything if nothing is named.
    names: Vec<Measure>,
    /// How many quiet rounds count.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(3..=1000))]
    rounds: u32,
    /// Fewer and shorter rounds, to see that it works.
    #[arg(long)]
    quick: bool,
    /// Fail if a target is missed.
    #[arg(long)]
    check: bool,
}

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// New connections: through the mesh, without it, and through nft DNAT.
    Connect,
    /// New connections with 10, 1,000 and 10,000 services and up to 100,000 rules.
    Scale,
    /// Connections to what is not in the mesh.
    Outside,
    /// Bulk throughput and round trips on a connection.
    Stream,
    /// Putting a policy in force, and changing a rule of it.
    Apply,
    /// Memory of the agent and of its maps.
    Memory,
    /// A flood of denied calls.
    Storm,
    /// Metrics and documents about 1,000 services, and what asking does to their callers.
    Scrape,
    /// What each kernel program costs by the kernel's own account.
    Programs,
}

/// How long to measure, and what can end it.
#[derive(Clone, Copy, Debug)]
struct Effort<'a> {
    rounds: usize,
    /// Connections in a batch: less than a listen queue holds.
    batch: u32,
    quick: bool,
    interrupt: &'a Interrupt,
}

/// Measures, or is one of the processes that are measured; whether no target is missed, as far
/// as that is asked for.
///
/// # Errors
///
/// Something cannot be set up, or Ctrl-C.
pub fn run(cli: &Cli) -> Result<bool> {
    match &cli.task {
        Some(Task::Role(role)) => worker::run(role).map(|()| true),
        Some(Task::Http(options)) => http::measure(options),
        Some(Task::Tunnel(options)) => tunnel::measure(options).map(|()| true),
        None => measure(&cli.options),
    }
}

fn measure(options: &Options) -> Result<bool> {
    if !geteuid().is_root() {
        bail!("it loads programs into the kernel: run it as root");
    }
    let interrupt = Interrupt::catch()?;
    let effort = Effort {
        rounds: if options.quick {
            5
        } else {
            options.rounds as usize
        },
        batch: if options.quick { 500 } else { 2000 },
        quick: options.quick,
        interrupt: &interrupt,
    };
    netns::enter_new()?;
    host::forget_closed_connections()?;
    println!("{}", host::summary());
    let mut report = Report::default();
    let all = Measure::value_variants();
    let chosen = if options.names.is_empty() {
        all
    } else {
        &options.names
    };
    for measure in chosen {
        let measured = measure.run(&effort, &mut report);
        // Ctrl-C also ends the children, which is then what the error is about.
        if interrupt.happened() {
            bail!("interrupted; everything is taken down again");
        }
        measured?;
    }
    print!("{}", report.verdict());
    Ok(report.misses() == 0 || !options.check)
}

impl Measure {
    fn run(self, effort: &Effort<'_>, report: &mut Report) -> Result<()> {
        match self {
            Self::Connect => connect::with_and_without(effort, report),
            Self::Scale => connect::at_scale(effort, report),
            Self::Outside => connect::outside(effort, report),
            Self::Stream => stream::measure(effort, report),
            Self::Apply => apply::measure(effort, report),
            Self::Memory => memory::measure(report),
            Self::Storm => storm::measure(effort, report),
            Self::Scrape => scrape::measure(effort, report),
            Self::Programs => programs::measure(effort, report),
        }
    }
}
