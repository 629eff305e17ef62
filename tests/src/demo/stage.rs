//! The stage: sandbox, agent, services. Dropping it takes all of it down.

use std::fmt;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::calls::Calls;
use super::serve::READY;
use super::{Options, POLICY, POLICY_FILE, VIP};
use crate::sandbox::free_port;
use crate::{AgentProcess, Sandbox, agent, netns};

/// Where the agent serves HTTP if nobody else does there.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15020);

/// See the module. Processes go first, then what they use.
#[derive(Debug)]
pub(super) struct Stage {
    _services: Vec<Service>,
    _agent: AgentProcess,
    pub(super) sandbox: Sandbox,
    endpoints: Vec<SocketAddr>,
    own_netns: bool,
}

impl Stage {
    pub(super) fn set_up(options: &Options) -> Result<Self> {
        let own_netns = !options.keep;
        if own_netns {
            netns::enter_new().context("cannot make a network namespace")?;
        }
        let endpoints: Vec<SocketAddr> = options
            .ports
            .iter()
            .map(|port| (Ipv4Addr::LOCALHOST, *port).into())
            .collect();
        endpoints.iter().try_for_each(must_be_free)?;
        let admin = if TcpListener::bind(ADMIN).is_ok() {
            ADMIN
        } else {
            free_port()?
        };
        let sandbox = Sandbox::with_admin("demo", admin).context("cannot make a sandbox")?;
        sandbox.write_policy(POLICY_FILE, &policy(&endpoints))?;
        let agent = AgentProcess::start(&sandbox).context("the agent does not start")?;
        let versions = ["v1", "v2"].iter().zip(&endpoints);
        let services = versions
            .map(|(version, listen)| Service::start(&sandbox, version, *listen))
            .collect::<Result<_>>()?;
        Ok(Self {
            _services: services,
            _agent: agent,
            sandbox,
            endpoints,
            own_netns,
        })
    }

    /// Where an instance of payments listens.
    pub(super) fn endpoint(&self, number: usize) -> SocketAddr {
        self.endpoints[number]
    }

    /// Lets the service `name` send `count` requests.
    pub(super) fn call(&self, name: &str, to: &str, count: u64) -> Result<Calls> {
        call(&self.sandbox, name, to, count)
    }

    /// Whether nobody else uses this network namespace.
    pub(super) fn own_netns(&self) -> bool {
        self.own_netns
    }

    /// Packets that loopback has carried so far.
    pub(super) fn loopback_packets(&self) -> Result<u64> {
        // Of this thread's network namespace.
        let devices = fs::read_to_string("/proc/thread-self/net/dev")?;
        let line = devices
            .lines()
            .find_map(|line| line.trim().strip_prefix("lo:"));
        let packets = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(packets.context("there is no loopback")?.parse()?)
    }

    /// What a command of the agent prints as JSON.
    pub(super) fn ask(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let output = agent::command(&self.sandbox, arguments)?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            let problem = String::from_utf8_lossy(&output.stderr);
            format!("mesh-agent {}: {problem}", arguments.join(" "))
        })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = if self.own_netns {
            "a network namespace of its own"
        } else {
            "the host's network namespace"
        };
        writeln!(
            f,
            "\nagent      {network}, cgroup {}",
            self.sandbox.cgroup.path().display()
        )?;
        writeln!(f, "policy     examples/conf.d/{POLICY_FILE}")?;
        writeln!(
            f,
            "payments   {VIP} -> payments-v1.service {}, payments-v2.service {}\n",
            self.endpoints[0], self.endpoints[1]
        )
    }
}

/// The example, with the endpoints where they are this time.
fn policy(endpoints: &[SocketAddr]) -> String {
    let mut policy = POLICY.to_owned();
    for (written, endpoint) in ["\"127.0.0.1:8081\"", "\"127.0.0.1:8082\""]
        .iter()
        .zip(endpoints)
    {
        policy = policy.replace(written, &format!("\"{endpoint}\""));
    }
    policy
}

fn must_be_free(address: &SocketAddr) -> Result<()> {
    TcpListener::bind(address).map(drop).with_context(|| {
        format!(
            "cannot listen on {address}: choose other ports, such as --ports 18081,18082, \
             or leave out --keep, to use a network namespace where all are free"
        )
    })
}

fn unit(sandbox: &Sandbox, name: &str) -> io::Result<PathBuf> {
    sandbox
        .cgroup
        .child(&format!("system.slice/{name}.service"))
}

/// Lets the service `name` of a sandbox send `count` requests, in the calling thread's network
/// namespace.
pub(super) fn call(sandbox: &Sandbox, name: &str, to: &str, count: u64) -> Result<Calls> {
    let output = child("call")?
        .arg("--cgroup")
        .arg(unit(sandbox, name)?)
        .args(["--name", name, "--to", to, "--count", &count.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("{name}: {}", output.status);
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{name}: no result"))
}

/// This program as a child.
fn child(role: &str) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(role).stdin(Stdio::null());
    Ok(command)
}

/// A running instance of payments.
#[derive(Debug)]
pub(super) struct Service(Child);

impl Service {
    /// Starts `version` in the calling thread's network namespace.
    pub(super) fn start(sandbox: &Sandbox, version: &str, listen: SocketAddr) -> Result<Self> {
        let name = format!("payments-{version}");
        let child = child("serve")?
            .arg("--cgroup")
            .arg(unit(sandbox, &name)?)
            .args(["--name", "payments", "--version", version])
            .args(["--listen", &listen.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut service = Self(child);
        let stdout = service.0.stdout.take().context("no pipe")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim_end() != READY {
            bail!("{name} does not start");
        }
        Ok(service)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
