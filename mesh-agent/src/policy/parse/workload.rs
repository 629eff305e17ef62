//! Which processes are a service: selectors as they are written.

mod contention;
mod glob;

pub(super) use contention::contention;

use std::sync::Arc;

use mesh_common::MAX_PATTERN;

use super::decode;
use super::document::{Fields, Value};
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
fn slice_path(unit: &str) -> String {
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

const EXAMPLE: &str = "workload = { systemd = \"checkout.service\" }";
/// Units that have a cgroup.
const UNIT_KINDS: &[&str] = &["service", "scope", "slice", "socket", "mount", "swap"];
/// Units that have none.
const EMPTY_KINDS: &[&str] = &["timer", "target", "path", "device", "automount", "snapshot"];
