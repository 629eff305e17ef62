//! Suggestions as a file for the configuration directory.

use std::fmt::Write as _;

use super::rules::{Known, Suggested, Suggestions};
use crate::telemetry::time::utc;

/// TOML, with a comment for each rule.
pub(super) fn toml(suggestions: &Suggestions, node: &str) -> String {
    let since = utc(suggestions.since_unix_seconds);
    let mut out = format!(
        "# From `mesh-agent suggest` on {node}: calls since {since} that no rule allows.\n\
         # These rules allow what happened, whether it should have or not: read them first.\n"
    );
    if suggestions.rules.is_empty() {
        out += "\n# Nothing to suggest.\n";
    }
    for rule in &suggestions.rules {
        // Writing to a string cannot fail.
        let _ = rule_text(&mut out, rule, &since);
    }
    if !suggestions.not_suggested.is_empty() {
        out += "\n# No rule is suggested for these:\n";
    }
    for left in &suggestions.not_suggested {
        let calls = calls(left.calls);
        let _ = writeln!(out, "# {} -> {}, {calls}: {}", left.from, left.to, left.why);
    }
    out
}

fn rule_text(out: &mut String, rule: &Suggested, since: &str) -> std::fmt::Result {
    let ports: Vec<String> = rule
        .ports
        .iter()
        .map(|port| format!("\"{port}\""))
        .collect();
    let known = match rule.known {
        Known::Exactly => "",
        Known::AtLeast => "; other ports may have been called, too",
        Known::All => "; to which ports is not known, so these are all of them",
    };
    writeln!(out, "\n# {} since {since}{known}", calls(rule.calls))?;
    writeln!(out, "[[allow]]\nname = \"{}\"", rule.name)?;
    writeln!(out, "from = [\"{}\"]\nto = [\"{}\"]", rule.from, rule.to)?;
    writeln!(out, "ports = [{}]", ports.join(", "))
}

fn calls(count: u64) -> String {
    match count {
        1 => "1 connection".into(),
        _ => format!("{count} connections"),
    }
}
