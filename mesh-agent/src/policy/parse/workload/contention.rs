//! Selectors of different services that can select the same processes.

use std::collections::BTreeMap;

use mesh_common::{Selector, selector_kind};

use super::{UNIT_KINDS, glob, slice_path};
use crate::policy::diagnostic::Problems;
use crate::policy::model::Workload;
use crate::policy::parse::declare::ServiceDecl;
use crate::policy::parse::document::Located;

/// Reports selectors of different services that can select the same cgroup or user.
pub(in crate::policy::parse) fn contention<'a, 'd: 'a>(
    services: impl Iterator<Item = &'a ServiceDecl<'d>>,
    problems: &mut Problems,
) {
    let mut exact: BTreeMap<String, Located<'d, &'a str>> = BTreeMap::new();
    let mut globs: [Vec<Located<'d, &'a str>>; 2] = Default::default();
    for service in services {
        let Some(workload) = &service.workload else {
            continue;
        };
        let (kind, text) = match &workload.value {
            Workload::Systemd(unit) => (selector_kind::UNIT, &**unit),
            Workload::Cgroup(path) => (selector_kind::PATH, &**path),
            Workload::Uid(uid) => {
                contend(
                    &mut exact,
                    format!("uid {uid}"),
                    workload.span.at(""),
                    problems,
                );
                continue;
            }
        };
        if text.contains(['*', '?']) {
            let globs = globs.get_mut(usize::from(kind));
            globs
                .into_iter()
                .for_each(|globs| globs.push(workload.span.at(text)));
        } else {
            contend(
                &mut exact,
                cgroup_key(kind, text),
                workload.span.at(text),
                problems,
            );
        }
    }
    for mut globs in globs {
        overlaps(&mut globs, problems);
    }
}

/// One key for selectors that select the same cgroup: a unit has no fixed path, so a path that
/// ends in a unit of the system counts as that unit.
fn cgroup_key(kind: u8, text: &str) -> String {
    if kind == selector_kind::UNIT {
        return if text.ends_with(".slice") {
            slice_path(text)
        } else {
            text.to_owned()
        };
    }
    let last = text.rsplit('/').next().unwrap_or_default();
    let selector = Selector::new(0, selector_kind::UNIT, last.as_bytes());
    let end = selector.and_then(|unit| unit.matches(text.as_bytes(), 0));
    if end == Some(text.len()) && UNIT_KINDS.iter().any(|kind| last.ends_with(kind)) {
        last.to_owned()
    } else {
        text.to_owned()
    }
}

fn contend<'d, 'a>(
    seen: &mut BTreeMap<String, Located<'d, &'a str>>,
    key: String,
    selector: Located<'d, &'a str>,
    problems: &mut Problems,
) {
    if let Some(first) = seen.get(&key) {
        let message = format!("two services select the same processes (`{key}`)");
        let diagnostic = selector.error("same-workload", message, "this service");
        problems.push(
            diagnostic
                .label(first.label("and this one"))
                .help("a process is one service at most: give each its own unit, cgroup or user"),
        );
        return;
    }
    seen.insert(key, selector);
}

/// Pairs of patterns that some name matches both of. Sorted by what comes before the first
/// wildcard, those that can agree with a pattern on it follow it without a gap.
fn overlaps(globs: &mut [Located<'_, &str>], problems: &mut Problems) {
    globs.sort_by_key(|glob| glob::literal_start(glob.value));
    for (index, first) in globs.iter().enumerate() {
        let start = glob::literal_start(first.value);
        let rest = globs.iter().skip(index + 1);
        for second in rest.take_while(|next| glob::literal_start(next.value).starts_with(start)) {
            if problems.is_full() {
                return;
            }
            let Some(example) = glob::common(first.value, second.value) else {
                continue;
            };
            let (later, earlier) = match second.span.place() > first.span.place() {
                true => (second, first),
                false => (first, second),
            };
            let message =
                format!("two services can select the same processes, such as those of `{example}`");
            let diagnostic = later.error("overlapping-workloads", message, "this pattern");
            problems.push(diagnostic.label(earlier.label("and this one")).help(
                "make one of the patterns narrower; a name without wildcards beats a pattern",
            ));
        }
    }
}
