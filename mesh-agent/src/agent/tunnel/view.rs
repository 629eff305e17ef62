//! What the policy says about connections between nodes.
//!
//! Comes in: the model and the id table. Goes out: who an id of the kernel's is, and what of
//! another node's wishes can be fulfilled.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_common::{IPPROTO_UDP, Redirect, Subject};

use crate::identity::Identity;
use crate::policy::compile::{frontend_name, node_name, target_name};
use crate::policy::ids::Ids;
use crate::policy::model::{Endpoint, Location, Policy, Port, Protocol, Service, ServiceName};
use crate::telemetry::snapshot::RequestProtocol;

/// An endpoint on another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Whose it is.
    pub(crate) service: ServiceName,
    /// The port that clients dial.
    pub(crate) listen: u16,
    /// Its version.
    pub(crate) version: Arc<str>,
    /// Where it listens, on its own node.
    pub(crate) endpoint: SocketAddr,
    /// That node.
    pub(crate) node: Arc<str>,
    /// Where that node is reached.
    pub(crate) address: IpAddr,
    /// Ids of the service and the version.
    pub(crate) ids: (u32, u32),
    /// What is spoken, if requests are to be measured.
    pub(crate) requests: Option<RequestProtocol>,
}

/// Why a peer's wish is refused before anything is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// The peer is no node of the policy.
    #[error("its node is not in the policy (any more): declare it by [[node]]")]
    UnknownNode,
    /// The service is not placed on the peer's node.
    #[error("the service has no endpoint on that node, so it cannot call from there")]
    Misplaced,
    /// The policy has no such caller.
    #[error("the policy has no such service: do both nodes have the same files?")]
    UnknownCaller,
    /// This node has no such endpoint.
    #[error("this node has no such endpoint: do both nodes have the same files?")]
    UnknownEndpoint,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Low half of the id table's epoch.
    pub(crate) epoch: u64,
    callers: HashMap<u32, Identity>,
    subjects: HashMap<Identity, u32>,
    targets: HashMap<u32, Arc<Target>>,
    /// Nodes that a service has endpoints on.
    placement: BTreeMap<ServiceName, BTreeSet<Arc<str>>>,
    nodes: BTreeMap<Arc<str>, IpAddr>,
    served: BTreeSet<(ServiceName, u16, SocketAddr)>,
}

impl View {
    /// The view of a policy on the node `local`.
    pub(crate) fn new(policy: &Policy, ids: &mut Ids, local: &Arc<str>) -> Self {
        let mut view = Self {
            epoch: ids.epoch,
            nodes: policy
                .nodes
                .iter()
                .map(|node| (Arc::clone(&node.name), node.address))
                .collect(),
            ..Self::default()
        };
        view.callers
            .insert(Subject::HOST.0, Identity::Node(Arc::clone(local)));
        for node in &policy.nodes {
            let identity = Identity::Node(Arc::clone(&node.name));
            let id = ids.subjects.id(&node_name(&node.name));
            view.subjects.insert(identity, id);
        }
        for service in policy.services.values() {
            view.add(service, ids, local);
        }
        view
    }

    fn add(&mut self, service: &Service, ids: &mut Ids, local: &Arc<str>) {
        let identity = Identity::Service(service.name.clone());
        let id = ids.subjects.id(&service.name.to_string());
        self.callers.insert(id, identity.clone());
        self.subjects.insert(identity, id);
        for endpoint in &service.endpoints {
            let Some(port) = service.ports.get(endpoint.port) else {
                continue;
            };
            let node = match &endpoint.location {
                Location::Local => {
                    let served = (service.name.clone(), port.listen, endpoint.address);
                    self.served.insert(served);
                    local
                }
                Location::Node(node) => {
                    self.add_target(service, port, endpoint, node, ids);
                    node
                }
                Location::External => continue,
            };
            let placed = self.placement.entry(service.name.clone()).or_default();
            placed.insert(Arc::clone(node));
        }
    }

    fn add_target(
        &mut self,
        service: &Service,
        port: &Port,
        endpoint: &Endpoint,
        node: &Arc<str>,
        ids: &mut Ids,
    ) {
        let Some(address) = self.nodes.get(node) else {
            return;
        };
        if port.protocol.ip_protocol() == IPPROTO_UDP {
            return;
        }
        let name = target_name(&frontend_name(service, port), endpoint, node);
        let target = Target {
            service: service.name.clone(),
            listen: port.listen,
            version: Arc::clone(&endpoint.version),
            endpoint: endpoint.address,
            node: Arc::clone(node),
            address: *address,
            ids: (
                ids.subjects.id(&service.name.to_string()),
                ids.versions.id(&endpoint.version),
            ),
            requests: match port.protocol {
                Protocol::Http => Some(RequestProtocol::Http),
                Protocol::Grpc => Some(RequestProtocol::Grpc),
                Protocol::Tcp | Protocol::Udp => None,
            },
        };
        self.targets.insert(ids.targets.id(&name), Arc::new(target));
    }

    /// This view, with the targets of the one before: calls that the kernel allowed under it may
    /// still arrive.
    pub(crate) fn after(mut self, before: &Self) -> Self {
        if before.epoch == self.epoch {
            for (id, target) in &before.targets {
                let of_known_node = self.nodes.get(&target.node) == Some(&target.address);
                if of_known_node {
                    self.targets
                        .entry(*id)
                        .or_insert_with(|| Arc::clone(target));
                }
            }
        }
        self
    }

    /// Whether calls go to other nodes.
    pub(crate) fn has_targets(&self) -> bool {
        !self.targets.is_empty()
    }

    /// Whether calls come from other nodes.
    pub(crate) fn serves(&self) -> bool {
        !self.served.is_empty()
    }

    /// Who called, and what for.
    pub(crate) fn outbound(&self, redirect: &Redirect) -> Option<(Identity, Arc<Target>)> {
        if redirect.epoch != self.epoch as u32 {
            return None;
        }
        let caller = self.callers.get(&redirect.source)?;
        let target = self.targets.get(&redirect.target)?;
        Some((caller.clone(), Arc::clone(target)))
    }

    /// The node that a peer is: what its certificate says, or else whose address it has.
    pub(crate) fn node_of(&self, proven: Option<&Arc<str>>, peer: IpAddr) -> Option<Arc<str>> {
        let peer = peer.to_canonical();
        match proven {
            Some(node) => self.nodes.get_key_value(node).map(|(node, _)| node),
            None => self
                .nodes
                .iter()
                .find(|(_, address)| **address == peer)
                .map(|(node, _)| node),
        }
        .cloned()
    }

    /// The id of a caller that has proven its identity from `node`.
    ///
    /// # Errors
    ///
    /// The policy does not know it, or not on that node.
    pub(crate) fn caller(&self, identity: &Identity, node: &Arc<str>) -> Result<u32, Unfit> {
        self.is_placed(identity, node)?;
        self.subjects
            .get(identity)
            .copied()
            .ok_or(Unfit::UnknownCaller)
    }

    /// Whether an identity may be spoken for by `node`.
    ///
    /// # Errors
    ///
    /// It is placed elsewhere, or the policy has no such node.
    pub(crate) fn is_placed(&self, identity: &Identity, node: &Arc<str>) -> Result<(), Unfit> {
        if !self.nodes.contains_key(node) {
            return Err(Unfit::UnknownNode);
        }
        let placed = match identity {
            Identity::Node(name) => name == node,
            Identity::Service(name) => self
                .placement
                .get(name)
                .is_none_or(|nodes| nodes.contains(node)),
        };
        if placed {
            Ok(())
        } else {
            Err(Unfit::Misplaced)
        }
    }

    /// Whether this node has the endpoint.
    ///
    /// # Errors
    ///
    /// It has not.
    pub(crate) fn endpoint(
        &self,
        service: &ServiceName,
        listen: u16,
        endpoint: SocketAddr,
    ) -> Result<(), Unfit> {
        let wanted = (service.clone(), listen, endpoint);
        if self.served.contains(&wanted) {
            Ok(())
        } else {
            Err(Unfit::UnknownEndpoint)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parse::{LocalNode, parse};
    use crate::policy::source::SourceSet;

    const POLICY: &str = r#"
[[node]]
name = "edge-1"
address = "10.0.0.11"
[[node]]
name = "edge-2"
address = "10.0.0.12"
[[service]]
name = "checkout"
namespace = "shop"
workload = { uid = 7 }
[[service]]
name = "payments"
namespace = "shop"
ports = [{ name = "http", listen = 80 }]
workload = { uid = 8 }
endpoints = [
  { address = "127.0.0.1:8081", node = "edge-1" },
  { address = "127.0.0.1:8082", node = "edge-2" },
]
[[service]]
name = "ledger"
namespace = "shop"
ports = [{ name = "http", listen = 80 }]
workload = { uid = 9 }
endpoints = [{ address = "127.0.0.1:9000", node = "edge-1" }]
"#;

    fn view() -> (View, Ids) {
        let local = LocalNode {
            name: "edge-1".into(),
            address: Some(IpAddr::from([10, 0, 0, 11])),
            trust_domain: "mesh.local".into(),
        };
        let parsed = parse(&SourceSet::from_texts([("a.toml", POLICY)]), &local);
        let policy = parsed.policy.expect("a policy");
        let mut ids = Ids::new(1);
        let view = View::new(&policy, &mut ids, &"edge-1".into());
        (view, ids)
    }

    fn service(name: &str) -> ServiceName {
        ServiceName {
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_service_calls_from_where_it_is_placed() {
        let (view, _) = view();
        let edge2: Arc<str> = "edge-2".into();
        for (identity, expected) in [
            (Identity::Service(service("checkout")), Ok(())),
            (Identity::Service(service("payments")), Ok(())),
            (Identity::Service(service("ledger")), Err(Unfit::Misplaced)),
            (
                Identity::Service(service("none")),
                Err(Unfit::UnknownCaller),
            ),
            (Identity::Node("edge-2".into()), Ok(())),
            (Identity::Node("edge-1".into()), Err(Unfit::Misplaced)),
        ] {
            let found = view.caller(&identity, &edge2).map(drop);
            assert_eq!(found, expected, "{identity}");
        }
        let gone = view.caller(&Identity::Service(service("checkout")), &"edge-3".into());
        assert_eq!(gone, Err(Unfit::UnknownNode));
    }

    #[test]
    fn only_endpoints_of_this_node_are_served() {
        let (view, _) = view();
        let payments = service("payments");
        for (port, endpoint, expected) in [
            (80, "127.0.0.1:8081", Ok(())),
            (81, "127.0.0.1:8081", Err(Unfit::UnknownEndpoint)),
            (80, "127.0.0.1:8082", Err(Unfit::UnknownEndpoint)),
            (80, "127.0.0.1:22", Err(Unfit::UnknownEndpoint)),
        ] {
            let endpoint = endpoint.parse().expect("an address");
            assert_eq!(view.endpoint(&payments, port, endpoint), expected);
        }
    }

    #[test]
    fn the_kernels_ids_name_caller_and_target() {
        let (view, mut ids) = view();
        let name = "shop/payments:80/tcp 127.0.0.1:8082@edge-2";
        let redirect = Redirect {
            source: ids.subjects.id("shop/checkout"),
            target: ids.targets.id(name),
            epoch: 1,
            ..Redirect::default()
        };
        let (caller, target) = view.outbound(&redirect).expect("known");
        assert_eq!(caller, Identity::Service(service("checkout")));
        assert_eq!(target.address, IpAddr::from([10, 0, 0, 12]));
        let stale = Redirect {
            epoch: 2,
            ..redirect
        };
        assert!(view.outbound(&stale).is_none());
        let host = Redirect {
            source: Subject::HOST.0,
            ..redirect
        };
        let (caller, _) = view.outbound(&host).expect("known");
        assert_eq!(caller, Identity::Node("edge-1".into()));
    }

    #[test]
    fn a_node_is_what_it_proves_or_where_it_is() {
        let (view, _) = view();
        let edge2 = IpAddr::from([10, 0, 0, 12]);
        for (proven, peer, expected) in [
            (None, edge2, Some("edge-2")),
            (
                None,
                "::ffff:10.0.0.12".parse().expect("an address"),
                Some("edge-2"),
            ),
            (None, IpAddr::from([10, 0, 0, 99]), None),
            (Some("edge-1"), edge2, Some("edge-1")),
            (Some("edge-9"), edge2, None),
        ] {
            let proven = proven.map(Arc::from);
            let found = view.node_of(proven.as_ref(), peer);
            assert_eq!(found.as_deref(), expected);
        }
    }
}
