//! The demo: an agent with the example policy, real services, real calls, and what came of them.
//!
//! Everything it prints is taken from what happened: the callers' own counts, the agent's status
//! and its metrics. What differs from the policy is said, and makes it fail.

mod calls;
mod findings;
mod hints;
mod hosts;
mod serve;
mod stage;
mod web;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use nix::unistd::geteuid;

use self::calls::Calls;
use self::findings::Findings;
use self::stage::Stage;
use crate::interrupt::Interrupt;

/// The policy the README shows.
const POLICY: &str = include_str!("../../../examples/conf.d/10-shop.toml");
/// Its name as a file.
const POLICY_FILE: &str = "10-shop.toml";
/// What clients of payments dial.
const VIP: &str = "10.96.0.10:80";
/// Calls by somebody whom no rule allows, to the VIP and around it.
const INTRUSIONS: u64 = 3;

/// See the mesh at work: an agent, three services and one intruder, on this host.
///
/// Runs in a network namespace and a cgroup subtree of its own and leaves nothing behind.
#[derive(Debug, Parser)]
#[command(name = "mesh-demo", args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Args)]
struct Options {
    /// Leave everything up until Ctrl-C, in the host's network namespace, to try things out.
    #[arg(long)]
    keep: bool,
    /// Two hosts with an agent each, where v2 of payments is on the other one.
    #[arg(long, conflicts_with_all = ["keep", "ports"])]
    two_hosts: bool,
    /// nginx as payments and wrk as checkout: a million requests on a hundred connections, and what
    /// the mesh has counted of them held against what wrk has.
    #[arg(long, conflicts_with_all = ["two_hosts", "ports"])]
    web: bool,
    /// How many requests checkout sends: 1000, each over a connection of its own, or with --web
    /// 1000000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    requests: Option<u64>,
    /// Where payments v1 and v2 listen on 127.0.0.1.
    #[arg(long, value_name = "V1,V2", default_value = "8081,8082", value_parser = ports)]
    ports: [u16; 2],
}

impl Options {
    fn requests(&self) -> u64 {
        self.requests
            .unwrap_or(if self.web { 1_000_000 } else { 1000 })
    }
}

fn ports(text: &str) -> Result<[u16; 2], String> {
    let ports: Option<Vec<u16>> = text.split(',').map(|port| port.parse().ok()).collect();
    let pair = ports.and_then(|ports| <[u16; 2]>::try_from(ports).ok());
    pair.filter(|[one, two]| one != two && *one > 0 && *two > 0)
        .ok_or_else(|| "two different ports are needed, such as 18081,18082".into())
}

/// What this program does as a child of itself.
#[derive(Debug, Subcommand)]
enum Role {
    /// Serve HTTP.
    #[command(hide = true)]
    Serve(serve::Args),
    /// Send HTTP requests.
    #[command(hide = true)]
    Call(calls::Args),
}

/// A process of the demo, as its command line says it.
#[derive(Debug, Args)]
struct Identity {
    /// The cgroup it moves itself into.
    #[arg(long)]
    cgroup: PathBuf,
    /// What it calls itself.
    #[arg(long)]
    name: String,
}

/// Runs the demo, or one of the processes in it; whether all went as the policy says.
///
/// # Errors
///
/// Something cannot be set up, or Ctrl-C.
pub fn run(cli: &Cli) -> Result<bool> {
    match &cli.role {
        Some(Role::Serve(args)) => serve::run(args).map(|()| true),
        Some(Role::Call(args)) => calls::run(args).map(|()| true),
        None => show(&cli.options),
    }
}

fn show(options: &Options) -> Result<bool> {
    if !geteuid().is_root() {
        bail!("it loads programs into the kernel: run it as root");
    }
    let interrupt = Interrupt::catch()?;
    let as_expected = if options.two_hosts {
        hosts::perform(options.requests())
    } else if options.web {
        web::perform(options, &interrupt)
    } else {
        perform(options, &interrupt)
    };
    if interrupt.happened() && !options.keep {
        bail!("interrupted; everything is taken down again");
    }
    as_expected
}

fn perform(options: &Options, interrupt: &Interrupt) -> Result<bool> {
    let stage = Stage::set_up(options)?;
    print!("{stage}");
    let paying = stage.call("checkout", VIP, options.requests())?;
    let packets = stage.loopback_packets()?;
    let intruding = stage.call("intruder", VIP, INTRUSIONS)?;
    let around = stage.call("intruder", &stage.endpoint(0).to_string(), INTRUSIONS)?;
    let findings = Findings::collect(
        &stage,
        Traffic {
            requests: options.requests(),
            paying,
            intruding,
            around,
            around_to: stage.endpoint(0),
            packets: stage.loopback_packets()? - packets,
        },
    )?;
    print!("{findings}");
    if options.keep && !interrupt.happened() {
        print!("{}", hints::text(&stage));
        interrupt.wait();
        println!("\ntaking everything down");
    }
    Ok(findings.as_expected())
}

/// What was called, and what came of it.
#[derive(Debug)]
struct Traffic {
    requests: u64,
    paying: Calls,
    intruding: Calls,
    around: Calls,
    around_to: SocketAddr,
    /// Packets on loopback while the intruder called.
    packets: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_two() {
        let parse = |ports: &str| Cli::try_parse_from(["mesh-demo", "--ports", ports]);
        let options = parse("18081,18082").expect("two ports").options;
        assert_eq!(options.ports, [18081, 18082]);
        for wrong in ["18081", "1,2,3", "a,b", "7,7", "0,1", ""] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
