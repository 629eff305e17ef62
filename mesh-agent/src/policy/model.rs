//! The policy as people mean it: names, addresses and rules that cannot be wrong.
//!
//! Comes in from `parse` (files) or from tests; goes out to `compile` (kernel entries) and
//! `eval` (the reference evaluator). Everything here is already resolved: every service a rule
//! or a split names exists, every endpoint has a port and a place, every service that is
//! called has its VIP.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

/// Where in the files something stands; lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// File name within the configuration directory, such as `10-shop.toml`.
    pub file: Arc<str>,
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// `namespace/name` of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name in it.
    pub name: Arc<str>,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What happens to a flow that no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// It is denied.
    Deny,
    /// It goes on, counted as one that would be denied.
    Allow,
}

/// All the files together.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What happens to a flow that no rule matches.
    pub default: DefaultAction,
    /// Where the default was set; `None` for the built-in one.
    pub default_place: Option<Place>,
    /// Nodes of the mesh, with this one.
    pub nodes: Vec<Node>,
    /// Services by name.
    pub services: BTreeMap<ServiceName, Service>,
    /// Splits in file order; a service has at most one for everyone.
    pub splits: Vec<Split>,
    /// Rules in file order (file names in lexical order, then lines).
    pub rules: Vec<Arc<Rule>>,
}

/// A host that runs the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Where other nodes reach it.
    pub address: IpAddr,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Where it is declared.
    pub place: Place,
    /// What clients dial; `None` for one without ports, which only calls.
    pub vip: Option<IpAddr>,
    /// What it listens on.
    pub ports: Vec<Port>,
    /// The local processes that are it.
    pub workload: Option<Workload>,
    /// Where `workload` is declared, or `place`.
    pub workload_place: Place,
    /// Whether its calls may leave the mesh without a rule.
    pub egress: Egress,
    /// How long one caller keeps its endpoint; `None` without affinity.
    pub affinity: Option<Duration>,
    /// What becomes of flows to an endpoint that new calls no longer get.
    pub on_weight_change: OnWeightChange,
    /// How other nodes reach it.
    pub tls: Tls,
    /// Where it really listens. Sorted as declared.
    pub endpoints: Vec<Endpoint>,
}

/// A port of a service's VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: Arc<str>,
    /// The port clients dial, not 0.
    pub listen: u16,
    /// What is spoken.
    pub protocol: Protocol,
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, bytes.
    Tcp,
    /// UDP.
    Udp,
    /// HTTP over TCP.
    Http,
    /// gRPC over TCP.
    Grpc,
}

impl Protocol {
    /// The IP protocol number that carries it.
    pub fn ip_protocol(self) -> u8 {
        match self {
            Self::Udp => mesh_common::IPPROTO_UDP,
            Self::Tcp | Self::Http | Self::Grpc => mesh_common::IPPROTO_TCP,
        }
    }
}

/// Which local processes are a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Those of the system's systemd units that match: `*` and `?`, such as `payments-*.service`.
    Systemd(Arc<str>),
    /// Those in matching cgroups and below: a path from the root of the hierarchy.
    Cgroup(Arc<str>),
    /// Those of a user, where no cgroup says otherwise.
    Uid(u32),
}

/// Whether calls may leave the mesh without a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// They may.
    Allow,
    /// Only where an `[[allow]]` names the address.
    Deny,
}

/// How other nodes reach a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// By mTLS only: what comes from a node's address in clear is refused, whatever a rule says of
    /// the address.
    #[default]
    Strict,
    /// By mTLS, or in clear where a rule names the address: while nodes are being brought in.
    Permissive,
}

/// What becomes of established flows to an endpoint that was removed or whose version's weight
/// became 0. The verdict on a flow comes first: one that is no longer allowed is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnWeightChange {
    /// They go on.
    #[default]
    Keep,
    /// They go on for a while; what is left then is closed.
    Drain {
        /// For how long.
        timeout: Duration,
        /// Most that are closed in a second, not 0.
        rate: u32,
    },
    /// They are closed.
    Close {
        /// Most in a second, not 0.
        rate: u32,
    },
}

/// An instance of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens, on its own node.
    pub address: SocketAddr,
    /// Index into the service's ports.
    pub port: usize,
    /// Its version label.
    pub version: Arc<str>,
    /// Its share among the endpoints of its version, not 0.
    pub weight: u32,
    /// Which host it is on.
    pub location: Location,
    /// Where it is declared.
    pub place: Place,
}

/// Which host an endpoint is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// This one.
    Local,
    /// Another node of the mesh.
    Node(Arc<str>),
    /// A host outside the mesh.
    External,
}

/// Weights of a service's versions.
#[derive(Clone, Debug)]
pub struct Split {
    /// Whose versions.
    pub service: ServiceName,
    /// For which callers; empty means everyone. Only `Service`, `Namespace` and `Host`.
    pub from: Vec<Source>,
    /// Weight of each version, in the versions' lexical order; at least one is not 0.
    pub weights: Vec<(Arc<str>, u32)>,
    /// Where it is declared.
    pub place: Place,
}

/// Whether a rule lets flows through or refuses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `[[allow]]`.
    Allow,
    /// `[[deny]]`.
    Deny,
}

/// Whether a rule acts or only counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It acts.
    Enforce,
    /// It never is the cause of a denial; flows that it matches are counted as `would-deny`.
    Audit,
}

/// An `[[allow]]` or `[[deny]]`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name, unique among all rules.
    pub name: Arc<str>,
    /// What it does.
    pub action: Action,
    /// Whether it acts.
    pub mode: Mode,
    /// Callers.
    pub from: Vec<Source>,
    /// What is called.
    pub to: Vec<Target>,
    /// Ports; empty means all.
    pub ports: Vec<PortMatch>,
    /// Where it is declared.
    pub place: Place,
}

/// A caller, or many.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A service.
    Service(ServiceName),
    /// Every service of a namespace; it may have none yet.
    Namespace(Arc<str>),
    /// Every local process, of a service or not.
    Any,
    /// Local processes of no service.
    Host,
    /// Clients outside the mesh, by address.
    Cidr(IpNet),
    /// Processes of no service on another node.
    Node(Arc<str>),
}

/// What is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A service.
    Service(ServiceName),
    /// Every service of a namespace.
    Namespace(Arc<str>),
    /// Addresses outside the mesh, for callers with `egress = "deny"`.
    Cidr(IpNet),
}

/// A port of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortMatch {
    /// Ports of that name.
    Name(Arc<str>),
    /// The port of that number, as clients dial it.
    Number(u16),
}

impl PortMatch {
    /// Whether this names `port`.
    pub fn matches(&self, port: &Port) -> bool {
        match self {
            Self::Name(name) => port.name == *name,
            Self::Number(number) => port.listen == *number,
        }
    }
}
