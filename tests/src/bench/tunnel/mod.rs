//! mTLS from one host to another: what it costs, beside others that do it.
//!
//! An application on the near host dials a proxy on its loopback, that proxy dials the one on the
//! far host with TLS, and that one dials the server on its own loopback. Contestants take turns
//! within each round; CPU time is that of a cgroup for each proxy.

mod certificates;
mod contestant;
mod envoy;
mod idle;
mod load;
mod mesh;
mod peers;
mod proof;
mod rounds;
mod sample;
mod site;
mod table;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use nix::unistd::geteuid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::contestant::{Contestant, Direct, Ports, await_ready};
use self::load::Load;
use self::peers::Peer;
use self::site::Site;
use super::host;
use crate::interrupt::Interrupt;

/// Open files that a proxy needs at least.
const FILES: u64 = 20_000;

/// Options of `tunnel`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// How many quiet rounds count.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each contestant is under load in a round.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// What to measure, separated by commas; everything if not given.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Which proxies to measure, separated by commas; all there are if not given.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Peer>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One and eight streams.
    Bulk,
    /// Requests on one and on 64 connections.
    Keepalive,
    /// A connection for each request, 64 at a time.
    Close,
    /// Idle connections, and what a load leaves behind.
    Memory,
}

impl Part {
    fn loads(self) -> &'static [Load] {
        match self {
            Self::Bulk => &[Load::Bulk(1), Load::Bulk(8)],
            Self::Keepalive => &[Load::KeepAlive(1), Load::KeepAlive(64)],
            Self::Close => &[Load::Close(64)],
            Self::Memory => &[],
        }
    }
}

/// What all parts of a run share.
struct Contest<'a> {
    site: &'a Site,
    peers: Vec<Peer>,
    rounds: usize,
    seconds: u32,
    interrupt: &'a Interrupt,
}

/// Measures and prints.
///
/// # Errors
///
/// Something cannot be set up, or Ctrl-C.
pub(super) fn measure(options: &Options) -> Result<()> {
    if !geteuid().is_root() {
        bail!("it makes network namespaces and cgroups: run it as root");
    }
    let interrupt = Interrupt::catch()?;
    raise_file_limit()?;
    println!("{}", host::summary());
    let site = Site::new()?;
    let contest = Contest {
        site: &site,
        peers: available(&options.peers),
        rounds: options.rounds as usize,
        seconds: options.seconds,
        interrupt: &interrupt,
    };
    let measured = contest.run(&options.only);
    // Ctrl-C also ends the children, which is then what the error is about.
    if interrupt.happened() {
        bail!("interrupted; everything is taken down again");
    }
    measured
}

/// Lets every process have as many open files as the system grants; proxies have two sockets for
/// each connection.
fn raise_file_limit() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if maximum.is_some_and(|maximum| maximum < FILES) {
        bail!("proxies need {FILES} open files: raise the hard limit (ulimit -H -n)");
    }
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}

/// Those of the chosen that are on this machine; says which are not.
fn available(chosen: &[Peer]) -> Vec<Peer> {
    let chosen = if chosen.is_empty() {
        Peer::value_variants()
    } else {
        chosen
    };
    let is_there = |peer: &&Peer| {
        let missing = peer.missing();
        if let Some(why) = &missing {
            println!("without {}: {why}", peer.name());
        }
        missing.is_none()
    };
    chosen.iter().filter(is_there).copied().collect()
}

impl Contest<'_> {
    fn run(&self, only: &[Part]) -> Result<()> {
        let parts = if only.is_empty() {
            Part::value_variants()
        } else {
            only
        };
        let loads: Vec<Load> = parts
            .iter()
            .flat_map(|part| part.loads())
            .copied()
            .collect();
        if !loads.is_empty() {
            let mut contestants: Vec<Box<dyn Contestant>> = vec![Box::new(Direct::new(self.site))];
            contestants.extend(self.start_pairs()?);
            for load in loads {
                rounds::compare(self, &contestants, load)?;
            }
        }
        if parts.contains(&Part::Memory) {
            idle::measure(self)?;
        }
        Ok(())
    }

    /// Starts a pair of each peer and sees that it is what it should be.
    fn start_pairs(&self) -> Result<Vec<Box<dyn Contestant>>> {
        println!("\nanswers whoever has a certificate, by TLS 1.3, and nobody else");
        let mut pairs: Vec<Box<dyn Contestant>> = Vec::new();
        for (number, peer) in self.peers.iter().enumerate() {
            self.go_on()?;
            let started = || -> Result<_> {
                let mut pair = peer.start(self.site, Ports::of(number))?;
                await_ready(self.site, pair.as_mut())?;
                println!("  {}: {}", pair.name(), pair.proof(self.site)?);
                Ok(pair)
            };
            let pair = started().with_context(|| format!("no pair of {}", peer.name()))?;
            pairs.push(pair);
        }
        Ok(pairs)
    }

    /// Fails after Ctrl-C.
    fn go_on(&self) -> Result<()> {
        if self.interrupt.happened() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Waits, unless Ctrl-C comes.
    fn wait(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.go_on()?;
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}
