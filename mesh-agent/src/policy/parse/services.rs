//! Services: their ports, endpoints and addresses, and what no two of them can share.

mod addresses;
mod endpoints;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::declare::{EndpointDecl, PortDecl, ServiceDecl};
use super::document::Located;
use super::names::{Names, twice};
use super::nodes::Nodes;
use super::{suggest, workload};
use crate::policy::diagnostic::{Diagnostic, Problems};
use crate::policy::model::{Egress, Endpoint, Service, ServiceName};

/// The services of `names`; those with problems as far as they are understood.
pub(super) fn resolve<'d>(
    names: &Names<'d>,
    nodes: &Nodes<'d>,
    range: Option<IpNet>,
    problems: &mut Problems,
) -> BTreeMap<ServiceName, Service> {
    let mut vips = addresses::assign(names, nodes, range, problems);
    let mut used = endpoints::Used::default();
    let mut services = BTreeMap::new();
    for (name, decl) in &names.services {
        ports(decl, problems);
        usefulness(decl, problems);
        let resolver = endpoints::Resolver { decl, names, nodes };
        let endpoints = resolver.resolve(&mut used, problems);
        let vip = vips.remove(name);
        services.insert(name.clone(), model(decl, vip, endpoints));
    }
    workload::contention(names.services.values(), problems);
    services
}

fn model(
    decl: &ServiceDecl<'_>,
    vip: Option<std::net::IpAddr>,
    endpoints: Vec<Endpoint>,
) -> Service {
    let place = decl.span.place();
    let workload = decl.workload.as_ref();
    Service {
        name: decl.name.value.clone(),
        vip,
        ports: decl.ports.items.iter().map(PortDecl::model).collect(),
        workload: workload.map(|workload| workload.value.clone()),
        workload_place: workload.map_or_else(|| place.clone(), |workload| workload.span.place()),
        place,
        egress: decl.egress.unwrap_or(Egress::Allow),
        affinity: decl.affinity,
        on_weight_change: decl.on_weight_change,
        tls: decl.tls,
        endpoints,
    }
}

fn ports(decl: &ServiceDecl<'_>, problems: &mut Problems) {
    let mut names: BTreeMap<&str, &PortDecl<'_>> = BTreeMap::new();
    let mut listens: BTreeMap<(u16, u8), &PortDecl<'_>> = BTreeMap::new();
    for port in &decl.ports.items {
        if let Some(first) = names.insert(&port.name.value, port) {
            let what = format!("the port `{}`", port.name.value);
            problems.push(twice("duplicate-port", &what, &port.name, &first.name));
        }
        let key = (port.listen.value, port.protocol.ip_protocol());
        if let Some(first) = listens.insert(key, port) {
            let message = format!(
                "two ports of `{}` listen on {}",
                decl.name.value, port.listen.value
            );
            let diagnostic = port.listen.error("duplicate-listen", message, "this port");
            problems.push(
                diagnostic
                    .label(first.listen.label("and this one"))
                    .help("give each port its own number, or make one of them udp"),
            );
        }
    }
}

fn usefulness(decl: &ServiceDecl<'_>, problems: &mut Problems) {
    let has_ports = !decl.ports.items.is_empty() || !decl.ports.complete;
    let has_endpoints = !decl.endpoints.items.is_empty() || !decl.endpoints.complete;
    let name = &decl.name.value;
    if !has_ports && has_endpoints {
        let span = decl.endpoints.span.unwrap_or(decl.span);
        let diagnostic = Diagnostic::error(
            "endpoints-without-ports",
            format!("`{name}` has endpoints but no ports"),
        )
        .label(span.label("nobody can dial these"));
        problems.push(diagnostic.help("add ports = [{ name = \"http\", listen = 80 }]"));
    }
    if !has_ports && let Some(vip) = &decl.vip {
        let diagnostic = vip.error(
            "vip-without-ports",
            format!("`{name}` has a VIP but no ports"),
            "nobody can dial this",
        );
        problems.push(
            diagnostic.help("add ports = [{ name = \"http\", listen = 80 }], or remove `vip`"),
        );
    }
    if has_ports && !has_endpoints {
        let diagnostic = decl.name.warning(
            "no-endpoints",
            format!("`{name}` has ports but no endpoints"),
            "every call will be refused",
        );
        problems.push(diagnostic.help("add endpoints = [{ address = \"127.0.0.1:8081\" }]"));
    }
    if !has_ports && !has_endpoints && !decl.has_workload {
        let diagnostic = decl.name.warning(
            "useless-service",
            format!("`{name}` has neither a workload nor ports"),
            "it can neither call nor be called",
        );
        problems.push(diagnostic.help(
            "add workload = { systemd = \"..\" } to a caller, \
            ports and endpoints to what is called",
        ));
    }
}

/// The port of `decl` that `endpoint` serves, as an index.
fn endpoint_port(
    decl: &ServiceDecl<'_>,
    endpoint: &EndpointDecl<'_>,
) -> Result<usize, Option<Diagnostic>> {
    let ports = &decl.ports.items;
    let known = || ports.iter().map(|port| &*port.name.value);
    let Some(name) = &endpoint.port else {
        if ports.len() == 1 && decl.ports.complete {
            return Ok(0);
        }
        let missing = || {
            let message = format!(
                "`{}` has several ports, and the endpoint says not which it serves",
                decl.name.value
            );
            Diagnostic::error("missing-port", message)
                .label(endpoint.span.label("port = \"..\" is missing"))
                .help(format!(
                    "add port = \"..\" with one of {}",
                    suggest::listed(known())
                ))
        };
        return Err((ports.len() > 1 && decl.ports.complete).then(missing));
    };
    if let Some(index) = ports.iter().position(|port| port.name.value == name.value) {
        return Ok(index);
    }
    let unknown = || unknown_port(name, &decl.name.value, known());
    Err((decl.ports.complete && !ports.is_empty()).then(unknown))
}

fn unknown_port<'c>(
    port: &Located<'_, Arc<str>>,
    service: &ServiceName,
    known: impl Iterator<Item = &'c str> + Clone,
) -> Diagnostic {
    let message = format!("`{service}` has no port `{}`", port.value);
    let help = suggest::help(&port.value, known, "its ports", "");
    port.error("unknown-port", message, "not a port of it")
        .help(help)
}
