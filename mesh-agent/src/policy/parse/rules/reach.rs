//! Whether a rule can match anything. One that cannot is a mistake.

use crate::policy::diagnostic::{Diagnostic, Problems};
use crate::policy::model::{Egress, Port, PortMatch, Source, Target};
use crate::policy::parse::declare::{PortDecl, ServiceDecl};
use crate::policy::parse::document::{List, Located};
use crate::policy::parse::names::Names;
use crate::policy::parse::suggest;

/// What a rule reaches, as far as its names are known.
pub(super) struct Reach<'r, 'd> {
    pub(super) names: &'r Names<'d>,
    pub(super) from: &'r List<'d, Located<'d, Source>>,
    pub(super) to: &'r List<'d, Located<'d, Target>>,
    pub(super) ports: &'r List<'d, Located<'d, PortMatch>>,
}

impl<'d> Reach<'_, 'd> {
    /// Reports what could never match.
    pub(super) fn problems(&self, problems: &mut Problems) {
        self.outside_sources(problems);
        self.outside_targets(problems);
        self.undialled(problems);
        self.unknown_ports(problems);
    }

    /// Callers outside the mesh.
    fn outside_sources(&self, problems: &mut Problems) {
        let outside = |source: &&Located<'d, Source>| {
            matches!(source.value, Source::Cidr(_) | Source::Node(_))
        };
        let Some(source) = self.from.items.iter().find(outside) else {
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
        }
    }

    fn first_cidr_target(&self) -> Option<&Located<'d, Target>> {
        self.to
            .items
            .iter()
            .find(|target| matches!(target.value, Target::Cidr(_)))
    }

    /// Targets outside the mesh.
    fn outside_targets(&self, problems: &mut Problems) {
        let Some(target) = self.first_cidr_target() else {
            return;
        };
        let by_name = |port: &&Located<'d, PortMatch>| matches!(port.value, PortMatch::Name(_));
        if let Some(port) = self.ports.items.iter().find(by_name) {
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
            .items
            .iter()
            .flat_map(|source| self.names.sources(&source.value));
        let unsure = !self.from.complete || !self.names.complete || self.from.items.is_empty();
        if !unsure && !callers.any(|caller| caller.egress != Some(Egress::Allow)) {
            let message = "no caller of this rule has `egress = \"deny\"`, so nothing \
                outside the mesh is refused to it";
            let diagnostic = target.error("never-matches", message, "outside the mesh");
            problems.push(
                diagnostic.help(
                    "add egress = \"deny\" to the calling [[service]], or remove this target",
                ),
            );
        }
    }

    /// A target that nobody can dial.
    fn undialled(&self, problems: &mut Problems) {
        if !self.names.complete {
            return;
        }
        for target in self
            .to
            .items
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
    fn unknown_ports(&self, problems: &mut Problems) {
        let outside = self.first_cidr_target().is_some();
        if self.ports.items.is_empty() || outside || !self.to.complete || !self.names.complete {
            return;
        }
        let targets = self.to.items.iter();
        let mut services = targets.flat_map(|target| self.names.targets(&target.value));
        let mut ports = Vec::new();
        if services.any(|service| {
            ports.extend(service.ports.items.iter().map(PortDecl::model));
            !service.ports.complete
        }) {
            return;
        }
        for wanted in &self.ports.items {
            let known = ports.iter().any(|port| wanted.value.matches(port));
            if !known && !ports.is_empty() && !problems.is_full() {
                problems.push(unknown_port(wanted, &ports));
            }
        }
    }
}

fn unknown_port(wanted: &Located<'_, PortMatch>, ports: &[Port]) -> Diagnostic {
    let mut names: Vec<&str> = ports.iter().map(|port| &*port.name).collect();
    names.sort_unstable();
    names.dedup();
    let listed = suggest::listed(names.iter().copied());
    let (port, help) = match &wanted.value {
        PortMatch::Name(name) => {
            let help = suggest::help(name, names, "their ports", "");
            (name.to_string(), help)
        }
        PortMatch::Number(number) => {
            let help = format!(
                "a number is the one that clients dial, not the endpoint's; their ports: {listed}"
            );
            (number.to_string(), help)
        }
    };
    let message = format!("no target of this rule has the port `{port}`");
    wanted
        .error("unknown-port", message, "no such port")
        .help(help)
}
