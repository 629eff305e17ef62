//! Everything that can be referred to by name, and the references.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use toml::de::DeValue;

use super::LocalNode;
use super::declare::{NodeDecl, ServiceDecl};
use super::decode;
use super::document::{Fields, Located, Value};
use super::suggest;
use crate::policy::diagnostic::{Diagnostic, Problems, Severity};
use crate::policy::model::{ServiceName, Source, Target};

/// What is declared, by name.
pub(super) struct Names<'d> {
    pub(super) services: BTreeMap<ServiceName, ServiceDecl<'d>>,
    pub(super) namespaces: BTreeSet<Arc<str>>,
    pub(super) nodes: BTreeSet<Arc<str>>,
    /// The name of this one.
    pub(super) local: Arc<str>,
    /// Whether what is not here does not exist.
    pub(super) complete: bool,
}

impl<'d> Names<'d> {
    /// Indexes the declarations; the second of the same name is reported and left out.
    pub(super) fn new(
        services: Vec<ServiceDecl<'d>>,
        nodes: &[NodeDecl<'d>],
        local: &LocalNode,
        complete: bool,
        problems: &mut Problems,
    ) -> Self {
        let mut names = Self {
            services: BTreeMap::new(),
            namespaces: BTreeSet::new(),
            nodes: nodes
                .iter()
                .map(|node| Arc::clone(&node.name.value))
                .collect(),
            local: Arc::clone(&local.name),
            complete,
        };
        names.nodes.insert(Arc::clone(&local.name));
        for service in services {
            let name = service.name.value.clone();
            if let Some(first) = names.services.get(&name) {
                let what = format!("the service `{name}`");
                problems.push(twice(
                    "duplicate-service",
                    &what,
                    &service.name,
                    &first.name,
                ));
                continue;
            }
            names.namespaces.insert(Arc::clone(&name.namespace));
            names.services.insert(name, service);
        }
        names
    }

    /// The services that `target` means; none for addresses.
    pub(super) fn targets<'n>(
        &'n self,
        target: &'n Target,
    ) -> Box<dyn Iterator<Item = &'n ServiceDecl<'d>> + 'n> {
        match target {
            Target::Service(name) => Box::new(self.services.get(name).into_iter()),
            Target::Namespace(namespace) => self.of_namespace(namespace),
            Target::Cidr(_) => Box::new(std::iter::empty()),
        }
    }

    /// The services that `source` means; none for processes and hosts that are no service.
    pub(super) fn sources<'n>(
        &'n self,
        source: &'n Source,
    ) -> Box<dyn Iterator<Item = &'n ServiceDecl<'d>> + 'n> {
        match source {
            Source::Service(name) => Box::new(self.services.get(name).into_iter()),
            Source::Namespace(namespace) => self.of_namespace(namespace),
            Source::Any => Box::new(self.services.values()),
            Source::Host | Source::Cidr(_) | Source::Node(_) => Box::new(std::iter::empty()),
        }
    }

    fn of_namespace<'n>(
        &'n self,
        namespace: &'n Arc<str>,
    ) -> Box<dyn Iterator<Item = &'n ServiceDecl<'d>> + 'n> {
        let first = ServiceName {
            namespace: Arc::clone(namespace),
            name: "".into(),
        };
        let rest = self.services.range(first..);
        let within = rest.take_while(move |(name, _)| name.namespace == *namespace);
        Box::new(within.map(|(_, service)| service))
    }

    /// The caller that an element of `from` names.
    pub(super) fn source(&self, value: Value<'d>, problems: &mut Problems) -> Option<Source> {
        if matches!(value.value, DeValue::Table(_)) {
            return self.outside_source(value, problems);
        }
        let text = problems.ok(decode::text(value, SOURCE_EXAMPLES))?;
        match text {
            "*" => return Some(Source::Any),
            "host" => return Some(Source::Host),
            _ => {}
        }
        match problems.ok(self.reference(value, text, SOURCE_EXAMPLES))? {
            Reference::Service(name) => Some(Source::Service(name)),
            Reference::Namespace(namespace) => {
                // Rules about callers to come are sensible: `from = ["dev/*"]` in a [[deny]].
                let empty = self.empty_namespace(value, &namespace);
                let typo = empty.as_ref().is_some_and(Diagnostic::is_error);
                problems.extend(empty);
                (!typo).then_some(Source::Namespace(namespace))
            }
        }
    }

    fn outside_source(&self, value: Value<'d>, problems: &mut Problems) -> Option<Source> {
        let mut fields = Fields::of(value, "a caller", SOURCE_EXAMPLES, problems)?;
        let cidr = fields.optional("cidr", decode::cidr);
        let node = fields.optional("node", |v| self.node(v));
        let both = fields.has("cidr") && fields.has("node");
        let neither = !fields.has("cidr") && !fields.has("node");
        let sound = fields.finish();
        if both || (neither && sound) {
            let message = "a caller in braces is either a `cidr` or a `node`";
            let diagnostic = value.error("invalid-source", message, "one of the two is expected");
            problems.push(
                diagnostic.help("write { cidr = \"192.168.1.0/24\" } or { node = \"edge-2\" }"),
            );
            return None;
        }
        let source = cidr.map(|cidr| Source::Cidr(cidr.value));
        let of_node = |node: Arc<str>| {
            if node == self.local {
                Source::Host
            } else {
                Source::Node(node)
            }
        };
        source.or(node.map(|node| of_node(node.value)))
    }

    /// What an element of `to` names.
    pub(super) fn target(&self, value: Value<'d>, problems: &mut Problems) -> Option<Target> {
        if matches!(value.value, DeValue::Table(_)) {
            let mut fields = Fields::of(value, "a target", TARGET_EXAMPLES, problems)?;
            let cidr = fields.required("cidr", "cidr = \"192.0.2.0/24\"", decode::cidr);
            fields.finish();
            return cidr.map(|cidr| Target::Cidr(cidr.value));
        }
        let text = problems.ok(decode::text(value, TARGET_EXAMPLES))?;
        if text == "*" || text == "host" {
            let message = format!("`{text}` cannot be called");
            let diagnostic = value.error("invalid-target", message, "not a service");
            problems
                .push(diagnostic.help(format!("name services or namespaces: {TARGET_EXAMPLES}")));
            return None;
        }
        match problems.ok(self.reference(value, text, TARGET_EXAMPLES))? {
            Reference::Service(name) => Some(Target::Service(name)),
            Reference::Namespace(namespace) => match self.empty_namespace(value, &namespace) {
                None => Some(Target::Namespace(namespace)),
                Some(mut empty) => {
                    empty.severity = Severity::Error;
                    problems.push(empty);
                    None
                }
            },
        }
    }

    /// The declared service that `value` names.
    pub(super) fn service(&self, value: Value<'d>) -> Result<ServiceName, Diagnostic> {
        let example = "\"shop/payments\"";
        let text = decode::text(value, example)?;
        match self.reference(value, text, example)? {
            Reference::Service(name) => Ok(name),
            Reference::Namespace(_) => Err(value
                .error(
                    "invalid-reference",
                    "one service is expected here",
                    "this is a namespace",
                )
                .help(format!("name one service: {example}"))),
        }
    }

    /// The declared node that `value` names.
    pub(super) fn node(&self, value: Value<'d>) -> Result<Arc<str>, Diagnostic> {
        let name = decode::name(value, "node name")?;
        if self.nodes.contains(&name) || !self.complete {
            return Ok(name);
        }
        Err(self.unknown_node(&value.span.at(name)))
    }

    pub(super) fn unknown_node(&self, node: &Located<'d, Arc<str>>) -> Diagnostic {
        let name = &node.value;
        let known = self.nodes.iter().map(|node| &**node);
        let help = match suggest::closest(name, known.clone()) {
            Some(close) => format!("did you mean `{close}`?"),
            None => format!(
                "declare it by [[node]] with name and address; known nodes: {}",
                suggest::listed(known)
            ),
        };
        node.error(
            "unknown-node",
            format!("no node `{name}`"),
            "not declared in any file",
        )
        .help(help)
    }

    fn reference(
        &self,
        value: Value<'d>,
        text: &str,
        examples: &str,
    ) -> Result<Reference, Diagnostic> {
        let Some((namespace, name)) = text.split_once('/') else {
            return Err(self.without_namespace(value, text, examples));
        };
        let namespace = decode::name_in(value, namespace, "namespace")?;
        if name == "*" {
            return Ok(Reference::Namespace(namespace));
        }
        let name = decode::name_in(value, name, "service name")?;
        let name = ServiceName { namespace, name };
        // A policy names its services far more often than it has any: one copy of each name.
        if let Some((known, _)) = self.services.get_key_value(&name) {
            return Ok(Reference::Service(known.clone()));
        }
        if !self.complete {
            return Ok(Reference::Service(name));
        }
        let names: Vec<String> = self.services.keys().map(ToString::to_string).collect();
        let known = names.iter().map(String::as_str);
        let help = suggest::help(
            text,
            known,
            "declared services",
            "declare it by [[service]]",
        );
        Err(value
            .error(
                "unknown-service",
                format!("no service `{text}`"),
                "not declared in any file",
            )
            .help(help))
    }

    /// What to say where no service is in `namespace`: an error where something else was
    /// probably meant, else a warning.
    fn empty_namespace(&self, value: Value<'d>, namespace: &str) -> Option<Diagnostic> {
        if self.namespaces.contains(namespace) || !self.complete {
            return None;
        }
        let known = self.namespaces.iter().map(|namespace| &**namespace);
        let message = format!("no service is in the namespace `{namespace}`");
        let (code, text) = ("unknown-namespace", "not declared in any file");
        Some(match suggest::closest(namespace, known.clone()) {
            Some(close) => value
                .error(code, message, text)
                .help(format!("did you mean `{close}/*`?")),
            None => value.warning(code, message, text).help(format!(
                "namespaces with services: {}",
                suggest::listed(known)
            )),
        })
    }

    fn without_namespace(&self, value: Value<'d>, text: &str, examples: &str) -> Diagnostic {
        let of_name = self
            .services
            .keys()
            .filter(|service| *service.name == *text);
        let likely: Vec<String> = of_name.map(ToString::to_string).collect();
        let help = if self.namespaces.contains(text) {
            format!("for every service of the namespace write `{text}/*`")
        } else if !likely.is_empty() {
            format!(
                "write {}",
                suggest::listed(likely.iter().map(String::as_str))
            )
        } else {
            let names: Vec<String> = self.services.keys().map(ToString::to_string).collect();
            let by_name = self.services.keys().map(|service| &*service.name);
            let close = suggest::closest(text, by_name);
            let full = names
                .iter()
                .find(|full| close.is_some_and(|close| full.ends_with(&format!("/{close}"))));
            full.map_or_else(
                || format!("write it as in {examples}"),
                |full| format!("did you mean `{full}`?"),
            )
        };
        let message = format!("`{text}` lacks its namespace");
        value
            .error("invalid-reference", message, "expected namespace/name")
            .help(help)
    }
}

enum Reference {
    Service(ServiceName),
    Namespace(Arc<str>),
}

/// Two things of one name, each shown.
pub(super) fn twice<T, U>(
    code: &'static str,
    what: &str,
    second: &Located<'_, T>,
    first: &Located<'_, U>,
) -> Diagnostic {
    second
        .error(
            code,
            format!("{what} is declared twice"),
            "declared again here",
        )
        .label(first.label("declared here"))
        .help("remove one of the two, or give it another name")
}

const SOURCE_EXAMPLES: &str =
    "\"shop/checkout\", \"shop/*\", \"*\", \"host\" or { cidr = \"192.168.1.0/24\" }";
const TARGET_EXAMPLES: &str = "\"shop/payments\", \"shop/*\" or { cidr = \"192.0.2.0/24\" }";
