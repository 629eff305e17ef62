//! Splits: which versions of a service get how much, for whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_common::MAX_SCHEDULE;

use super::declare::{ServiceDecl, SplitDecl, Weights};
use super::document::{Located, Value};
use super::names::Names;
use super::{suggest, weights};
use crate::policy::diagnostic::{Diagnostic, Problems};
use crate::policy::model::{ServiceName, Source, Split};

pub(super) fn resolve<'d>(
    decls: &[SplitDecl<'d>],
    names: &Names<'d>,
    problems: &mut Problems,
) -> Vec<Split> {
    let mut callers = Callers::default();
    let splits = decls.iter();
    splits
        .filter_map(|decl| split(decl, names, &mut callers, problems))
        .collect()
}

/// Which split each service's callers have; no caller for everyone's.
type Callers<'d> = BTreeMap<(ServiceName, Option<Source>), Located<'d, ()>>;

fn split<'d>(
    decl: &SplitDecl<'d>,
    names: &Names<'d>,
    callers: &mut Callers<'d>,
    problems: &mut Problems,
) -> Option<Split> {
    let service = problems.ok(names.service(decl.service));
    let from = from(decl, names, problems);
    all_zero(&decl.weights, problems);
    too_large(&decl.weights, problems);
    let service = service?;
    if let Some(declared) = names.services.get(&service) {
        versions(decl, declared, problems);
    }
    if decl.from.span.is_none() {
        claim(
            callers,
            (service.clone(), None),
            decl.service.span.at(()),
            problems,
        );
    }
    for (source, value) in &from {
        claim(
            callers,
            (service.clone(), Some(source.clone())),
            value.span.at(()),
            problems,
        );
    }
    let mut weights: Vec<(Arc<str>, u32)> = decl
        .weights
        .items
        .iter()
        .map(|(version, weight)| (Arc::clone(&version.value), *weight))
        .collect();
    weights.sort();
    Some(Split {
        service,
        from: from.into_iter().map(|(source, _)| source).collect(),
        weights,
        place: decl.span.place(),
    })
}

fn from<'d>(
    decl: &SplitDecl<'d>,
    names: &Names<'d>,
    problems: &mut Problems,
) -> Vec<(Source, Value<'d>)> {
    if let Some(span) = decl
        .from
        .span
        .filter(|_| decl.from.items.is_empty() && decl.from.complete)
    {
        let diagnostic = Diagnostic::error("never-matches", "a split for no caller")
            .label(span.label("this list is empty"));
        problems.push(diagnostic.help("remove `from` for a split that is for everyone"));
    }
    let mut found = Vec::new();
    for value in &decl.from.items {
        match names.source(*value, problems) {
            Some(source @ (Source::Service(_) | Source::Namespace(_) | Source::Host)) => {
                found.push((source, *value))
            }
            Some(Source::Any) => {
                let diagnostic = value.error(
                    "invalid-source",
                    "a split for everyone has no `from`",
                    "`*` is everyone",
                );
                problems.push(diagnostic.help("remove `from`"));
            }
            Some(Source::Cidr(_) | Source::Node(_)) => {
                let diagnostic = value.error(
                    "invalid-source",
                    "the split is chosen on the caller's host",
                    "not a local caller",
                );
                problems.push(diagnostic.help("name services, \"namespace/*\" or \"host\""));
            }
            None => {}
        }
    }
    found
}

fn claim<'d>(
    callers: &mut Callers<'d>,
    key: (ServiceName, Option<Source>),
    place: Located<'d, ()>,
    problems: &mut Problems,
) {
    let Some(first) = callers.get(&key) else {
        callers.insert(key, place);
        return;
    };
    let whom = if key.1.is_some() {
        "this caller"
    } else {
        "everyone"
    };
    let message = format!("`{}` has two splits for {whom}", key.0);
    let diagnostic = place.error("duplicate-split", message, "again here");
    problems.push(
        diagnostic
            .label(first.label("the first one"))
            .help("join the weights in one split, or name other callers in `from`"),
    );
}

fn all_zero(weights: &Weights<'_>, problems: &mut Problems) {
    if !weights.complete || weights.items.iter().any(|(_, weight)| *weight > 0) {
        return;
    }
    let diagnostic = Diagnostic::error("zero-weights", "no version has a weight above 0")
        .label(weights.span.label("nothing could be chosen"));
    problems.push(diagnostic.help("give at least one version a weight, such as { v1 = 1 }"));
}

fn too_large(decl: &Weights<'_>, problems: &mut Problems) {
    let of: Vec<u32> = decl.items.iter().map(|(_, weight)| *weight).collect();
    let period = weights::period(&of);
    if period <= u64::from(MAX_SCHEDULE) {
        return;
    }
    let message = format!(
        "the weights have the sum {period} in lowest terms, at most {MAX_SCHEDULE} is possible"
    );
    let near = weights::smaller(&of);
    let near = decl
        .items
        .iter()
        .zip(near)
        .take(8)
        .map(|((version, _), weight)| format!("{} = {weight}", version.value));
    let near: Vec<String> = near.collect();
    let diagnostic =
        Diagnostic::error("weights-too-large", message).label(decl.span.label("these weights"));
    problems.push(diagnostic.help(format!(
        "about the same ratio: weights = {{ {} }}",
        near.join(", ")
    )));
}

fn versions(decl: &SplitDecl<'_>, service: &ServiceDecl<'_>, problems: &mut Problems) {
    if !service.endpoints.complete {
        return;
    }
    let endpoints = service.endpoints.items.iter();
    let known: BTreeSet<&str> = endpoints.map(|endpoint| &*endpoint.version.value).collect();
    let name = &service.name.value;
    for (version, _) in &decl.weights.items {
        if !known.contains(&*version.value) && !problems.is_full() {
            let message = format!(
                "no endpoint of `{name}` has the version `{}`",
                version.value
            );
            let help = suggest::help(
                &version.value,
                known.iter().copied(),
                "its versions",
                "add endpoints with version = \"..\"",
            );
            problems.push(
                version
                    .error("unknown-version", message, "no such version")
                    .help(help),
            );
        }
    }
    let weighted: BTreeSet<&str> = decl
        .weights
        .items
        .iter()
        .map(|(version, _)| &*version.value)
        .collect();
    let left: Vec<&str> = known.difference(&weighted).copied().collect();
    if decl.weights.complete
        && let Some(first) = left.first()
    {
        let message = format!(
            "{} of `{name}` gets no connections by this split",
            suggest::listed(left.iter().copied())
        );
        let diagnostic = Diagnostic::warning("unweighted-version", message)
            .label(decl.weights.span.label("not among these"));
        problems.push(diagnostic.help(format!("say so if it is meant: {first} = 0")));
    }
}
