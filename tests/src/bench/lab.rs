//! What is measured: pairs of a server and a client, with and without a mesh around them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::worker::READY;
use crate::{AgentProcess, Cgroup, Sandbox};

/// CPU of the clients.
const CLIENT_CPU: usize = 0;
/// CPU of the servers.
const SERVER_CPU: usize = 1;
/// Where servers without a mesh listen.
const PLAIN_PORT: u16 = 7001;

/// A child of this program that answers a line with a line.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn start(arguments: &[&str], cgroup: &Path, cpu: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .arg("--cgroup")
            .arg(cgroup)
            .args(["--cpu", &cpu.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut worker = Self {
            child,
            orders: stdin.context("no pipe")?,
            answers: BufReader::new(stdout.context("no pipe")?),
        };
        if worker.line()? != READY {
            bail!("{} does not start", arguments[0]);
        }
        Ok(worker)
    }

    /// A client in `cgroup`.
    pub(super) fn client(cgroup: &Path) -> Result<Self> {
        Self::start(&["client"], cgroup, CLIENT_CPU)
    }

    fn server(cgroup: &Path, port: u16) -> Result<Self> {
        Self::start(&["server", "--port", &port.to_string()], cgroup, SERVER_CPU)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Gives an order; how long it took and how many were done.
    pub(super) fn order(&mut self, verb: &str, to: &[SocketAddr], amount: u64) -> Result<Done> {
        let to: Vec<String> = to.iter().map(ToString::to_string).collect();
        writeln!(self.orders, "{verb} {} {amount}", to.join(","))?;
        let answer = self.line()?;
        let (took, count) = answer
            .split_once(' ')
            .with_context(|| format!("the client failed at {verb} {}", to.join(",")))?;
        Ok(Done {
            took: Duration::from_nanos(took.parse()?),
            count: count.parse()?,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came of an order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) took: Duration,
    pub(super) count: u64,
}

impl Done {
    /// Nanoseconds for one.
    pub(super) fn each(&self) -> f64 {
        self.took.as_nanos() as f64 / self.count.max(1) as f64
    }
}

/// Where the four services of a server are dialled.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    pub(super) close: Vec<SocketAddr>,
    pub(super) echo: SocketAddr,
    pub(super) swallow: SocketAddr,
}

impl Addresses {
    /// Those of a server at `port`, one by one.
    pub(super) fn direct(port: u16) -> Self {
        let at = |offset: u16| SocketAddr::from(([127, 0, 0, 1], port + offset));
        Self {
            close: vec![at(0), at(1)],
            echo: at(2),
            swallow: at(3),
        }
    }

    /// The VIPs of `policy.rs`.
    pub(super) fn vips() -> Self {
        let vip = |last| SocketAddr::from(([10, 96, 0, last], 80));
        Self {
            close: vec![vip(10)],
            echo: vip(11),
            swallow: vip(12),
        }
    }
}

/// A server and a client that no mesh knows. Processes go before their cgroup.
#[derive(Debug)]
pub(super) struct Plain {
    server: Worker,
    pub(super) client: Worker,
    pub(super) addresses: Addresses,
    _cgroup: Cgroup,
}

impl Plain {
    /// In the calling thread's network namespace.
    pub(super) fn new() -> Result<Self> {
        let cgroup = Cgroup::new("bench-plain")?;
        Ok(Self {
            server: Worker::server(&cgroup.child("server")?, PLAIN_PORT)?,
            client: Worker::client(&cgroup.child("client")?)?,
            addresses: Addresses::direct(PLAIN_PORT),
            _cgroup: cgroup,
        })
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        vec![self.server.pid(), self.client.pid()]
    }
}

/// A mesh with a server and a client in it. Processes go before their cgroups.
#[derive(Debug)]
pub(super) struct Meshed {
    server: Worker,
    pub(super) client: Worker,
    agent: AgentProcess,
    pub(super) addresses: Addresses,
    pub(super) sandbox: Sandbox,
}

impl Meshed {
    /// With `files` as its policy and a server at `port`.
    pub(super) fn new(port: u16, files: &[(String, String)]) -> Result<Self> {
        let sandbox = Sandbox::new("bench")?;
        // Large policies are measured, too.
        sandbox.limit_memory("4GiB")?;
        for (name, text) in files {
            sandbox.write_policy(name, text)?;
        }
        let agent = AgentProcess::start(&sandbox).context("the agent does not start")?;
        let unit = |name: &str| {
            sandbox
                .cgroup
                .child(&format!("system.slice/{name}.service"))
        };
        Ok(Self {
            server: Worker::server(&unit("payments-v1")?, port)?,
            client: Worker::client(&unit("checkout")?)?,
            addresses: Addresses::vips(),
            agent,
            sandbox,
        })
    }

    /// A client of this mesh in the unit `name`.
    pub(super) fn client_in(&self, name: &str) -> Result<Worker> {
        let unit = format!("system.slice/{name}.service");
        Worker::client(&self.sandbox.cgroup.child(&unit)?)
    }

    pub(super) fn agent_pid(&self) -> u32 {
        self.agent.pid()
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        vec![self.server.pid(), self.client.pid(), self.agent.pid()]
    }
}
