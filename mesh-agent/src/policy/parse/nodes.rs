//! Nodes, and which of them an endpoint is on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::LocalNode;
use super::declare::{EndpointDecl, NodeDecl};
use super::document::Located;
use super::names::{Names, twice};
use crate::policy::diagnostic::{Diagnostic, Problems};
use crate::policy::model::{Location, Node};
use crate::policy::vip;

/// The nodes of the mesh, with this one.
pub(super) struct Nodes<'d> {
    local: &'d LocalNode,
    by_address: BTreeMap<IpAddr, Arc<str>>,
    declared: Vec<Node>,
    places: Vec<Located<'d, IpAddr>>,
    several: bool,
}

impl<'d> Nodes<'d> {
    pub(super) fn new(
        decls: &[NodeDecl<'d>],
        local: &'d LocalNode,
        problems: &mut Problems,
    ) -> Self {
        let mut nodes = Self {
            local,
            by_address: BTreeMap::new(),
            declared: Vec::new(),
            places: Vec::new(),
            several: decls.iter().any(|node| node.name.value != local.name),
        };
        let mut names: BTreeMap<&str, Located<'d, &str>> = BTreeMap::new();
        for decl in decls {
            if let Some(first) = names.get(&*decl.name.value) {
                let what = format!("the node `{}`", decl.name.value);
                problems.push(twice("duplicate-node", &what, &decl.name, first));
                continue;
            }
            names.insert(&decl.name.value, decl.name.span.at(&*decl.name.value));
            if let Some(address) = &decl.address {
                let added = nodes.add(&decl.name.value, *address);
                problems.ok(added);
            }
        }
        nodes.add_local();
        nodes
    }

    fn add(&mut self, name: &Arc<str>, address: Located<'d, IpAddr>) -> Result<(), Diagnostic> {
        let what = vip::not_unicast(address.value);
        let what = what.or(address.value.is_loopback().then_some("loopback"));
        if let Some(what) = what {
            return Err(address
                .error(
                    "invalid-node-address",
                    format!("`{}` cannot be a node's address", address.value),
                    format!("a {what} address"),
                )
                .help("write the address where the other nodes reach it"));
        }
        if let Some(other) = self.by_address.get(&address.value) {
            let message = format!("the nodes `{other}` and `{name}` have the same address");
            let first = self
                .places
                .iter()
                .find(|place| place.value == address.value);
            let diagnostic = address.error("duplicate-address", message, "this one");
            let diagnostic = first
                .into_iter()
                .fold(diagnostic, |d, first| d.label(first.label("and this one")));
            return Err(diagnostic.help("each node has its own address"));
        }
        self.contradiction(name, address)?;
        self.by_address.insert(address.value, Arc::clone(name));
        self.places.push(address);
        self.declared.push(Node {
            name: Arc::clone(name),
            address: address.value,
        });
        Ok(())
    }

    /// What the files say of this node must be what agent.toml says.
    fn contradiction(
        &self,
        name: &Arc<str>,
        address: Located<'d, IpAddr>,
    ) -> Result<(), Diagnostic> {
        let Some(own) = self.local.address else {
            return Ok(());
        };
        let is_local = *name == self.local.name;
        if is_local == (own == address.value) {
            return Ok(());
        }
        let message = if is_local {
            format!("this node is `{name}`, and its address in agent.toml is {own}")
        } else {
            format!(
                "{own} is this node's address in agent.toml, where it is named `{}`",
                self.local.name
            )
        };
        Err(address
            .error(
                "node-mismatch",
                message,
                format!("says {name} is {}", address.value),
            )
            .help("make [[node]] and [node] in agent.toml say the same"))
    }

    fn add_local(&mut self) {
        let Some(address) = self.local.address else {
            return;
        };
        if self.by_address.contains_key(&address) {
            return;
        }
        self.by_address
            .insert(address, Arc::clone(&self.local.name));
        self.declared.push(Node {
            name: Arc::clone(&self.local.name),
            address,
        });
    }

    /// Which host `endpoint` is on.
    pub(super) fn locate(
        &self,
        endpoint: &EndpointDecl<'d>,
        names: &Names<'d>,
    ) -> Result<Location, Diagnostic> {
        match self.host(endpoint, names)? {
            Location::Node(_) if endpoint.in_clear => Ok(Location::External),
            location => Ok(location),
        }
    }

    fn host(&self, endpoint: &EndpointDecl<'d>, names: &Names<'d>) -> Result<Location, Diagnostic> {
        let Some(node) = &endpoint.node else {
            return self.locate_by_address(endpoint, names);
        };
        if names.nodes.contains(&node.value) || !names.complete {
            return Ok(self.location(&node.value));
        }
        Err(names.unknown_node(node))
    }

    fn locate_by_address(
        &self,
        endpoint: &EndpointDecl<'d>,
        names: &Names<'d>,
    ) -> Result<Location, Diagnostic> {
        let address = endpoint.address.value.ip();
        if let Some(node) = self.by_address.get(&address) {
            return Ok(self.location(node));
        }
        if !address.is_loopback() {
            return Ok(Location::External);
        }
        if !self.several {
            return Ok(Location::Local);
        }
        let nodes = super::suggest::listed(names.nodes.iter().map(|node| &**node));
        Err(endpoint
            .address
            .error(
                "ambiguous-loopback",
                format!("there are several nodes, and each has `{address}`"),
                "on which node?",
            )
            .help(format!("add node = \"..\" with one of {nodes}")))
    }

    fn location(&self, node: &Arc<str>) -> Location {
        if *node == self.local.name {
            Location::Local
        } else {
            Location::Node(Arc::clone(node))
        }
    }

    /// This node's address.
    pub(super) fn local_address(&self) -> Option<IpAddr> {
        self.local.address
    }

    /// Where the files give a node's address.
    pub(super) fn places(&self) -> &[Located<'d, IpAddr>] {
        &self.places
    }

    pub(super) fn into_model(self) -> Vec<Node> {
        self.declared
    }
}
