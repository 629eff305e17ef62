//! One file's tables as declarations: every value decoded, no name looked up yet.

mod leaving;
mod rules;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::{DeTable, DeValue};

use super::decode;
use super::document::{Document, Fields, List, Located, Span, Value};
use super::workload;
use crate::policy::diagnostic::Problems;
use crate::policy::model::{
    Action, DefaultAction, Egress, OnWeightChange, Port, Protocol, ServiceName, Tls, Workload,
};
use crate::policy::vip;
pub(super) use rules::{RuleDecl, SplitDecl, Weights};

/// Everything the files declare, in the order of the files.
#[derive(Default)]
pub(super) struct Declared<'d> {
    pub(super) defaults: Vec<Located<'d, DefaultAction>>,
    pub(super) vip_ranges: Vec<Located<'d, IpNet>>,
    pub(super) nodes: Vec<NodeDecl<'d>>,
    pub(super) services: Vec<ServiceDecl<'d>>,
    pub(super) splits: Vec<SplitDecl<'d>>,
    pub(super) rules: Vec<RuleDecl<'d>>,
    /// Whether something may be declared that is not here: a file could not be read, or the
    /// name of a service or node not understood.
    pub(super) incomplete: bool,
}

pub(super) struct NodeDecl<'d> {
    pub(super) name: Located<'d, Arc<str>>,
    pub(super) address: Option<Located<'d, IpAddr>>,
}

pub(super) struct ServiceDecl<'d> {
    pub(super) name: Located<'d, ServiceName>,
    pub(super) span: Span<'d>,
    pub(super) vip: Option<Located<'d, IpAddr>>,
    /// Whether there is a `vip`, understood or not.
    pub(super) has_vip: bool,
    pub(super) ports: List<'d, PortDecl<'d>>,
    pub(super) workload: Option<Located<'d, Workload>>,
    pub(super) has_workload: bool,
    /// `None` if it was not understood.
    pub(super) egress: Option<Egress>,
    pub(super) affinity: Option<Duration>,
    pub(super) on_weight_change: OnWeightChange,
    pub(super) tls: Tls,
    pub(super) endpoints: List<'d, EndpointDecl<'d>>,
}

pub(super) struct PortDecl<'d> {
    pub(super) name: Located<'d, Arc<str>>,
    pub(super) listen: Located<'d, u16>,
    pub(super) protocol: Protocol,
}

pub(super) struct EndpointDecl<'d> {
    pub(super) span: Span<'d>,
    pub(super) address: Located<'d, SocketAddr>,
    pub(super) version: Located<'d, Arc<str>>,
    pub(super) node: Option<Located<'d, Arc<str>>>,
    pub(super) weight: u32,
    pub(super) port: Option<Located<'d, Arc<str>>>,
    /// Whether `tls = "off"`: reached in clear, wherever it is.
    pub(super) in_clear: bool,
}

impl<'d> Declared<'d> {
    /// Adds what `table`, the whole of `document`, declares.
    pub(super) fn read(
        &mut self,
        document: &'d Document<'d>,
        table: &'d DeTable<'d>,
        problems: &mut Problems,
    ) {
        let all = document.span(0..document.text().len());
        let mut fields = Fields::new(table, all, "the file", problems);
        self.read_mesh(&mut fields);
        for value in tables(&mut fields, "node", self) {
            let node = node(value, fields.problems);
            self.incomplete |= node.is_none();
            self.nodes.extend(node);
        }
        for value in tables(&mut fields, "service", self) {
            let service = service(value, fields.problems);
            self.incomplete |= service.is_none();
            self.services.extend(service);
        }
        for value in tables(&mut fields, "split", self) {
            self.splits.extend(rules::split(value, fields.problems));
        }
        let mut rules = Vec::new();
        for (key, action) in [("allow", Action::Allow), ("deny", Action::Deny)] {
            for value in tables(&mut fields, key, self) {
                rules.extend(rules::rule(value, action, fields.problems));
            }
        }
        // In the order of the lines, whichever kind they are.
        rules.sort_by_key(|rule| rule.span.start());
        self.rules.extend(rules);
        self.incomplete |= !fields.finish();
    }

    fn read_mesh(&mut self, fields: &mut Fields<'d, '_>) {
        let Some(value) = fields.value("mesh") else {
            return;
        };
        let example = "[mesh] on a line of its own";
        let Some(mut mesh) = Fields::of(value, "[mesh]", example, fields.problems) else {
            return;
        };
        self.defaults
            .extend(mesh.optional("default", |v| decode::choice(v, DEFAULTS)));
        self.vip_ranges
            .extend(mesh.optional("vip_range", vip::range));
        mesh.finish();
    }
}

impl PortDecl<'_> {
    pub(super) fn model(&self) -> Port {
        Port {
            name: Arc::clone(&self.name.value),
            listen: self.listen.value,
            protocol: self.protocol,
        }
    }
}

/// The tables of `[[key]]`.
fn tables<'d>(
    fields: &mut Fields<'d, '_>,
    key: &'static str,
    declared: &mut Declared<'d>,
) -> Vec<Value<'d>> {
    let example = format!("[[{key}]], with two brackets, on a line of its own");
    let list = fields.list(key, &example, |value, problems| match value.value {
        DeValue::Table(_) => Some(value),
        _ => {
            let expected = format!("`{key}` is a list of tables");
            problems.push(decode::wrong_type(value, &expected, &example));
            None
        }
    });
    declared.incomplete |= !list.complete;
    list.items
}

fn node<'d>(value: Value<'d>, problems: &mut Problems) -> Option<NodeDecl<'d>> {
    let mut fields = Fields::of(value, "[[node]]", "[[node]]", problems)?;
    let name = fields.required("name", "name = \"edge-2\"", |v| {
        decode::name(v, "node name")
    });
    let example = "address = \"10.0.0.12\", where the other nodes reach it";
    let address = fields.required("address", example, decode::ip);
    fields.finish();
    Some(NodeDecl {
        name: name?,
        address,
    })
}

fn service<'d>(value: Value<'d>, problems: &mut Problems) -> Option<ServiceDecl<'d>> {
    let mut fields = Fields::of(value, "[[service]]", "[[service]]", problems)?;
    let name = fields.required("name", "name = \"checkout\"", |v| {
        decode::name(v, "service name")
    });
    let has_namespace = fields.has("namespace");
    let namespace = fields.optional("namespace", |v| decode::name(v, "namespace"));
    let has_vip = fields.has("vip");
    let vip = fields.optional("vip", vip::address);
    let ports = fields.list("ports", PORTS_EXAMPLE, port);
    let has_workload = fields.has("workload");
    let workload = fields.value("workload").and_then(|value| {
        workload::decode(value, fields.problems).map(|workload| value.span.at(workload))
    });
    let no_egress = (!fields.has("egress")).then_some(Egress::Allow);
    let egress = fields.optional("egress", |v| decode::choice(v, EGRESS));
    let affinity = affinity(&mut fields);
    let on_weight_change = leaving::on_weight_change(&mut fields);
    let tls = fields.optional("tls", |v| decode::choice(v, TLS));
    let endpoints = fields.list("endpoints", ENDPOINTS_EXAMPLE, endpoint);
    let span = fields.span;
    fields.finish();
    let name = name?;
    if has_namespace && namespace.is_none() {
        return None;
    }
    let namespace = namespace.map_or_else(|| "default".into(), |namespace| namespace.value);
    Some(ServiceDecl {
        name: name.span.at(ServiceName {
            namespace,
            name: name.value,
        }),
        span,
        vip,
        has_vip,
        ports,
        workload,
        has_workload,
        egress: egress.map(|egress| egress.value).or(no_egress),
        affinity,
        on_weight_change,
        tls: tls.map_or(Tls::default(), |tls| tls.value),
        endpoints,
    })
}

fn affinity(fields: &mut Fields<'_, '_>) -> Option<Duration> {
    let choices = [("none", false), ("client", true)];
    let affinity = fields.optional("affinity", |v| decode::choice(v, &choices));
    let misspelt = affinity.is_none() && fields.has("affinity");
    let timeout = fields.optional("affinity_timeout", decode::duration);
    if affinity.is_some_and(|affinity| affinity.value) {
        return Some(timeout.map_or(DEFAULT_AFFINITY, |timeout| timeout.value));
    }
    if let Some(timeout) = timeout.filter(|_| !misspelt) {
        let message = "`affinity_timeout` without `affinity = \"client\"` does nothing";
        let unused = timeout.warning("unused-setting", message, "not used");
        fields
            .problems
            .push(unused.help("add affinity = \"client\", or remove this line"));
    }
    None
}

fn port<'d>(value: Value<'d>, problems: &mut Problems) -> Option<PortDecl<'d>> {
    let mut fields = Fields::of(
        value,
        "a port",
        "{ name = \"http\", listen = 80 }",
        problems,
    )?;
    let name = fields.required("name", "name = \"http\"", |v| decode::name(v, "port name"));
    let listen = fields.required(
        "listen",
        "listen = 80, the port that clients dial",
        decode::port,
    );
    let protocol = fields.optional("protocol", |v| decode::choice(v, PROTOCOLS));
    let sound = fields.finish();
    let port = PortDecl {
        name: name?,
        listen: listen?,
        protocol: protocol.map_or(Protocol::Tcp, |protocol| protocol.value),
    };
    sound.then_some(port)
}

fn endpoint<'d>(value: Value<'d>, problems: &mut Problems) -> Option<EndpointDecl<'d>> {
    let mut fields = Fields::of(
        value,
        "an endpoint",
        "{ address = \"127.0.0.1:8081\" }",
        problems,
    )?;
    let example = "address = \"127.0.0.1:8081\", where the instance listens";
    let address = fields.required("address", example, decode::socket_address);
    let version = fields.optional("version", |v| decode::name(v, "version"));
    let node = fields.optional("node", |v| decode::name(v, "node name"));
    let weight = fields.optional("weight", |v| {
        decode::number(
            v,
            1..=u32::MAX,
            "invalid-weight",
            "an endpoint's weight is a whole number from 1",
        )
    });
    let port = fields.optional("port", |v| decode::name(v, "port name"));
    let choices = [("mutual", false), ("off", true)];
    let tls = fields.optional("tls", |v| decode::choice(v, &choices));
    let span = fields.span;
    let sound = fields.finish();
    let endpoint = EndpointDecl {
        span,
        address: address?,
        version: version.unwrap_or_else(|| span.at("default".into())),
        node,
        weight: weight.map_or(1, |weight| weight.value),
        port,
        in_clear: tls.is_some_and(|tls| tls.value),
    };
    sound.then_some(endpoint)
}

const DEFAULTS: &[(&str, DefaultAction)] = &[
    ("deny", DefaultAction::Deny),
    ("allow", DefaultAction::Allow),
];
const EGRESS: &[(&str, Egress)] = &[("allow", Egress::Allow), ("deny", Egress::Deny)];
const TLS: &[(&str, Tls)] = &[("strict", Tls::Strict), ("permissive", Tls::Permissive)];
const PROTOCOLS: &[(&str, Protocol)] = &[
    ("tcp", Protocol::Tcp),
    ("udp", Protocol::Udp),
    ("http", Protocol::Http),
    ("grpc", Protocol::Grpc),
];
const DEFAULT_AFFINITY: Duration = Duration::from_secs(600);
const PORTS_EXAMPLE: &str = "ports = [{ name = \"http\", listen = 80 }]";
const ENDPOINTS_EXAMPLE: &str = "endpoints = [{ address = \"127.0.0.1:8081\" }]";
