//! Endpoints: which port, which host, which share, and whose address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::MAX_SCHEDULE;

use super::endpoint_port;
use crate::policy::diagnostic::{Diagnostic, Problems};
use crate::policy::model::{Endpoint, Location, Protocol, ServiceName};
use crate::policy::parse::declare::{EndpointDecl, ServiceDecl};
use crate::policy::parse::document::Located;
use crate::policy::parse::names::Names;
use crate::policy::parse::nodes::Nodes;
use crate::policy::parse::weights;
use crate::policy::vip;

/// Which endpoint each address of each host belongs to.
#[derive(Default)]
pub(super) struct Used<'n, 'd> {
    by_address: BTreeMap<(Option<Arc<str>>, SocketAddr, u8), Owner<'n, 'd>>,
}

type Owner<'n, 'd> = (&'n ServiceName, Located<'d, SocketAddr>);

pub(super) struct Resolver<'n, 'd> {
    pub(super) decl: &'n ServiceDecl<'d>,
    pub(super) names: &'n Names<'d>,
    pub(super) nodes: &'n Nodes<'d>,
}

impl<'n, 'd> Resolver<'n, 'd> {
    pub(super) fn resolve(
        &self,
        used: &mut Used<'n, 'd>,
        problems: &mut Problems,
    ) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for decl in &self.decl.endpoints.items {
            if problems.is_full() {
                break;
            }
            endpoints.extend(self.endpoint(decl, used, problems));
        }
        self.shares(problems);
        self.remote(&endpoints, problems);
        endpoints
    }

    fn endpoint(
        &self,
        decl: &EndpointDecl<'d>,
        used: &mut Used<'n, 'd>,
        problems: &mut Problems,
    ) -> Option<Endpoint> {
        let sound = problems.ok(reachable(decl));
        let port = endpoint_port(self.decl, decl);
        let port = port.map_err(|problem| problems.extend(problem)).ok();
        let location = problems.ok(self.nodes.locate(decl, self.names));
        sound?;
        let endpoint = Endpoint {
            address: decl.address.value,
            port: port?,
            version: Arc::clone(&decl.version.value),
            weight: decl.weight,
            location: location?,
            place: decl.span.place(),
        };
        problems.ok(self.own(decl, &endpoint, used))?;
        Some(endpoint)
    }

    /// Takes the address for this service, which nobody else can have then.
    fn own(
        &self,
        decl: &EndpointDecl<'d>,
        endpoint: &Endpoint,
        used: &mut Used<'n, 'd>,
    ) -> Result<(), Diagnostic> {
        let host = match &endpoint.location {
            Location::Local => Some("".into()),
            Location::Node(node) => Some(Arc::clone(node)),
            Location::External => None,
        };
        let protocol = self
            .decl
            .ports
            .items
            .get(endpoint.port)
            .map_or(0, |port| port.protocol.ip_protocol());
        let service = &self.decl.name.value;
        let key = (host, endpoint.address, protocol);
        let Some((owner, first)) = used.by_address.get(&key) else {
            used.by_address.insert(key, (service, decl.address));
            return Ok(());
        };
        let message = if *owner == service {
            format!("`{service}` has the endpoint {} twice", endpoint.address)
        } else {
            format!(
                "`{owner}` and `{service}` have the same endpoint {}",
                endpoint.address
            )
        };
        Err(decl
            .address
            .error("duplicate-endpoint", message, "this one")
            .label(first.label("and this one"))
            .help(
                "an address belongs to one endpoint: remove one, or correct its port; \
                use `weight` for a larger share",
            ))
    }

    /// The weights within a version and port must fit into a schedule.
    fn shares(&self, problems: &mut Problems) {
        let mut sets: BTreeMap<(&str, Option<&str>), Vec<&EndpointDecl<'d>>> = BTreeMap::new();
        for endpoint in &self.decl.endpoints.items {
            let port = endpoint.port.as_ref().map(|port| &*port.value);
            sets.entry((&endpoint.version.value, port))
                .or_default()
                .push(endpoint);
        }
        for ((version, _), endpoints) in sets {
            let of: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
            let Some(last) = endpoints
                .last()
                .filter(|_| weights::period(&of) > u64::from(MAX_SCHEDULE))
            else {
                continue;
            };
            let period = weights::period(&of);
            let message = format!(
                "the weights of version `{version}` have the sum {period}, at most \
                    {MAX_SCHEDULE} are possible"
            );
            let diagnostic = Diagnostic::error("weights-too-large", message)
                .label(last.span.label("with this endpoint"));
            problems.push(diagnostic.help(format!(
                "use smaller weights of about the same ratio: {}",
                weights::listed(&weights::smaller(&of))
            )));
        }
    }

    /// Endpoints that nobody on this node can reach.
    fn remote(&self, endpoints: &[Endpoint], problems: &mut Problems) {
        let is_udp = |endpoint: &Endpoint| {
            let port = self.decl.ports.items.get(endpoint.port);
            port.is_some_and(|port| port.protocol == Protocol::Udp)
        };
        let remote = |endpoint: &&Endpoint| {
            matches!(endpoint.location, Location::Node(_)) && is_udp(endpoint)
        };
        let count = endpoints.iter().filter(remote).count();
        let Some(first) = endpoints.iter().find(remote) else {
            return;
        };
        let decls = &self.decl.endpoints.items;
        let Some(decl) = decls.iter().find(|decl| decl.span.place() == first.place) else {
            return;
        };
        let total = endpoints.len();
        let message = format!(
            "datagrams are not carried to other nodes: {count} of {total} endpoints of `{}`",
            self.decl.name.value
        );
        let diagnostic = decl
            .address
            .warning("no-tunnel", message, "the first on another node");
        problems.push(diagnostic.help(
            "calls to them are refused: use endpoints on this node, or tls = \"off\" where they may \
             go in clear",
        ));
    }
}

fn reachable(decl: &EndpointDecl<'_>) -> Result<(), Diagnostic> {
    let address = decl.address.value;
    if let Some(what) = vip::not_unicast(address.ip()) {
        return Err(decl
            .address
            .error(
                "invalid-endpoint",
                format!("`{}` cannot be an endpoint's address", address.ip()),
                format!("a {what} address"),
            )
            .help(
                "write an address where clients reach it, such as \"127.0.0.1:8081\" \
                for a server that listens on all",
            ));
    }
    if address.port() == 0 {
        return Err(decl
            .address
            .error(
                "invalid-port",
                "an endpoint's port is a number from 1 to 65535",
                "port 0",
            )
            .help("write the port on which the instance listens"));
    }
    Ok(())
}
