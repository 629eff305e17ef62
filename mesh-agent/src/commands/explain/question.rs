//! What is asked: names and addresses of the command line to parts of the policy.

use std::net::{IpAddr, SocketAddr};

use crate::policy::eval::Caller;
use crate::policy::model::{Endpoint, Location, Policy, Service, ServiceName};

/// A call.
pub(in crate::commands) struct Question<'p> {
    pub(in crate::commands) caller: Caller<'p>,
    pub(in crate::commands) callee: Callee<'p>,
}

/// What is called.
pub(in crate::commands) enum Callee<'p> {
    /// A port of a service, by its VIP.
    Frontend { service: &'p Service, port: usize },
    /// An endpoint around its VIP.
    Endpoint {
        service: &'p Service,
        endpoint: &'p Endpoint,
    },
    /// Another port of a VIP.
    UndeclaredPort(&'p ServiceName),
    /// An address that is none of the mesh's.
    Outside { address: IpAddr, port: u16 },
}

impl<'p> Question<'p> {
    pub(in crate::commands) fn parse(
        policy: &'p Policy,
        source: &str,
        callee: &str,
    ) -> Result<Self, String> {
        Ok(Self {
            caller: caller(policy, source)?,
            callee: Callee::parse(policy, callee)?,
        })
    }
}

/// Who is meant by `host`, `node:NAME`, an address, or the name of a service.
pub(in crate::commands) fn caller<'p>(
    policy: &'p Policy,
    source: &str,
) -> Result<Caller<'p>, String> {
    if source == "host" {
        return Ok(Caller::Host);
    }
    if let Some(name) = source.strip_prefix("node:") {
        return Ok(Caller::Node(node(policy, name)?));
    }
    if let Ok(address) = source.parse::<IpAddr>() {
        return Ok(Caller::Outside(address.to_canonical()));
    }
    Ok(Caller::Service(&service(policy, source)?.name))
}

impl<'p> Callee<'p> {
    pub(in crate::commands) fn parse(policy: &'p Policy, text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::at(policy, address));
        }
        let (name, port) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("{text}: give a port, such as {text}:80 or {text}:http"))?;
        let service = service(policy, name)?;
        let is_it = |port_of: &crate::policy::model::Port| {
            *port_of.name == *port || port_of.listen.to_string() == port
        };
        let port = service.ports.iter().position(is_it).ok_or_else(|| {
            let ports = service
                .ports
                .iter()
                .map(|port| format!("{} ({})", port.listen, port.name));
            let ports = ports.collect::<Vec<_>>().join(", ");
            format!("{name} has no port {port}; it declares: {ports}")
        })?;
        Ok(Self::Frontend { service, port })
    }

    /// What the mesh takes an address for, as the kernel side does.
    pub(in crate::commands) fn at(policy: &'p Policy, address: SocketAddr) -> Self {
        let ip = address.ip().to_canonical();
        let mut services = policy.services.values();
        if let Some(service) = services.find(|service| service.vip == Some(ip)) {
            let mut ports = service.ports.iter();
            return match ports.position(|port| port.listen == address.port()) {
                Some(port) => Self::Frontend { service, port },
                None => Self::UndeclaredPort(&service.name),
            };
        }
        let mut local_port = None;
        for service in policy.services.values() {
            for endpoint in &service.endpoints {
                if endpoint.address == SocketAddr::new(ip, address.port()) {
                    return Self::Endpoint { service, endpoint };
                }
                let local = endpoint.location == Location::Local;
                if local && endpoint.address.port() == address.port() {
                    local_port = Some(Self::Endpoint { service, endpoint });
                }
            }
        }
        let any_local = ip.is_loopback() || ip.is_unspecified();
        local_port.filter(|_| any_local).unwrap_or(Self::Outside {
            address: ip,
            port: address.port(),
        })
    }
}

fn node<'p>(policy: &'p Policy, name: &str) -> Result<&'p str, String> {
    let mut nodes = policy.nodes.iter().map(|node| &*node.name);
    nodes
        .find(|node| *node == name)
        .ok_or_else(|| format!("no node {name}: declare it by [[node]]"))
}

fn service<'p>(policy: &'p Policy, name: &str) -> Result<&'p Service, String> {
    let found = policy
        .services
        .values()
        .find(|service| service.name.to_string() == name);
    found.ok_or_else(|| {
        let names: Vec<String> = policy.services.keys().map(ToString::to_string).collect();
        let closest = names
            .iter()
            .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
        match closest {
            Some(closest) => format!("no service {name}; did you mean {closest}?"),
            None => format!("no service {name}: the policy has none"),
        }
    })
}
