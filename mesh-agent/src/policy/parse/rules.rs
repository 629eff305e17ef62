//! Rules: who may call what.

mod reach;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::reach::Reach;
use super::declare::RuleDecl;
use super::document::{List, Located, Value};
use super::names::{Names, twice};
use crate::policy::diagnostic::{Diagnostic, Problems};
use crate::policy::model::{PortMatch, Rule};

pub(super) fn resolve<'d>(
    decls: &[RuleDecl<'d>],
    names: &Names<'d>,
    problems: &mut Problems,
) -> Vec<Arc<Rule>> {
    let mut seen: BTreeMap<&str, &Located<'d, Arc<str>>> = BTreeMap::new();
    let mut rules = Vec::new();
    for decl in decls {
        if problems.is_full() {
            break;
        }
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
        rules.extend(rule(decl, names, problems).map(Arc::new));
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
    let reach = Reach {
        names,
        from: &from,
        to: &to,
        ports: &decl.ports,
    };
    reach.problems(problems);
    Some(Rule {
        name: Arc::clone(&decl.name.as_ref()?.value),
        action: decl.action,
        mode: decl.mode,
        from: from.items.into_iter().map(|source| source.value).collect(),
        to: to.items.into_iter().map(|target| target.value).collect(),
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
fn items<'d, T: Clone + Ord>(
    list: &List<'d, Value<'d>>,
    problems: &mut Problems,
    mut decode: impl FnMut(Value<'d>, &mut Problems) -> Option<T>,
) -> List<'d, Located<'d, T>> {
    let mut known = List {
        items: Vec::new(),
        complete: list.complete,
        span: list.span,
    };
    let mut seen: BTreeMap<T, Value<'d>> = BTreeMap::new();
    for value in &list.items {
        if problems.is_full() {
            known.complete = false;
            break;
        }
        let Some(item) = decode(*value, problems) else {
            known.complete = false;
            continue;
        };
        match seen.get(&item) {
            Some(first) => problems.push(repeated(value, first)),
            None => {
                seen.insert(item.clone(), *value);
                known.items.push(value.span.at(item));
            }
        }
    }
    known
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
    let mut seen = BTreeMap::new();
    for port in ports {
        let key = match &port.value {
            PortMatch::Name(name) => (Some(&**name), 0),
            PortMatch::Number(number) => (None, *number),
        };
        if let Some(first) = seen.insert(key, port) {
            problems.push(repeated(port, first));
        }
    }
}
