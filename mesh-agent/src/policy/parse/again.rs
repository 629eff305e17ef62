//! Parsing after a change that only touched rules: what did not change is not parsed again.
//!
//! Comes in: what came of the files before, and the files now. Goes out: what [`parse`] would
//! say, or nothing where only that can tell.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::{LocalNode, MOST_RULES, Parsed, parse};
use crate::policy::diagnostic::Diagnostic;
use crate::policy::model::{Policy, Rule};
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

/// Parses `sources`, of which only files that hold nothing but rules differ from `previous`.
/// `None` if that is not so, or if anything is wrong: then [`parse`] has to say what.
///
/// Names that rules refer to are all in the other files, which are parsed; a rule of an
/// unchanged file therefore means what it meant.
pub fn parse_again(
    previous: Previous<'_>,
    sources: &SourceSet,
    local: &LocalNode,
) -> Option<Parsed> {
    let kept = kept(previous, sources)?;
    let rest = SourceSet::from(
        sources
            .files
            .iter()
            .filter(|file| !kept.contains(&*file.name))
            .cloned()
            .collect::<Vec<_>>(),
    );
    let mut parsed = parse(&rest, local);
    let changed = changed(previous.sources, sources);
    let only_rules = |name: &&str| parsed.rule_files.contains(*name) || !holds(&rest, name);
    if !changed.iter().all(only_rules) {
        return None;
    }
    let policy = parsed.policy.as_mut()?;
    let of_kept = |rule: &&Arc<Rule>| kept.contains(&*rule.place.file);
    policy
        .rules
        .extend(previous.policy.rules.iter().filter(of_kept).cloned());
    policy.rules.sort_by(|a, b| a.place.cmp(&b.place));
    let names: HashSet<&str> = policy.rules.iter().map(|rule| &*rule.name).collect();
    if names.len() < policy.rules.len() || policy.rules.len() > MOST_RULES {
        return None;
    }
    let warnings = previous.warnings.iter().filter(|warning| {
        warning
            .labels
            .first()
            .is_some_and(|label| kept.contains(&*label.file))
    });
    parsed.diagnostics.extend(warnings.cloned());
    parsed
        .rule_files
        .extend(kept.iter().map(|name| Arc::from(*name)));
    Some(parsed)
}

/// The unchanged files that hold nothing but rules; `None` if any other file changed.
fn kept<'s>(previous: Previous<'_>, sources: &'s SourceSet) -> Option<HashSet<&'s str>> {
    if sources.incomplete || previous.sources.incomplete {
        return None;
    }
    let mut kept: HashSet<&str> = sources
        .files
        .iter()
        .map(|file| &*file.name)
        .filter(|name| previous.rule_files.contains(*name))
        .collect();
    for name in changed(previous.sources, sources) {
        let known = holds(previous.sources, name);
        if known && !previous.rule_files.contains(name) {
            return None;
        }
        kept.remove(name);
    }
    Some(kept)
}

/// Names of the files that differ, or are in one of the sets only.
fn changed<'s>(before: &'s SourceSet, now: &'s SourceSet) -> Vec<&'s str> {
    let text = |set: &'s SourceSet, name: &str| set.text(name);
    let differs = |file: &&'s SourceFile| text(before, &file.name) != text(now, &file.name);
    let all = before.files.iter().chain(&now.files);
    all.filter(differs).map(|file| &*file.name).collect()
}

fn holds(set: &SourceSet, name: &str) -> bool {
    set.text(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = r#"
[[service]]
name = "a"
workload = { uid = 1001 }
[[service]]
name = "b"
ports = [{ name = "http", listen = 80 }]
endpoints = [{ address = "127.0.0.1:8080" }]
"#;

    fn rule(name: &str, from: &str) -> String {
        format!("[[allow]]\nname = \"{name}\"\nfrom = [\"{from}\"]\nto = [\"default/b\"]\n")
    }

    fn local() -> LocalNode {
        LocalNode {
            name: "n".into(),
            address: None,
            trust_domain: "mesh.local".into(),
        }
    }

    /// Holds `parse_again` against `parse`; whether it could tell.
    fn check(before: &[(&str, String)], after: &[(&str, String)]) -> bool {
        let set = |files: &[(&str, String)]| SourceSet::from_texts(files.to_vec());
        let (before, after) = (set(before), set(after));
        let parsed = parse(&before, &local());
        let policy = parsed.policy.expect("valid before");
        let previous = Previous {
            sources: &before,
            policy: &policy,
            warnings: &parsed.diagnostics,
            rule_files: &parsed.rule_files,
        };
        let Some(again) = parse_again(previous, &after, &local()) else {
            return false;
        };
        let whole = parse(&after, &local());
        assert_eq!(format!("{:?}", again.policy), format!("{:?}", whole.policy));
        assert_eq!(again.diagnostics.len(), whole.diagnostics.len());
        assert_eq!(again.rule_files, whole.rule_files);
        true
    }

    #[test]
    fn it_says_what_parse_says_or_nothing() {
        let names = ("0.toml", NAMES.to_owned());
        let file = |name: &'static str, text: String| (name, text);
        let one = file("1.toml", rule("one", "default/a"));
        let two = file("2.toml", rule("two", "host"));
        let before = [names.clone(), one.clone(), two.clone()];
        for (after, expected, what) in [
            (
                vec![names.clone(), one.clone(), file("2.toml", rule("two", "*"))],
                true,
                "changed",
            ),
            (vec![names.clone(), one.clone()], true, "removed"),
            (
                vec![
                    names.clone(),
                    one.clone(),
                    two.clone(),
                    file("3.toml", rule("x", "*")),
                ],
                true,
                "added",
            ),
            (
                vec![names.clone(), one.clone(), file("2.toml", rule("one", "*"))],
                false,
                "twice",
            ),
            (
                vec![
                    names.clone(),
                    one.clone(),
                    file("2.toml", rule("two", "default/c")),
                ],
                false,
                "unknown",
            ),
            (
                vec![names.clone(), one.clone(), file("2.toml", "[[allow".into())],
                false,
                "syntax",
            ),
            (
                vec![
                    file("0.toml", NAMES.replace("8080", "8081")),
                    one.clone(),
                    two.clone(),
                ],
                false,
                "names",
            ),
            (
                vec![
                    names.clone(),
                    one.clone(),
                    file("2.toml", "[mesh]\ndefault = \"allow\"\n".into()),
                ],
                false,
                "more than rules",
            ),
            (vec![one.clone(), two.clone()], false, "names removed"),
        ] {
            assert_eq!(check(&before, &after), expected, "{what}");
        }
    }
}
