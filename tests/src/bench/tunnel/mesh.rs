//! The mesh itself: a node on each host, with an agent. The client is a service of the near one,
//! the servers are a service of the far one, and the client dials its VIP.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::contestant::{Contestant, Ports, Target};
use super::site::{self, Process, Side, Site};
use super::table::Kind;
use crate::authority::Authority;
use crate::netns::Namespace;
use crate::{AgentProcess, Sandbox, agent};

/// What clients dial.
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Port of the VIP for each of the servers.
const DIALLED: [u16; 2] = [80, 5201];

/// See the module. Processes go first, then what they use.
#[derive(Debug)]
pub(super) struct Mesh {
    servers: Vec<Process>,
    near: Node,
    far: Node,
    client: PathBuf,
    /// Of the calls so far, how many found a connection ready, and how many did not.
    told: Cell<[f64; 2]>,
}

/// A host's part.
#[derive(Debug)]
struct Node {
    agent: AgentProcess,
    sandbox: Sandbox,
    host: Namespace,
}

impl Mesh {
    /// Starts both agents, then the servers: on the far host's loopback, at the ports of `ports`
    /// that others have for TLS.
    pub(super) fn start(site: &Site, ports: Ports) -> Result<Self> {
        let authority = Authority::new("bench root")?;
        let near = Node::start(site, Side::Near, &authority, ports)?;
        let far = Node::start(site, Side::Far, &authority, ports)?;
        let mut mesh = Self {
            servers: Vec::new(),
            client: near.service("checkout")?,
            near,
            far,
            told: Cell::default(),
        };
        for target in Target::ALL {
            let name = format!("mesh-{target:?}").to_lowercase();
            let cgroup = mesh.far.service("payments")?.join(&name);
            let command = site.server(&name, target, server(ports, target))?;
            let process = site.start_in(Side::Far, cgroup, &name, &command)?;
            mesh.servers.push(process);
        }
        Ok(mesh)
    }

    /// Calls that found a connection ready, and those that did not.
    fn pool(&self) -> Result<[f64; 2]> {
        let of = |result| {
            self.near
                .metric("mesh_tunnel_pool_requests_total", &[("result", result)])
        };
        Ok([of("hit")?, of("miss")?])
    }
}

impl Contestant for Mesh {
    fn name(&self) -> &str {
        "mesh"
    }

    fn kind(&self) -> Kind {
        Kind::Mesh
    }

    fn endpoint(&self, target: Target) -> SocketAddr {
        (VIP, DIALLED[target as usize]).into()
    }

    fn client(&self) -> &Path {
        &self.client
    }

    fn servers(&self) -> Vec<PathBuf> {
        let cgroup = |server: &Process| server.cgroup.clone();
        self.servers.iter().map(cgroup).collect()
    }

    fn elsewhere(&self) -> Vec<PathBuf> {
        let cgroup = |node: &Node| node.sandbox.cgroup.path().to_owned();
        [&self.near, &self.far].map(cgroup).to_vec()
    }

    fn proxies(&self) -> Vec<PathBuf> {
        let cgroup = |node: &Node| node.sandbox.cgroup.path().join(AgentProcess::CGROUP);
        [&self.near, &self.far].map(cgroup).to_vec()
    }

    fn expect_alive(&mut self) -> Result<()> {
        for node in [&mut self.near, &mut self.far] {
            let ended = node.agent.ended()?;
            ensure!(ended.is_none(), "{}", agent::log(&node.sandbox));
        }
        self.servers.iter_mut().try_for_each(Process::expect_alive)
    }

    /// That calls go by the tunnel.
    fn proof(&self, _: &Site) -> Result<String> {
        let [hits, misses] = self.pool()?;
        ensure!(hits + misses > 0.0, "no call went by the tunnel");
        let role = [("role", "server"), ("outcome", "ok")];
        let shaken = self.far.metric("mesh_tls_handshakes_total", &role)?;
        ensure!(shaken > 0.0, "the far agent made no handshake");
        Ok(format!("mesh/1, {shaken:.0} handshakes so far"))
    }

    fn remark(&self) -> Result<Option<String>> {
        let now = self.pool()?;
        let before = self.told.replace(now);
        let [hits, misses] = [now[0] - before[0], now[1] - before[1]];
        let share = 100.0 * hits / (hits + misses);
        Ok((hits + misses > 0.0).then(|| {
            format!(
                "{share:.2} % of {:.0} calls found a connection ready",
                hits + misses
            )
        }))
    }
}

impl Node {
    fn start(site: &Site, side: Side, authority: &Authority, ports: Ports) -> Result<Self> {
        let (name, services, address) = match side {
            Side::Near => ("edge-1", ["shop/checkout", "node edge-1"], site::NEAR),
            Side::Far => ("edge-2", ["shop/payments", "node edge-2"], site::FAR),
        };
        let host = site.host(side).share()?;
        let started = host.run(|| {
            let sandbox = Sandbox::for_node(name, IpAddr::V4(address))?;
            sandbox.write_policy("10-bench.toml", &policy(ports))?;
            let serial = 1 + 10 * side as u64;
            authority.write_bundle(&sandbox.path("tls"), name, &services, serial)?;
            let agent = AgentProcess::start_below(&sandbox)?;
            Ok((sandbox, agent))
        });
        let (sandbox, agent) = started.with_context(|| format!("the agent of {name}"))?;
        Ok(Self {
            agent,
            sandbox,
            host,
        })
    }

    /// Cgroup of a service on it.
    fn service(&self, name: &str) -> Result<PathBuf> {
        let unit = format!("system.slice/{name}.service");
        Ok(self.sandbox.cgroup.child(&unit)?)
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        self.host
            .run(|| Ok(agent::metric(&self.sandbox, name, labels)?))
    }
}

/// Where a server listens.
fn server(ports: Ports, target: Target) -> SocketAddr {
    site::local(ports.tls(target).port())
}

/// The same on both nodes.
fn policy(ports: Ports) -> String {
    let [http, bulk] = Target::ALL.map(|target| server(ports, target));
    let [http_port, bulk_port] = DIALLED;
    let (near, far) = (site::NEAR, site::FAR);
    format!(
        r#"
[[node]]
name = "edge-1"
address = "{near}"

[[node]]
name = "edge-2"
address = "{far}"

[[service]]
name = "checkout"
namespace = "shop"
workload = {{ systemd = "checkout.service" }}

[[service]]
name = "payments"
namespace = "shop"
vip = "{VIP}"
ports = [{{ name = "http", listen = {http_port} }}, {{ name = "bulk", listen = {bulk_port} }}]
workload = {{ systemd = "payments.service" }}
endpoints = [
  {{ address = "{http}", port = "http", node = "edge-2" }},
  {{ address = "{bulk}", port = "bulk", node = "edge-2" }},
]

[[allow]]
name = "checkout-pays"
from = ["shop/checkout"]
to = ["shop/payments"]
"#
    )
}
