//! Rules: who may call what. A rule that could never match is a mistake.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::declare::{RuleDecl, ServiceDecl};
use super::document::{List, Located, Value};
use super::names::{Names, twice};
use super::suggest;
use crate::policy::diagnostic::{Diagnostic, Problems};
use crate::policy::model::{Egress, Port, PortMatch, Rule, Source, Target};

pub(super) fn resolve<'d>(
    decls: &[RuleDecl<'d>],
    names: &Names<'d>,
    problems: &mut Problems,
) -> Vec<Rule> {
    let mut seen: BTreeMap<&str, &Located<'d, Arc<str>>> = BTreeMap::new();
    let mut rules = Vec::new();
    for decl in decls {
        if let Some(name) = &decl.name
            && let Some(first) = seen.insert(&name.value, name)
        {
            problems.push(twice(
                "duplicate-rule",
                &format!("the rule `{}`", name.value),
                name,
                first,
            ));
        }
        rules.extend(rule(decl, names, problems));
    }
    rules
}

fn rule<'d>(decl: &RuleDecl<'d>, names: &Names<'d>, problems: &mut Problems) -> Option<Rule> {
    empty("from", &decl.from, problems);
    empty("to", &decl.to, problems);
    let from = items(&decl.from, problems, |value, problems| {
        names.source(value, problems)
    });
    let to = items(&decl.to, problems, |value, problems| {
        names.target(value, problems)
    });
    repeated_ports(&decl.ports.items, problems);
    let understood = Understood {
        decl,
        names,
        from: &from,
        to: &to,
        from_complete: decl.from.complete && from.len() == decl.from.items.len(),
        to_complete: decl.to.complete && to.len() == decl.to.items.len(),
    };
    understood.from_outside(problems);
    understood.to_outside(problems);
    understood.services_with_ports(problems);
    understood.ports(problems);
    Some(Rule {
        name: Arc::clone(&decl.name.as_ref()?.value),
        action: decl.action,
        mode: decl.mode,
        from: from.into_iter().map(|source| source.value).collect(),
        to: to.into_iter().map(|target| target.value).collect(),
        ports: decl
            .ports
            .items
            .iter()
            .map(|port| port.value.clone())
            .collect(),
        place: decl.span.place(),
    })
}

fn empty<T>(key: &str, list: &List<'_, T>, problems: &mut Problems) {
    if let Some(span) = list.span.filter(|_| list.items.is_empty() && list.complete) {
        let diagnostic = Diagnostic::error(
            "never-matches",
            format!("a rule with an empty `{key}` matches nothing"),
        );
        let help = match key {
            "from" => "name callers, or \"*\" for every local process",
            _ => "name what is called, such as \"shop/payments\" or \"shop/*\"",
        };
        problems.push(
            diagnostic
                .label(span.label("this list is empty"))
                .help(help),
        );
    }
}

/// The elements that are understood; one that stands twice is kept once.
fn items<'d, T: PartialEq>(
    list: &List<'d, Value<'d>>,
    problems: &mut Problems,
    mut decode: impl FnMut(Value<'d>, &mut Problems) -> Option<T>,
) -> Vec<Located<'d, T>> {
    let mut items: Vec<Located<'d, T>> = Vec::new();
    for value in &list.items {
        let Some(item) = decode(*value, problems) else {
            continue;
        };
        if let Some(first) = items.iter().find(|other| other.value == item) {
            problems.push(repeated(value, first));
        }
        items.push(value.span.at(item));
    }
    items
}

fn repeated<T, U>(again: &Located<'_, T>, first: &Located<'_, U>) -> Diagnostic {
    again
        .warning(
            "repeated-item",
            "this stands twice in one list",
            "again here",
        )
        .label(first.label("the first time"))
        .help("remove one of the two")
}

fn repeated_ports(ports: &[Located<'_, PortMatch>], problems: &mut Problems) {
    for (index, port) in ports.iter().enumerate() {
        if let Some(first) = ports
            .iter()
            .take(index)
            .find(|other| other.value == port.value)
        {
            problems.push(repeated(port, first));
        }
    }
}

/// A rule as far as its names are known.
struct Understood<'r, 'd> {
    decl: &'r RuleDecl<'d>,
    names: &'r Names<'d>,
    from: &'r [Located<'d, Source>],
    to: &'r [Located<'d, Target>],
    from_complete: bool,
    to_complete: bool,
}

impl<'d> Understood<'_, 'd> {
    /// Callers outside the mesh.
    fn from_outside(&self, problems: &mut Problems) {
        let outside = |source: &&Located<'d, Source>| {
            matches!(source.value, Source::Cidr(_) | Source::Node(_))
        };
        let Some(source) = self.from.iter().find(outside) else {
            return;
        };
        if let Some(target) = self.first_cidr_target() {
            let diagnostic = source.error(
                "never-matches",
                "from outside to outside: this host never sees such a call",
                "a caller outside the mesh",
            );
            problems.push(
                diagnostic
                    .label(target.label("a target outside the mesh"))
                    .help("write two rules: one for calls that come in, one for calls that go out"),
            );
            return;
        }
        let message = "connections from other hosts are not judged by this version";
        let diagnostic = source.warning("inbound-only", message, "never matches a local caller");
        problems.push(diagnostic.help("keep the rule for later, and do not rely on it yet"));
    }

    fn first_cidr_target(&self) -> Option<&Located<'d, Target>> {
        self.to
            .iter()
            .find(|target| matches!(target.value, Target::Cidr(_)))
    }

    /// Targets outside the mesh.
    fn to_outside(&self, problems: &mut Problems) {
        let Some(target) = self.first_cidr_target() else {
            return;
        };
        let by_name = |port: &&Located<'d, PortMatch>| matches!(port.value, PortMatch::Name(_));
        if let Some(port) = self.decl.ports.items.iter().find(by_name) {
            let diagnostic = port.error(
                "port-name-outside",
                "an address outside the mesh has no port names",
                "a name",
            );
            problems.push(
                diagnostic
                    .label(target.label("outside the mesh"))
                    .help("write the port's number, such as 443"),
            );
        }
        let mut callers = self
            .from
            .iter()
            .flat_map(|source| self.names.sources(&source.value));
        let unsure = !self.from_complete || !self.names.complete || self.from.is_empty();
        if !unsure && !callers.any(|caller| caller.egress == Some(Egress::Deny)) {
            let message = "no caller of this rule has `egress = \"deny\"`, so nothing outside the mesh is refused to it";
            let diagnostic = target.error("never-matches", message, "outside the mesh");
            problems.push(
                diagnostic.help(
                    "add egress = \"deny\" to the calling [[service]], or remove this target",
                ),
            );
        }
    }

    fn target_services(&self) -> impl Iterator<Item = &ServiceDecl<'d>> {
        self.to
            .iter()
            .flat_map(|target| self.names.targets(&target.value))
    }

    /// A target that nobody can dial.
    fn services_with_ports(&self, problems: &mut Problems) {
        if !self.names.complete {
            return;
        }
        for target in self
            .to
            .iter()
            .filter(|target| !matches!(target.value, Target::Cidr(_)))
        {
            let has_ports = |service: &ServiceDecl<'_>| {
                !service.ports.items.is_empty() || !service.ports.complete
            };
            let mut services = self.names.targets(&target.value);
            if services.any(has_ports) {
                continue;
            }
            let what = match &target.value {
                Target::Namespace(namespace) => format!("no service of `{namespace}` has ports"),
                Target::Service(name) => format!("`{name}` has no ports"),
                Target::Cidr(_) => continue,
            };
            let diagnostic = target.error(
                "never-matches",
                format!("{what}, so nobody can call it"),
                "cannot be called",
            );
            problems.push(diagnostic.help("add `ports` to the service, or remove it from `to`"));
        }
    }

    /// Ports that no target has.
    fn ports(&self, problems: &mut Problems) {
        let services: Vec<&ServiceDecl<'d>> = self.target_services().collect();
        let unsure = !self.to_complete
            || !self.names.complete
            || services.iter().any(|service| !service.ports.complete);
        let outside = self.first_cidr_target().is_some();
        let ports: Vec<_> = services
            .iter()
            .flat_map(|service| &service.ports.items)
            .collect();
        if unsure || ports.is_empty() {
            return;
        }
        for wanted in &self.decl.ports.items {
            let has = |port: &Port| wanted.value.matches(port);
            let any = ports.iter().any(|port| {
                has(&Port {
                    name: Arc::clone(&port.name.value),
                    listen: port.listen.value,
                    protocol: port.protocol,
                })
            });
            if any || outside {
                continue;
            }
            problems.push(unknown_port(
                wanted,
                &ports
                    .iter()
                    .map(|port| &*port.name.value)
                    .collect::<Vec<_>>(),
            ));
        }
    }
}

fn unknown_port(wanted: &Located<'_, PortMatch>, known: &[&str]) -> Diagnostic {
    let mut names = known.to_vec();
    names.sort_unstable();
    names.dedup();
    let names = names.into_iter();
    let (shown, help) = match &wanted.value {
        PortMatch::Name(name) => (
            name.to_string(),
            suggest::help(name, names, "their ports", ""),
        ),
        PortMatch::Number(number) => (
            number.to_string(),
            format!(
                "a number is the port that clients dial, not the endpoint's; their ports: {}",
                suggest::listed(names)
            ),
        ),
    };
    let message = format!("no target of this rule has the port {}", Quoted(&shown));
    wanted
        .error("unknown-port", message, "no such port")
        .help(help)
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}
