//! What every address of the mesh means.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use mesh_common::{
    Address, Destination, PrefixKey, RuleKey, RuleSlots, SocketKey, Subject, destination_flag,
};

use super::rules::covered;
use super::{Ids, Services, address, target_id};
use crate::policy::model::{
    Action, DefaultAction, Endpoint, Location, Mode, Policy, Port, Protocol, Service, ServiceName,
};

/// Entries for VIPs, for endpoints dialled around their VIP, and for the ports of local
/// endpoints at any other address of this host.
pub(super) fn entries(
    policy: &Policy,
    services: &Services<'_>,
    rules: &[(RuleKey, RuleSlots)],
    sources: &[((u32, PrefixKey), RuleSlots)],
    ids: &mut Ids,
) -> Vec<(SocketKey, Destination)> {
    let namespaces = services.values().map(|service| service.namespace).collect();
    let marks = Marks::new(policy, services, rules, sources, &namespaces);
    let mut found = BTreeMap::new();
    for service in policy.services.values() {
        let numbered = &services[&service.name];
        for (index, port) in service.ports.iter().enumerate() {
            let frontend = numbered.frontends[index];
            let destination = Destination {
                service: numbered.subject,
                frontend,
                version: 0,
                flags: marks.flags(service, frontend) | spoken(port.protocol),
                affinity_seconds: affinity_seconds(service),
                home: Address::LOCAL,
                target: 0,
            };
            add_vip(&mut found, service, port, &destination);
            for endpoint in service
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.port == index)
            {
                let version = ids.versions.id(&endpoint.version);
                let destination = Destination {
                    version,
                    affinity_seconds: 0,
                    target: target_id(service, endpoint, ids),
                    ..destination
                };
                add_endpoint(&mut found, service, endpoint, port, destination);
            }
        }
    }
    found.into_iter().collect()
}

/// What is spoken on a port, as far as the kernel side reads it.
fn spoken(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Tcp | Protocol::Udp => 0,
        Protocol::Http => destination_flag::HTTP,
        Protocol::Grpc => destination_flag::GRPC,
    }
}

fn affinity_seconds(service: &Service) -> u32 {
    service.affinity.map_or(0, |timeout| {
        u32::try_from(timeout.as_secs().max(1)).unwrap_or(u32::MAX)
    })
}

/// What is looked up for every port, found once.
struct Marks<'p> {
    default_deny: bool,
    /// Frontends that an enforced `[[deny]]` names.
    denied: BTreeSet<u32>,
    /// Services with splits for particular callers.
    caller_splits: BTreeSet<&'p ServiceName>,
    /// Kinds of callers that rules of a frontend are for.
    callers: HashMap<u32, u32>,
}

impl<'p> Marks<'p> {
    fn new(
        policy: &'p Policy,
        services: &Services<'_>,
        rules: &[(RuleKey, RuleSlots)],
        sources: &[((u32, PrefixKey), RuleSlots)],
        namespaces: &BTreeSet<u32>,
    ) -> Self {
        let denies = policy
            .rules
            .iter()
            .filter(|rule| rule.action == Action::Deny && rule.mode == Mode::Enforce);
        let callers = policy.splits.iter().filter(|split| !split.from.is_empty());
        Self {
            default_deny: policy.default == DefaultAction::Deny,
            denied: denies
                .flat_map(|rule| covered(policy, rule, services))
                .collect(),
            caller_splits: callers.map(|split| &split.service).collect(),
            callers: kinds_of_callers(rules, sources, namespaces),
        }
    }

    /// Flags that a frontend and its endpoints share.
    fn flags(&self, service: &Service, frontend: u32) -> u32 {
        let mut flags = 0;
        if self.default_deny {
            flags |= destination_flag::DEFAULT_DENY;
        }
        if self.default_deny || self.denied.contains(&frontend) {
            flags |= destination_flag::PROTECTED;
        }
        if self.caller_splits.contains(&service.name) {
            flags |= destination_flag::CALLER_SPLITS;
        }
        flags | self.callers.get(&frontend).copied().unwrap_or_default()
    }
}

/// Which of the wildcard lookups can find something, by frontend: the kernel side saves the
/// others.
fn kinds_of_callers(
    rules: &[(RuleKey, RuleSlots)],
    sources: &[((u32, PrefixKey), RuleSlots)],
    namespaces: &BTreeSet<u32>,
) -> HashMap<u32, u32> {
    let mut kinds: HashMap<u32, u32> = HashMap::new();
    for (key, _) in rules {
        if key.subject == Subject::ANY.0 {
            *kinds.entry(key.frontend).or_default() |= destination_flag::ANY_RULES;
        } else if namespaces.contains(&key.subject) {
            *kinds.entry(key.frontend).or_default() |= destination_flag::NAMESPACE_RULES;
        }
    }
    for ((_, key), _) in sources {
        let frontend = u32::from_be_bytes(key.owner);
        *kinds.entry(frontend).or_default() |= destination_flag::ADDRESS_RULES;
    }
    kinds
}

fn add_vip(
    found: &mut BTreeMap<SocketKey, Destination>,
    service: &Service,
    port: &Port,
    destination: &Destination,
) {
    let Some(vip) = service.vip.map(address) else {
        return;
    };
    let key = SocketKey::new(vip, port.listen, port.protocol.ip_protocol());
    let flags = destination.flags | destination_flag::FRONTEND;
    found.insert(
        key,
        Destination {
            flags,
            ..*destination
        },
    );
    let flags = destination_flag::VIP_ADDRESS | destination_flag::PROTECTED;
    let whole = Destination {
        frontend: 0,
        flags,
        affinity_seconds: 0,
        ..*destination
    };
    found.insert(SocketKey::new(vip, 0, 0), whole);
}

fn add_endpoint(
    found: &mut BTreeMap<SocketKey, Destination>,
    service: &Service,
    endpoint: &Endpoint,
    port: &Port,
    mut destination: Destination,
) {
    destination.flags |= destination_flag::ENDPOINT;
    destination.home = address(endpoint.address.ip());
    let ip = endpoint.address.ip();
    let protocol = port.protocol.ip_protocol();
    let key = SocketKey::new(address(ip), endpoint.address.port(), protocol);
    match endpoint.location {
        // The other host's loopback is not ours.
        Location::Node(_) if ip.is_loopback() => {}
        Location::Node(_) => {
            destination.flags |= destination_flag::REMOTE;
            found.insert(key, destination);
        }
        Location::External => {
            found.insert(key, destination);
        }
        Location::Local => {
            destination.flags |= destination_flag::THIS_NODE;
            if service.workload.is_some() {
                destination.flags |= destination_flag::OWNED;
            }
            found.insert(key, destination);
            add_local_port(found, key.at_any_address(), destination);
        }
    }
}

/// A local endpoint's port at any other address of this host. Two services on one port (at
/// different addresses) leave open which of them is meant.
fn add_local_port(
    found: &mut BTreeMap<SocketKey, Destination>,
    key: SocketKey,
    destination: Destination,
) {
    const SHARED: u32 = destination_flag::PROTECTED | destination_flag::OWNED;
    match found.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(destination);
        }
        Entry::Occupied(mut entry) => {
            let first = entry.get_mut();
            if first.home != destination.home {
                first.home = Address::LOCAL;
            }
            if first.frontend != destination.frontend {
                first.flags |= destination_flag::AMBIGUOUS | (destination.flags & SHARED);
            }
        }
    }
}
