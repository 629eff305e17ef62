//! The policy as sorted map entries. Pure: no file descriptor, no clock, no I/O.
//!
//! Comes in: the model and the id table. Goes out: what every policy map has to hold. A
//! wildcard costs one entry for each name it covers on the called side and one in all on the
//! calling side, never one for each pair.

mod destinations;
mod egress;
mod prefixes;
mod rules;
mod selectors;
mod sources;
mod splits;

use std::collections::HashMap;
use std::net::IpAddr;

use mesh_common::{
    Address, Destination, EndpointEntry, IPPROTO_UDP, PrefixKey, RuleKey, RuleSlots, ScheduleSlot,
    Selector, SocketKey, Split, SplitKey, Subject, SubjectInfo, destination_flag, header_flag,
    subject_flag,
};

use super::ids::Ids;
use super::model::{
    Egress, Endpoint, Location, Node, Policy, Port, Service, ServiceName, Source, Workload,
};

/// What the policy maps hold, each sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// What an address and port mean.
    pub destinations: Vec<(SocketKey, Destination)>,
    /// Rules by caller and frontend.
    pub rules: Vec<(RuleKey, RuleSlots)>,
    /// Namespaces and flags of calling services.
    pub subjects: Vec<(u32, SubjectInfo)>,
    /// Services selected by uid.
    pub uids: Vec<(u32, u32)>,
    /// Splits by caller and frontend.
    pub splits: Vec<(SplitKey, Split)>,
    /// Tables of the splits.
    pub schedule: Vec<ScheduleSlot>,
    /// Endpoints the tables point at.
    pub endpoints: Vec<EndpointEntry>,
    /// Addresses outside the mesh, by prefix length in bits and key.
    pub egress: Vec<((u32, PrefixKey), RuleSlots)>,
    /// Clients outside the mesh, by prefix length in bits and key, which holds the frontend.
    pub sources: Vec<((u32, PrefixKey), RuleSlots)>,
    /// Which cgroups are which service.
    pub selectors: Vec<Selector>,
    /// [`header_flag`] bits.
    pub header_flags: u32,
}

impl Entries {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.destinations.len()
            + self.rules.len()
            + self.subjects.len()
            + self.uids.len()
            + self.splits.len()
            + self.schedule.len()
            + self.endpoints.len()
            + self.egress.len()
            + self.sources.len()
            + self.selectors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Compiles `policy`, giving out ids for names that have none.
pub fn compile(policy: &Policy, ids: &mut Ids) -> Entries {
    let services = services(policy, ids);
    let splits = splits::tables(policy, &services, ids);
    let rules = rules::entries(policy, &services, ids);
    let sources = sources::entries(policy, &services, ids);
    let destinations = destinations::entries(policy, &services, &rules, &sources, ids);
    Entries {
        header_flags: header_flags(policy, &destinations),
        destinations,
        rules,
        subjects: subjects(policy, &services, ids),
        uids: uids(policy, ids),
        splits: splits.splits,
        schedule: splits.schedule,
        endpoints: splits.endpoints,
        egress: egress::entries(policy, ids),
        sources,
        selectors: selectors::entries(policy, ids),
    }
}

/// A service and the ids of what it is.
struct Numbered<'p> {
    service: &'p Service,
    subject: u32,
    namespace: u32,
    /// Ids of its ports, in their order.
    frontends: Vec<u32>,
}

/// Every service by name.
type Services<'p> = HashMap<&'p ServiceName, Numbered<'p>, foldhash::fast::RandomState>;

fn services<'p>(policy: &'p Policy, ids: &mut Ids) -> Services<'p> {
    let mut number = |service: &'p Service| Numbered {
        service,
        subject: ids.subjects.id(&service.name.to_string()),
        namespace: ids.subjects.id(&namespace_name(&service.name.namespace)),
        frontends: service
            .ports
            .iter()
            .map(|port| ids.frontends.id(&frontend_name(service, port)))
            .collect(),
    };
    policy
        .services
        .values()
        .map(|service| (&service.name, number(service)))
        .collect()
}

/// The name a port of a service has in the id table.
pub fn frontend_name(service: &Service, port: &Port) -> String {
    let protocol = if port.protocol.ip_protocol() == IPPROTO_UDP {
        "udp"
    } else {
        "tcp"
    };
    format!("{}:{}/{protocol}", service.name, port.listen)
}

/// The name a namespace has in the id table.
pub fn namespace_name(namespace: &str) -> String {
    format!("{namespace}/*")
}

/// The name another node has in the id table; no service is named like it.
pub fn node_name(node: &str) -> String {
    format!("node {node}")
}

/// The id of an endpoint on another node, 0 for others.
fn target_id(service: &Service, endpoint: &Endpoint, ids: &mut Ids) -> u32 {
    let port = service.ports.get(endpoint.port);
    match (&endpoint.location, port) {
        (Location::Node(node), Some(port)) => {
            let frontend = frontend_name(service, port);
            ids.targets.id(&target_name(&frontend, endpoint, node))
        }
        _ => 0,
    }
}

/// The name an endpoint on another node has in the id table.
pub fn target_name(frontend: &str, endpoint: &Endpoint, node: &str) -> String {
    format!("{frontend} {}@{node}", endpoint.address)
}

/// The id of a caller that is known by more than its address.
fn subject(source: &Source, services: &Services<'_>, ids: &mut Ids) -> Option<u32> {
    match source {
        Source::Service(name) => services.get(name).map(|service| service.subject),
        Source::Namespace(namespace) => Some(ids.subjects.id(&namespace_name(namespace))),
        Source::Any => Some(Subject::ANY.0),
        Source::Host => Some(Subject::HOST.0),
        Source::Node(node) => Some(ids.subjects.id(&node_name(node))),
        Source::Cidr(_) => None,
    }
}

/// An address as the kernel side writes it.
pub fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => Address::from_v4(v4.octets()),
        IpAddr::V6(v6) => Address(v6.octets()),
    }
}

fn subjects(policy: &Policy, services: &Services<'_>, ids: &mut Ids) -> Vec<(u32, SubjectInfo)> {
    let info = |service: &Numbered<'_>| {
        let flags = match service.service.egress {
            Egress::Allow => 0,
            Egress::Deny => subject_flag::EGRESS_DENY,
        };
        (
            service.subject,
            SubjectInfo {
                namespace: service.namespace,
                flags,
            },
        )
    };
    let node = |node: &Node| {
        (
            ids.subjects.id(&node_name(&node.name)),
            SubjectInfo::default(),
        )
    };
    let nodes = policy.nodes.iter().map(node);
    let mut subjects: Vec<_> = services.values().map(info).chain(nodes).collect();
    subjects.sort_unstable_by_key(|(subject, _)| *subject);
    subjects
}

fn uids(policy: &Policy, ids: &mut Ids) -> Vec<(u32, u32)> {
    let mut uids: Vec<_> = policy
        .services
        .values()
        .filter_map(|service| match service.workload {
            Some(Workload::Uid(uid)) => Some((uid, ids.subjects.id(&service.name.to_string()))),
            _ => None,
        })
        .collect();
    uids.sort_unstable();
    uids
}

fn header_flags(policy: &Policy, destinations: &[(SocketKey, Destination)]) -> u32 {
    let any = |test: fn(&Service) -> bool, flag| {
        if policy.services.values().any(test) {
            flag
        } else {
            0
        }
    };
    any(
        |service| matches!(service.workload, Some(Workload::Uid(_))),
        header_flag::UID_SELECTORS,
    ) | any(
        |service| service.egress == Egress::Deny,
        header_flag::EGRESS_DENY,
    ) | if selectors::may_nest(policy) {
        header_flag::NESTED_SELECTORS
    } else {
        0
    } | if destinations.iter().any(takes_datagrams) {
        header_flag::UDP_ENDPOINTS
    } else {
        0
    } | if destinations.iter().any(speaks_http) {
        header_flag::HTTP_ENDPOINTS
    } else {
        0
    }
}

/// Whether this is an endpoint of this node whose requests are measured.
fn speaks_http((_, destination): &(SocketKey, Destination)) -> bool {
    const SPEAKS: u32 = destination_flag::HTTP | destination_flag::GRPC;
    destination.flags & destination_flag::THIS_NODE != 0 && destination.flags & SPEAKS != 0
}

/// Whether this is a protected endpoint of this node for datagrams.
fn takes_datagrams((key, destination): &(SocketKey, Destination)) -> bool {
    const GUARDED: u32 = destination_flag::PROTECTED | destination_flag::THIS_NODE;
    key.protocol == IPPROTO_UDP && destination.flags & GUARDED == GUARDED
}

#[cfg(test)]
mod tests;
