//! From the texts of the files to the policy: everything resolved, or everything that is wrong.
//!
//! Each file is read as far as it can be (`document`, `declare`), then names are looked up
//! across all files (`names`, `nodes`, `services`, `splits`, `rules`). Where something could
//! not be understood, only problems that it cannot have caused are reported.

mod again;
mod declare;
pub(crate) mod decode;
pub(crate) mod document;
mod names;
mod nodes;
mod rules;
mod services;
mod splits;
mod suggest;
mod syntax;
#[cfg(test)]
mod tests;
mod weights;
mod workload;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use toml::de::DeTable;

pub use self::again::{Previous, parse_again};
use self::declare::Declared;
use self::document::{Document, Located};
use self::names::Names;
use self::nodes::Nodes;
use super::diagnostic::{Diagnostic, Label, Problems};
use super::model::{DefaultAction, Policy};
use super::source::{self, Belief, ReadError, SourceSet};
use super::vip;

/// What the files need to know of the node that reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalNode {
    /// Its name.
    pub name: Arc<str>,
    /// Where other nodes reach it.
    pub address: Option<IpAddr>,
    /// Trust domain of the identities.
    pub trust_domain: Arc<str>,
}

/// What came of the files.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The policy; `None` if any of the diagnostics is an error.
    pub policy: Option<Policy>,
    /// All problems of all files, in the order of files and lines.
    pub diagnostics: Vec<Diagnostic>,
    /// The files that hold nothing but rules.
    pub rule_files: BTreeSet<Arc<str>>,
}

/// Reads and parses a directory, with the problems of both in one list.
pub fn load(directory: &Path, belief: Belief, local: &LocalNode) -> (SourceSet, Parsed) {
    parse_read(source::read_believing(directory, belief), local, None)
}

/// Parses what reading a directory has given, with the problems of both in one list. What
/// `previous` tells already is not parsed again.
pub fn parse_read(
    read: Result<(SourceSet, Vec<Diagnostic>), Box<ReadError>>,
    local: &LocalNode,
    previous: Option<Previous<'_>>,
) -> (SourceSet, Parsed) {
    let (sources, mut diagnostics, readable) = match read {
        Ok((sources, warnings)) => (sources, warnings, true),
        Err(error) => (error.readable, error.diagnostics, false),
    };
    let again = previous
        .filter(|_| readable)
        .and_then(|previous| parse_again(previous, &sources, local));
    let mut parsed = again.unwrap_or_else(|| parse(&sources, local));
    diagnostics.append(&mut parsed.diagnostics);
    parsed.diagnostics = diagnostics;
    parsed.policy = parsed.policy.filter(|_| readable);
    (sources, parsed)
}

/// Parses all files together.
pub fn parse(sources: &SourceSet, local: &LocalNode) -> Parsed {
    let mut problems = Problems::default();
    let documents: Vec<Document<'_>> = sources
        .files
        .iter()
        .map(|file| Document::new(Arc::clone(&file.name), &file.text))
        .collect();
    let mut tables = Vec::new();
    for document in &documents {
        match document.table() {
            Ok(table) => tables.push((document, table)),
            Err(diagnostics) => problems.extend(diagnostics),
        }
    }
    let mut declared = Declared {
        incomplete: sources.incomplete || problems.has_errors(),
        ..Declared::default()
    };
    let mut rule_files = BTreeSet::new();
    for (document, table) in &tables {
        declared.read(document, table, &mut problems);
        if holds_only_rules(table) {
            rule_files.insert(Arc::clone(document.name()));
        }
    }
    if sources.files.is_empty() && !sources.incomplete {
        problems.push(empty());
    }
    let policy = resolve(declared, local, &mut problems);
    Parsed {
        policy: (!problems.has_errors()).then_some(policy),
        diagnostics: problems.into_sorted(),
        rule_files,
    }
}

/// Whether nothing of a file but its own rules depends on it.
fn holds_only_rules(table: &DeTable<'_>) -> bool {
    table
        .keys()
        .all(|key| matches!(&**key.get_ref(), "allow" | "deny"))
}

fn empty() -> Diagnostic {
    Diagnostic::warning(
        "empty-policy",
        "there are no files, so no service is known and nothing is protected",
    )
    .help("add a file such as 10-shop.toml to the configuration directory")
}

fn resolve(mut declared: Declared<'_>, local: &LocalNode, problems: &mut Problems) -> Policy {
    limit(
        "services",
        MOST_SERVICES,
        &mut declared.services,
        |s| s.span.label("too many with this one"),
        problems,
    );
    limit(
        "nodes",
        MOST_NODES,
        &mut declared.nodes,
        |n| n.name.label("too many with this one"),
        problems,
    );
    limit(
        "rules",
        MOST_RULES,
        &mut declared.rules,
        |r| r.span.label("too many with this one"),
        problems,
    );
    limit_endpoints(&declared, problems);
    let default = only("default", declared.defaults, problems);
    let range = only("vip_range", declared.vip_ranges, problems);
    let complete = !declared.incomplete;
    let names = Names::new(
        declared.services,
        &declared.nodes,
        local,
        complete,
        problems,
    );
    let nodes = Nodes::new(&declared.nodes, local, problems);
    let services = services::resolve(&names, &nodes, vip_range(range, complete), problems);
    Policy {
        default: default.map_or(DefaultAction::Deny, |default| default.value),
        default_place: default.map(|default| default.span.place()),
        splits: splits::resolve(&declared.splits, &names, problems),
        rules: rules::resolve(&declared.rules, &names, problems),
        nodes: nodes.into_model(),
        services,
    }
}

/// The range for derived VIPs; none where the one that holds may not have been read.
fn vip_range(declared: Option<Located<'_, IpNet>>, complete: bool) -> Option<IpNet> {
    match declared {
        Some(range) => Some(range.value),
        None => vip::DEFAULT_RANGE.parse().ok().filter(|_| complete),
    }
}

/// A setting of the whole mesh, which stands once.
fn only<'d, T>(
    key: &str,
    settings: Vec<Located<'d, T>>,
    problems: &mut Problems,
) -> Option<Located<'d, T>> {
    let mut settings = settings.into_iter();
    let first = settings.next()?;
    for again in settings {
        let message = format!("`{key}` of [mesh] is set twice");
        let diagnostic = again.error("duplicate-setting", message, "again here");
        problems.push(
            diagnostic
                .label(first.label("the first time"))
                .help("keep it in one file"),
        );
    }
    Some(first)
}

fn limit<T>(
    what: &str,
    most: usize,
    items: &mut Vec<T>,
    label: impl Fn(&T) -> Label,
    problems: &mut Problems,
) {
    if let Some(beyond) = items.get(most) {
        problems.push(too_many(what, most, label(beyond)));
        items.truncate(most);
    }
}

fn limit_endpoints(declared: &Declared<'_>, problems: &mut Problems) {
    let services = declared.services.iter();
    let mut endpoints = services.flat_map(|service| &service.endpoints.items);
    if let Some(beyond) = endpoints.nth(MOST_ENDPOINTS) {
        problems.push(too_many(
            "endpoints",
            MOST_ENDPOINTS,
            beyond.span.label("too many with this one"),
        ));
    }
}

fn too_many(what: &str, most: usize, label: Label) -> Diagnostic {
    Diagnostic::error("too-many", format!("there are more than {most} {what}"))
        .label(label)
        .help("divide the mesh, or join some of them")
}

const MOST_NODES: usize = 10_000;
const MOST_SERVICES: usize = 10_000;
const MOST_RULES: usize = 100_000;
const MOST_ENDPOINTS: usize = 65_536;
