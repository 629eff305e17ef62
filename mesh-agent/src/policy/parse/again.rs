//! Parsing after a change that only touched rules: what did not change is not parsed again.
//!
//! Comes in: what came of the files before, and the files now. Goes out: what [`parse`] would
//! say, or nothing where only that can tell.
//!
//! [`parse`]: super::parse

mod part;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use self::part::Part;
use super::declare::{Declared, PortDecl, ServiceDecl};
use super::document::{Document, List, Span};
use super::names::Names;
use super::{LocalNode, MOST_RULES, Parsed, holds_only_rules, rules};
use crate::policy::diagnostic::{Diagnostic, Problems};
use crate::policy::model::{Place, Policy, Port, Rule, Service};
use crate::policy::source::{SourceFile, SourceSet};

/// What came of the files before.
#[derive(Clone, Copy, Debug)]
pub struct Previous<'a> {
    /// The files.
    pub sources: &'a SourceSet,
    /// Their policy.
    pub policy: &'a Policy,
    /// Their warnings.
    pub warnings: &'a [Diagnostic],
    /// Those that hold nothing but rules.
    pub rule_files: &'a BTreeSet<Arc<str>>,
}

/// Parses `sources`, of which only files that hold nothing but rules differ from `previous`,
/// and of those only the part that differs. `None` if that is not so, or if anything is wrong:
/// then [`parse`](super::parse) has to say what.
///
/// Names that rules refer to are all in the other files, so a rule that did not change means
/// what it meant.
pub fn parse_again(
    previous: Previous<'_>,
    sources: &SourceSet,
    local: &LocalNode,
) -> Option<Parsed> {
    let changed = changed(previous, sources)?;
    let mut problems = Problems::default();
    problems.extend(kept_warnings(previous, &changed));
    let nowhere = Document::new("".into(), "");
    let names = names(previous.policy, local, nowhere.span(0..0));
    let old = by_file(&previous.policy.rules);
    let mut rules = Vec::with_capacity(previous.policy.rules.len() + 1);
    let mut added: Vec<Arc<Rule>> = Vec::new();
    for file in &sources.files {
        let own = old.get(&*file.name).copied().unwrap_or_default();
        if !changed.contains(&*file.name) {
            rules.extend_from_slice(own);
            continue;
        }
        let part = part(previous, file, own);
        let new = parsed(&part, file, &names, &mut problems)?;
        rules.extend_from_slice(part.before);
        rules.extend_from_slice(&new);
        rules.extend(part.after.iter().map(|rule| moved(rule, part.moved)));
        added.extend(new);
    }
    let diagnostics = problems.into_sorted();
    let all_shown = !diagnostics.iter().any(|d| d.code == "too-many-problems");
    let fine = all_shown && rules.len() <= MOST_RULES && are_named_once(&added, &rules);
    fine.then(|| Parsed {
        policy: Some(with_rules(previous.policy, rules)),
        diagnostics,
        rule_files: rule_files(previous, sources, &changed),
    })
}

/// Whether no rule of `all` has the name of another one in `added`. The others have names of
/// their own, as they had before.
fn are_named_once(added: &[Arc<Rule>], all: &[Arc<Rule>]) -> bool {
    let names: HashSet<&str, RandomState> = added.iter().map(|rule| &*rule.name).collect();
    let with_them = all.iter().filter(|rule| names.contains(&*rule.name));
    names.len() == added.len() && with_them.count() == added.len()
}

/// The rule, `lines` further down.
fn moved(rule: &Arc<Rule>, lines: i64) -> Arc<Rule> {
    if lines == 0 {
        return Arc::clone(rule);
    }
    let line = (i64::from(rule.place.line) + lines) as u32;
    let place = Place {
        line,
        ..rule.place.clone()
    };
    Arc::new(Rule {
        place,
        ..Rule::clone(rule)
    })
}

fn with_rules(policy: &Policy, rules: Vec<Arc<Rule>>) -> Policy {
    Policy {
        default: policy.default,
        default_place: policy.default_place.clone(),
        nodes: policy.nodes.clone(),
        services: policy.services.clone(),
        splits: policy.splits.clone(),
        rules,
    }
}

fn rule_files(
    previous: Previous<'_>,
    sources: &SourceSet,
    changed: &BTreeSet<&str>,
) -> BTreeSet<Arc<str>> {
    let files = sources.files.iter().map(|file| &file.name);
    files
        .filter(|name| changed.contains(&***name) || previous.rule_files.contains(*name))
        .cloned()
        .collect()
}

/// What rules can refer to, as [`Names`] of the files would tell it. Where it stands is only
/// said in errors, which are not this module's.
fn names<'d>(policy: &Policy, local: &LocalNode, nowhere: Span<'d>) -> Names<'d> {
    let service = |service: &Service| (service.name.clone(), declaration(service, nowhere));
    let nodes = policy.nodes.iter().map(|node| &node.name);
    Names {
        services: policy.services.values().map(service).collect(),
        namespaces: policy
            .services
            .keys()
            .map(|name| Arc::clone(&name.namespace))
            .collect(),
        nodes: nodes.chain([&local.name]).cloned().collect(),
        local: Arc::clone(&local.name),
        complete: true,
    }
}

fn declaration<'d>(service: &Service, nowhere: Span<'d>) -> ServiceDecl<'d> {
    let port = |port: &Port| PortDecl {
        name: nowhere.at(Arc::clone(&port.name)),
        listen: nowhere.at(port.listen),
        protocol: port.protocol,
    };
    ServiceDecl {
        name: nowhere.at(service.name.clone()),
        span: nowhere,
        vip: service.vip.map(|vip| nowhere.at(vip)),
        has_vip: service.vip.is_some(),
        ports: list(service.ports.iter().map(port)),
        workload: None,
        has_workload: service.workload.is_some(),
        egress: Some(service.egress),
        affinity: service.affinity,
        on_weight_change: service.on_weight_change,
        tls: service.tls,
        endpoints: list([]),
    }
}

fn list<'d, T>(items: impl IntoIterator<Item = T>) -> List<'d, T> {
    List {
        items: items.into_iter().collect(),
        complete: true,
        span: None,
    }
}

/// Names of the files that differ or are in one of the sets only; `None` if one of them held
/// more than rules. What they hold now is seen when they are parsed.
fn changed<'s>(previous: Previous<'s>, sources: &'s SourceSet) -> Option<BTreeSet<&'s str>> {
    let before = previous.sources;
    if sources.incomplete
        || before.incomplete
        || before.files.is_empty()
        || sources.files.is_empty()
    {
        return None;
    }
    let differs = |file: &&'s SourceFile| before.text(&file.name) != sources.text(&file.name);
    let all = before.files.iter().chain(&sources.files).filter(differs);
    let changed: BTreeSet<&str> = all.map(|file| &*file.name).collect();
    let only_rules =
        |name: &&str| before.text(name).is_none() || previous.rule_files.contains(*name);
    changed.iter().all(only_rules).then_some(changed)
}

/// Warnings about files that did not change.
fn kept_warnings<'p>(
    previous: Previous<'p>,
    changed: &BTreeSet<&str>,
) -> impl Iterator<Item = Diagnostic> {
    let kept =
        |warning: &&'p Diagnostic| file_of(warning).is_none_or(|file| !changed.contains(file));
    previous.warnings.iter().filter(kept).cloned()
}

fn file_of(diagnostic: &Diagnostic) -> Option<&str> {
    diagnostic.labels.first().map(|label| &*label.file)
}

/// The rules of each file: runs, as they are in the order of the files.
fn by_file(rules: &[Arc<Rule>]) -> HashMap<&str, &[Arc<Rule>]> {
    rules
        .chunk_by(|a, b| same_file(&a.place, &b.place))
        .filter_map(|run| Some((&*run.first()?.place.file, run)))
        .collect()
}

fn same_file(a: &Place, b: &Place) -> bool {
    Arc::ptr_eq(&a.file, &b.file) || a.file == b.file
}

/// What of `file` has to be parsed: all of it where lines of `own`, its rules, cannot be told
/// apart, or warnings would have to move with them.
fn part<'s>(previous: Previous<'_>, file: &'s SourceFile, own: &'s [Arc<Rule>]) -> Part<'s> {
    let warned = |warning: &Diagnostic| file_of(warning) == Some(&*file.name);
    let before = previous.sources.text(&file.name);
    let difference = before
        .filter(|_| !previous.warnings.iter().any(warned))
        .and_then(|before| Part::difference(before, &file.text, own));
    difference.unwrap_or_else(|| Part::whole(&file.text))
}

/// The rules of a part; `None` if there are errors, or more than rules.
fn parsed(
    part: &Part<'_>,
    file: &SourceFile,
    names: &Names<'_>,
    problems: &mut Problems,
) -> Option<Vec<Arc<Rule>>> {
    let document = Document::after(part.lines_before, Arc::clone(&file.name), part.text);
    let table = document.table().ok().filter(holds_only_rules)?;
    let mut declared = Declared::default();
    declared.read(&document, &table, problems);
    let rules = rules::resolve(&declared.rules, names, problems);
    let sound = !declared.incomplete && !problems.has_errors() && part.stands_alone(&rules);
    sound.then_some(rules)
}
