//! Which processes are a service: selectors as written, and selectors that contend.

mod glob;

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::{MAX_PATTERN, Selector, selector_kind};

use super::declare::ServiceDecl;
use super::decode;
use super::document::{Fields, Located, Value};
use crate::policy::diagnostic::{Diagnostic, Problems};
use crate::policy::model::Workload;

pub(super) fn decode(value: Value<'_>, problems: &mut Problems) -> Option<Workload> {
    let mut fields = Fields::of(value, "`workload`", EXAMPLE, problems)?;
    let given = ["systemd", "cgroup", "uid"]
        .iter()
        .filter(|key| fields.has(key))
        .count();
    let systemd = fields.optional("systemd", systemd);
    let cgroup = fields.optional("cgroup", cgroup);
    let uid = fields.optional("uid", |v| {
        decode::number(
            v,
            0..=u32::MAX - 1,
            "invalid-uid",
            "a uid is a number from 0 to 4294967294",
        )
    });
    if given != 1 {
        let message = "`workload` takes exactly one of `systemd`, `cgroup` and `uid`";
        let text = format!("{given} of them are here");
        let diagnostic = value.error("invalid-workload", message, text);
        fields
            .problems
            .push(diagnostic.help(format!("write {EXAMPLE}")));
    }
    if let Some(uid) = uid.filter(|uid| uid.value == 0) {
        let root = uid.warning(
            "uid-root",
            "every daemon of root becomes this service",
            "uid 0 is root",
        );
        fields
            .problems
            .push(root.help("select the unit instead: workload = { systemd = \"..\" }"));
    }
    let systemd = systemd.map(|unit| Workload::Systemd(unit.value));
    let cgroup = cgroup.map(|path| Workload::Cgroup(path.value));
    let workload = systemd
        .or(cgroup)
        .or(uid.map(|uid| Workload::Uid(uid.value)));
    (fields.finish() && given == 1)
        .then_some(workload)
        .flatten()
}

fn systemd(value: Value<'_>) -> Result<Arc<str>, Diagnostic> {
    let unit = decode::text(value, "a unit name in quotes, such as \"checkout.service\"")?;
    let bad = |text: &str, help: &str| {
        Err(value
            .error(
                "invalid-unit",
                format!("`{unit}` does not name a systemd unit"),
                text,
            )
            .help(help))
    };
    let known = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@*?".contains(c);
    if let Some(c) = unit.chars().find(|c| !known(*c)) {
        return bad(
            &format!("`{}` cannot be in it", c.escape_default()),
            "letters, digits and `:-_.\\@` make up a unit name; `*` and `?` stand for any of them",
        );
    }
    let Some((stem, suffix)) = unit
        .rsplit_once('.')
        .filter(|(_, suffix)| UNIT_KINDS.contains(suffix))
    else {
        if unit
            .rsplit_once('.')
            .is_some_and(|(_, suffix)| EMPTY_KINDS.contains(&suffix))
        {
            return bad(
                "a unit of this kind has no processes",
                "name the service unit that it starts",
            );
        }
        return bad(
            "it does not end in .service or another kind of unit",
            &format!("write \"{unit}.service\""),
        );
    };
    if stem.is_empty() {
        return bad(
            "the name is missing",
            "write the whole name, such as \"checkout.service\"",
        );
    }
    if stem.ends_with('@') {
        let help = format!("for all instances write \"{stem}*.{suffix}\"");
        return bad("a template itself has no processes", &help);
    }
    if suffix == "slice" {
        slice_problem(stem).map_or(Ok(()), |(text, help)| bad(text, help).map(drop))?;
    }
    let length = if suffix == "slice" {
        slice_path(unit).len()
    } else {
        unit.len()
    };
    length_problem(value, length)?;
    Ok(unit.into())
}

fn slice_problem(stem: &str) -> Option<(&'static str, &'static str)> {
    if stem.contains(['*', '?']) {
        return Some((
            "a slice cannot be selected by a pattern",
            "write the path: workload = { cgroup = \"/shop.slice/shop-*.slice\" }",
        ));
    }
    if stem == "-" {
        return Some((
            "the root slice holds the whole host",
            "name a slice below it",
        ));
    }
    (stem.starts_with('-') || stem.ends_with('-') || stem.contains("--")).then_some((
        "a slice's name is its ancestors' names joined by single dashes",
        "write it as `systemctl status` shows it",
    ))
}

/// Where systemd puts the slice `unit`: `a-b.slice` is at `/a.slice/a-b.slice`.
pub(super) fn slice_path(unit: &str) -> String {
    let stem = unit.strip_suffix(".slice").unwrap_or(unit);
    let ends = stem
        .match_indices('-')
        .map(|(at, _)| at)
        .chain([stem.len()]);
    let parts = ends.filter_map(|end| stem.get(..end));
    parts.map(|part| format!("/{part}.slice")).collect()
}

fn cgroup(value: Value<'_>) -> Result<Arc<str>, Diagnostic> {
    let path = decode::text(
        value,
        "a path in quotes, such as \"/machine.slice/shop-*.scope\"",
    )?;
    let bad = |text: &str, help: &str| {
        Err(value
            .error(
                "invalid-cgroup",
                format!("`{path}` does not name a cgroup"),
                text,
            )
            .help(help))
    };
    let Some(below) = path.strip_prefix('/') else {
        return bad(
            "it does not begin with `/`",
            &format!("paths begin at the cgroup2 root: \"/{path}\""),
        );
    };
    if let Some(rest) = path.strip_prefix("/sys/fs/cgroup") {
        let rest = rest.strip_prefix("/unified").unwrap_or(rest);
        let help = format!("paths begin at the cgroup2 root, as in /proc/PID/cgroup: \"{rest}\"");
        return bad("this is a path of the file system", &help);
    }
    if below.is_empty() {
        return bad("the root holds the whole host", "name a cgroup below it");
    }
    for part in below.split('/') {
        match part {
            "" => {
                return bad(
                    "it has an empty component",
                    "write one `/` between components, none at the end",
                );
            }
            "." | ".." => {
                return bad(
                    "`.` and `..` are not cgroups",
                    "write the path as in /proc/PID/cgroup",
                );
            }
            _ => {}
        }
    }
    if path.contains("**") {
        return bad(
            "`**` means no more than `*`",
            "`*` stops at `/`; write one for each component",
        );
    }
    if let Some(c) = path.chars().find(|c| c.is_control() || "[]{}".contains(*c)) {
        let text = format!("`{}` cannot be in it", c.escape_default());
        return bad(
            &text,
            "the wildcards are `*` (any characters but `/`) and `?` (one of them)",
        );
    }
    length_problem(value, path.len())?;
    Ok(path.into())
}

fn length_problem(value: Value<'_>, length: usize) -> Result<(), Diagnostic> {
    if length <= MAX_PATTERN {
        return Ok(());
    }
    let message = format!("the selector is longer than {MAX_PATTERN} bytes");
    let text = format!("this one has {length}");
    let help = "shorten it with `*`, or select an ancestor";
    Err(value.error("selector-too-long", message, text).help(help))
}

/// Reports selectors of different services that can select the same cgroup or user.
pub(super) fn contention<'a, 'd: 'a>(
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

const EXAMPLE: &str = "workload = { systemd = \"checkout.service\" }";
/// Units that have a cgroup.
const UNIT_KINDS: &[&str] = &["service", "scope", "slice", "socket", "mount", "swap"];
/// Units that have none.
const EMPTY_KINDS: &[&str] = &["timer", "target", "path", "device", "automount", "snapshot"];
