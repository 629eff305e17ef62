//! Two hosts joined by a wire, with an agent each: network namespaces on one kernel.

use std::io;
use std::net::Ipv4Addr;

use anyhow::Result;

use crate::agent::{AgentProcess, command, log, metric};
use crate::authority::Authority;
use crate::netns::{Namespace, wire};
use crate::observe::{NOTICE, status, until};
use crate::peer::{Options, Peer};
use crate::sandbox::Sandbox;

/// Where the first host is.
pub const EDGE_1: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
/// Where the second host is.
pub const EDGE_2: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);

/// One of them.
#[derive(Debug)]
pub struct Host {
    /// The agent; `None` before it is started.
    pub agent: Option<AgentProcess>,
    /// Its place.
    pub sandbox: Sandbox,
    /// Its network.
    pub namespace: Namespace,
    /// Its name.
    pub name: &'static str,
}

impl Host {
    fn new(name: &'static str, address: Ipv4Addr) -> Result<Self> {
        let namespace = Namespace::new()?;
        let sandbox = namespace.run(|| Ok(Sandbox::for_node(name, address.into())?))?;
        Ok(Self {
            agent: None,
            sandbox,
            namespace,
            name,
        })
    }

    /// Writes its certificates, with serial numbers from `serial` on.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn certify(&self, authority: &Authority, names: &[&str], serial: u64) -> io::Result<()> {
        authority.write_bundle(&self.sandbox.path("tls"), self.name, names, serial)
    }

    /// Starts its agent and waits until it is ready.
    ///
    /// # Panics
    ///
    /// It does not become ready.
    pub fn start(&mut self) {
        let start = || Ok(AgentProcess::start_below(&self.sandbox)?);
        self.agent = Some(self.namespace.run(start).expect("the agent starts"));
    }

    /// Starts a process in a service's cgroup.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub fn peer(&self, cgroup: &str) -> Peer {
        let spawn = || Ok(Peer::spawn(&self.sandbox.cgroup, cgroup)?);
        self.namespace.run(spawn).expect("a peer")
    }

    /// The same in a network namespace of its own, as a container's is.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub fn container(&self, cgroup: &str) -> Peer {
        let options = Options {
            own_netns: true,
            ..Options::default()
        };
        let spawn = || {
            let path = self.sandbox.cgroup.child(cgroup)?;
            Ok(Peer::spawn_at(&path, options)?)
        };
        self.namespace.run(spawn).expect("a peer")
    }

    /// A metric of its agent.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        self.namespace
            .run(|| Ok(metric(&self.sandbox, name, labels)?))
    }

    /// Waits until a metric is as it should be.
    ///
    /// # Panics
    ///
    /// It is not in time.
    #[track_caller]
    pub fn counts(&self, name: &str, labels: &[(&str, &str)], right: impl Fn(f64) -> bool) {
        let what = format!("{name}{labels:?} on {}", self.name);
        until(NOTICE, &what, || {
            self.metric(name, labels).is_ok_and(&right)
        });
    }

    /// The latest denials, each as `reason source destination`.
    ///
    /// # Panics
    ///
    /// The agent does not answer.
    pub fn denials(&self) -> Vec<String> {
        let (_, document) = status(&self.sandbox).expect("status");
        let denials = document["denials"].as_array().cloned().unwrap_or_default();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        denials
            .iter()
            .map(|denial| {
                let (source, service) = (&denial["source_service"], &denial["destination_service"]);
                [text(&denial["reason"]), text(source), text(service)].join(" ")
            })
            .collect()
    }

    /// Flows that its agent remembers: what `mesh-agent flows` prints for `arguments`.
    ///
    /// # Panics
    ///
    /// It fails.
    #[track_caller]
    pub fn flows(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        let all = [&["flows", "-o", "jsonl"], arguments].concat();
        let output = command(&self.sandbox, &all).expect("started");
        assert!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout).expect("text");
        let flow = |line: &str| serde_json::from_str(line).expect("JSON");
        lines.lines().map(flow).collect()
    }

    /// What its agent has logged.
    pub fn log(&self) -> String {
        log(&self.sandbox)
    }

    /// Writes the policy.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn write_policy(&self, text: &str) -> io::Result<()> {
        self.sandbox.write_policy("10-shop.toml", text)
    }
}

/// The two, `edge-1` at [`EDGE_1`] and `edge-2` at [`EDGE_2`], without agents.
///
/// # Errors
///
/// This is not root, or `ip` fails.
pub fn two() -> Result<[Host; 2]> {
    let hosts = [Host::new("edge-1", EDGE_1)?, Host::new("edge-2", EDGE_2)?];
    let [one, other] = &hosts;
    wire([&one.namespace, &other.namespace], [EDGE_1, EDGE_2])?;
    Ok(hosts)
}
