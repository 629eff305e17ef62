//! A soak: a million and more calls, allowed and denied, over TCP and UDP, while the policy is
//! reloaded, the agent is killed and started, and cgroups come and go. In the end no verdict was
//! wrong, no map holds what nobody needs, and the agent's memory has not grown.

mod callers;
mod churn;
mod leaks;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use nix::unistd::geteuid;

use self::callers::Caller;
use self::churn::Churn;
use crate::sandbox::Sandbox;
use crate::{AgentProcess, Peer, netns};

/// Call right and wrong, over and over, while everything around changes.
///
/// Runs in a network namespace and a cgroup subtree of its own and leaves nothing behind.
#[derive(Debug, Parser)]
#[command(name = "mesh-soak")]
pub struct Cli {
    /// How many calls at least.
    #[arg(long, default_value_t = 1_000_000)]
    attempts: u64,
}

/// The policy; `%V1%, %V2% and %MORE%` is what changes.
const POLICY: &str = r#"
[mesh]
default = "deny"

[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout*.service" }

[[service]]
name = "intruder"
namespace = "dev"
workload = { systemd = "intruder*.service" }

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "tcp", listen = 80 }, { name = "udp", listen = 53, protocol = "udp" }]
workload = { systemd = "payments.service" }
affinity = "none"
endpoints = [
  { address = "127.0.0.1:8081", port = "tcp", version = "v1" },
  { address = "127.0.0.1:8082", port = "tcp", version = "v2" },
  { address = "127.0.0.1:8053", port = "udp", version = "v1" },
]

[[split]]
service = "shop/payments"
weights = { v1 = %V1%, v2 = %V2% }

[[allow]]
name = "checkout-pays"
from = ["shop/checkout"]
to = ["shop/payments"]
%MORE%"#;

/// What all threads share.
#[derive(Debug, Default)]
struct Progress {
    attempts: AtomicU64,
    wrong: AtomicU64,
    done: AtomicBool,
}

impl Progress {
    fn done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    fn made(&self, attempts: u64) {
        self.attempts.fetch_add(attempts, Ordering::Relaxed);
    }

    fn wrong(&self, what: &str) {
        if self.wrong.fetch_add(1, Ordering::Relaxed) < 20 {
            eprintln!("WRONG: {what}");
        }
    }
}

/// Soaks; whether nothing was wrong.
///
/// # Errors
///
/// Something cannot be set up.
pub fn run(cli: &Cli) -> Result<bool> {
    if !geteuid().is_root() {
        bail!("it loads programs into the kernel: run it as root");
    }
    netns::enter_new()?;
    let sandbox = Sandbox::new("soak")?;
    churn::write_policy(&sandbox, 0)?;
    let mut server = Peer::spawn(&sandbox.cgroup, "system.slice/payments.service")?;
    server.serve_tcp("127.0.0.1:8081", "v1")?;
    server.serve_tcp("127.0.0.1:8082", "v2")?;
    server.serve_udp("127.0.0.1:8053", "v1")?;
    let agent = AgentProcess::start(&sandbox).context("the agent does not start")?;
    let callers = Caller::all(&sandbox)?;
    let progress = Progress::default();
    let started = Instant::now();
    let mut churn = Churn::new(&sandbox, agent);
    thread::scope(|scope| {
        let threads: Vec<_> = callers
            .into_iter()
            .map(|caller| scope.spawn(|| caller.call_until_done(&progress)))
            .collect();
        let fresh = scope.spawn(|| callers::fresh_cgroups(&sandbox, &progress));
        let churned = churn.run(&progress, cli.attempts);
        progress.done.store(true, Ordering::Relaxed);
        for thread in threads.into_iter().chain([fresh]) {
            thread.join().expect("no panic")?;
        }
        churned
    })?;
    report(&progress, &churn, started.elapsed());
    let leaks = leaks::find(&sandbox, &churn)?;
    for leak in &leaks {
        println!("  LEFT OVER  {leak}");
    }
    Ok(progress.wrong.load(Ordering::Relaxed) == 0 && leaks.is_empty())
}

fn report(progress: &Progress, churn: &Churn<'_>, took: Duration) {
    println!(
        "{} calls in {:.0} s, {} wrong",
        progress.attempts.load(Ordering::Relaxed),
        took.as_secs_f64(),
        progress.wrong.load(Ordering::Relaxed)
    );
    println!(
        "{} reloads, {} restarts of the agent; its memory, MiB: {}",
        churn.reloads,
        churn.restarts,
        churn.memory_in_words()
    );
}
