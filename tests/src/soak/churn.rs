//! What changes around the calls: the policy and the agent.

use std::fs;
use std::io;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::{POLICY, Progress};
use crate::AgentProcess;
use crate::sandbox::Sandbox;

/// Between two reloads.
const PAUSE: Duration = Duration::from_millis(300);
/// How often the agent is restarted at least.
const RESTARTS: u64 = 8;
/// Reloads between two restarts of the agent.
const RELOADS_PER_LIFE: u64 = 25;

/// Writes the policy in one of its forms, which agree on who may call whom.
pub(super) fn write_policy(sandbox: &Sandbox, form: u64) -> io::Result<()> {
    let v1 = 50 + form % 50;
    let more = match form % 3 {
        0 => "",
        1 => "[[deny]]\nname = \"never\"\nfrom = [\"dev/*\"]\nto = [\"shop/*\"]\n",
        _ => {
            "[[service]]\nname = \"later\"\nnamespace = \"shop\"\nvip = \"10.96.0.77\"\n\
             ports = [{ name = \"tcp\", listen = 80 }]\n\
             endpoints = [{ address = \"127.0.0.1:8099\", version = \"v1\" }]\n"
        }
    };
    let policy = POLICY
        .replace("%V1%", &v1.to_string())
        .replace("%V2%", &(100 - v1).to_string())
        .replace("%MORE%", more);
    sandbox.write_policy("10-soak.toml", &policy)
}

/// Changes things, and remembers what the agent weighed.
pub(super) struct Churn<'s> {
    sandbox: &'s Sandbox,
    agent: Option<AgentProcess>,
    pub(super) reloads: u64,
    pub(super) restarts: u64,
    /// Resident bytes at the end of each life of the agent.
    pub(super) memory: Vec<u64>,
}

impl<'s> Churn<'s> {
    pub(super) fn new(sandbox: &'s Sandbox, agent: AgentProcess) -> Self {
        Self {
            sandbox,
            agent: Some(agent),
            reloads: 0,
            restarts: 0,
            memory: Vec::new(),
        }
    }

    /// Goes on until `attempts` calls are made.
    pub(super) fn run(&mut self, progress: &Progress, attempts: u64) -> Result<()> {
        let made = || progress.attempts.load(std::sync::atomic::Ordering::Relaxed);
        while made() < attempts || self.restarts < RESTARTS {
            sleep(PAUSE);
            self.reloads += 1;
            write_policy(self.sandbox, self.reloads)?;
            let agent = self.agent.as_ref().context("an agent")?;
            agent.signal(Signal::SIGHUP)?;
            if self.reloads.is_multiple_of(RELOADS_PER_LIFE) {
                self.restart()?;
            }
        }
        self.weigh()
    }

    fn restart(&mut self) -> Result<()> {
        self.weigh()?;
        let agent = self.agent.take().context("an agent")?;
        if self.restarts.is_multiple_of(2) {
            agent.kill()?;
        } else {
            agent.signal(Signal::SIGTERM)?;
            agent.wait()?;
        }
        self.restarts += 1;
        self.agent = Some(AgentProcess::start(self.sandbox)?);
        Ok(())
    }

    fn weigh(&mut self) -> Result<()> {
        let pid = self.agent.as_ref().context("an agent")?.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.context("no VmRSS")?.parse()?;
        self.memory.push(kib * 1024);
        Ok(())
    }

    pub(super) fn memory_in_words(&self) -> String {
        let mib = |bytes: &u64| format!("{:.1}", *bytes as f64 / f64::from(1 << 20));
        self.memory.iter().map(mib).collect::<Vec<_>>().join(" ")
    }
}
