//! VIPs: each belongs to one service, and to nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::diagnostic::{Diagnostic, Problems};
use crate::policy::model::ServiceName;
use crate::policy::parse::declare::{EndpointDecl, ServiceDecl};
use crate::policy::parse::document::Located;
use crate::policy::parse::names::Names;
use crate::policy::parse::nodes::Nodes;
use crate::policy::vip;

/// The VIP of each service with ports; none are derived without a `range`.
pub(super) fn assign<'d>(
    names: &Names<'d>,
    nodes: &Nodes<'d>,
    range: Option<IpNet>,
    problems: &mut Problems,
) -> BTreeMap<ServiceName, IpAddr> {
    let hosts = hosts(names, nodes);
    let mut vips = declared(names, &hosts, problems);
    let mut taken: BTreeSet<IpAddr> = hosts.keys().copied().collect();
    taken.extend(vips.values());
    if let Some(range) = range {
        vips.extend(derived(names, range, &taken, problems));
    }
    for (name, service) in &names.services {
        if let Some(vip) = vips.get(name) {
            families(service, *vip, problems);
            not_this_node(service, *vip, nodes, problems);
        }
    }
    vips
}

/// The files of all nodes are the same, so agent.toml must not decide which VIPs are derived.
fn not_this_node<'d>(
    service: &ServiceDecl<'d>,
    vip: IpAddr,
    nodes: &Nodes<'d>,
    problems: &mut Problems,
) {
    let declared = nodes.places().iter().any(|place| place.value == vip);
    if nodes.local_address() != Some(vip) || declared {
        return;
    }
    let message = format!(
        "the VIP {vip} of `{}` is this node's address in agent.toml",
        service.name.value
    );
    let span = service
        .vip
        .as_ref()
        .map_or(service.name.span, |vip| vip.span);
    let diagnostic = Diagnostic::error("vip-in-use", message).label(span.label("this service"));
    problems.push(diagnostic.help("set `vip` to an address that nothing else uses"));
}

/// Addresses of nodes and endpoints, which cannot be VIPs too.
fn hosts<'d>(
    names: &Names<'d>,
    nodes: &Nodes<'d>,
) -> BTreeMap<IpAddr, (&'static str, Located<'d, IpAddr>)> {
    let services = names.services.values();
    let endpoints = services.flat_map(|service| &service.endpoints.items);
    let endpoint = |endpoint: &EndpointDecl<'d>| {
        let ip = endpoint.address.value.ip();
        (ip, ("an endpoint's", endpoint.address.span.at(ip)))
    };
    let node = |node: &Located<'d, IpAddr>| (node.value, ("a node's", *node));
    endpoints
        .map(endpoint)
        .chain(nodes.places().iter().map(node))
        .collect()
}

fn declared<'d>(
    names: &Names<'d>,
    hosts: &BTreeMap<IpAddr, (&'static str, Located<'d, IpAddr>)>,
    problems: &mut Problems,
) -> BTreeMap<ServiceName, IpAddr> {
    let mut owners: BTreeMap<IpAddr, &ServiceDecl<'d>> = BTreeMap::new();
    let mut vips = BTreeMap::new();
    for (name, service) in &names.services {
        let Some(vip) = &service.vip else {
            continue;
        };
        if let Some((whose, host)) = hosts.get(&vip.value) {
            let message = format!("the VIP {} is also {whose} address", vip.value);
            let diagnostic = vip
                .error("vip-in-use", message, "this VIP")
                .label(host.label("used here"));
            problems.push(diagnostic.help(
                "a VIP is an address that nothing else uses; remove `vip` to have one derived",
            ));
        }
        if let Some(owner) = owners.insert(vip.value, service) {
            problems.push(shared(vip, service, owner));
        }
        if !service.ports.items.is_empty() {
            vips.insert(name.clone(), vip.value);
        }
    }
    vips
}

fn shared<'d>(
    vip: &Located<'d, IpAddr>,
    service: &ServiceDecl<'d>,
    owner: &ServiceDecl<'d>,
) -> Diagnostic {
    let message = format!(
        "`{}` and `{}` have the same VIP {}",
        owner.name.value, service.name.value, vip.value
    );
    let diagnostic = vip.error("duplicate-vip", message, "this one");
    let first = owner.vip.iter().map(|first| first.label("and this one"));
    first
        .fold(diagnostic, Diagnostic::label)
        .help("each VIP belongs to one service: change one, or remove it to have one derived")
}

fn derived<'d>(
    names: &Names<'d>,
    range: IpNet,
    taken: &BTreeSet<IpAddr>,
    problems: &mut Problems,
) -> Vec<(ServiceName, IpAddr)> {
    let without = names
        .services
        .iter()
        .filter(|(_, service)| !service.has_vip && !service.ports.items.is_empty());
    let without: Vec<&ServiceName> = without.map(|(name, _)| name).collect();
    let derived = vip::derive(range, without, taken);
    let left: Vec<_> = derived.iter().filter(|(_, vip)| vip.is_none()).collect();
    if let Some(service) = left.first().and_then(|(name, _)| names.services.get(*name)) {
        let message = format!(
            "the range {range} has no address left for {} of the services",
            left.len()
        );
        let diagnostic =
            service
                .name
                .error("vip-range-exhausted", message, "the first without one");
        problems.push(diagnostic.help("widen it: [mesh] vip_range = \"10.96.0.0/12\""));
    }
    let found = derived.into_iter();
    found
        .filter_map(|(name, vip)| Some((name.clone(), vip?)))
        .collect()
}

/// A connection cannot change its address family on the way.
fn families(service: &ServiceDecl<'_>, vip: IpAddr, problems: &mut Problems) {
    let other = |endpoint: &&EndpointDecl<'_>| endpoint.address.value.is_ipv4() != vip.is_ipv4();
    let Some(endpoint) = service.endpoints.items.iter().find(other) else {
        return;
    };
    let family = |v4: bool| if v4 { "IPv4" } else { "IPv6" };
    let (of_vip, of_endpoint) = (family(vip.is_ipv4()), family(!vip.is_ipv4()));
    let message = format!(
        "the VIP {vip} is {of_vip}, the endpoint {} is {of_endpoint}",
        endpoint.address.value
    );
    let diagnostic =
        endpoint
            .address
            .error("address-family", message, "cannot be reached by that VIP");
    problems.push(match &service.vip {
        Some(vip) => diagnostic.label(vip.label("the VIP")).help(format!(
            "give the VIP and all endpoints {of_vip} addresses, or all {of_endpoint}"
        )),
        None => {
            let example = if vip.is_ipv4() {
                "fd00:96::10"
            } else {
                "10.96.0.10"
            };
            diagnostic.help(format!(
                "the VIP is derived from `vip_range`; set one: vip = \"{example}\""
            ))
        }
    });
}
