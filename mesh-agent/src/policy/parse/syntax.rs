//! What is wrong with a file that is not TOML, in words that help.

use toml::de::Error;

use super::document::Document;
use crate::policy::diagnostic::Diagnostic;

/// The first error, and those after it that it cannot have caused; one per line.
pub(super) fn diagnostics(document: &Document<'_>, mut errors: Vec<Error>) -> Vec<Diagnostic> {
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    let mut found: Vec<Diagnostic> = Vec::new();
    for error in errors.iter().filter(|error| !error.message().is_empty()) {
        let diagnostic = diagnostic(document, error);
        let line = |d: &Diagnostic| d.labels.first().map(|label| label.line);
        if found
            .last()
            .is_some_and(|last| line(last) == line(&diagnostic))
        {
            continue;
        }
        found.push(diagnostic);
        if found.len() == MOST_PER_FILE || is_structural(error.message()) {
            break;
        }
    }
    found
}

/// Whether what comes after cannot be told apart from what this error caused.
fn is_structural(message: &str) -> bool {
    [
        "unclosed",
        "invalid basic",
        "invalid literal",
        "invalid multi",
        "invalid inline",
        "missing comma",
        "extra",
    ]
    .iter()
    .any(|start| message.starts_with(start))
}

fn diagnostic(document: &Document<'_>, error: &Error) -> Diagnostic {
    let end = document.text().len();
    let span = document.span(error.span().unwrap_or(end..end));
    let message = error.message();
    Diagnostic::error("syntax", format!("this is not TOML: {message}"))
        .label(span.label("here"))
        .help(help(message))
}

fn help(message: &str) -> &'static str {
    for (part, help) in HELPS {
        if message.contains(part) {
            return help;
        }
    }
    "see https://toml.io for how TOML is written"
}

const HELPS: &[(&str, &str)] = &[
    (
        "must be quoted",
        "write text in quotes: name = \"checkout\"",
    ),
    (
        "duplicate key",
        "a key can stand once in a table; further services and rules each begin with \
            their own [[..]] line",
    ),
    (
        "basic string",
        "text ends on the line it begins on, with the quote it began with",
    ),
    (
        "literal string",
        "text ends on the line it begins on, with the quote it began with",
    ),
    (
        "inline table",
        "an inline table is written { name = \"http\", listen = 80 }",
    ),
    (
        "missing comma",
        "the elements of a list are separated by commas",
    ),
    ("unclosed array", "a list ends with `]`"),
    (
        "unclosed table",
        "a table begins with a line such as [mesh] or [[service]]",
    ),
    ("key with no value", "a setting is written key = value"),
    ("boolean", "write text in quotes: name = \"checkout\""),
    (
        "unexpected key or value",
        "one setting per line: key = value",
    ),
];
const MOST_PER_FILE: usize = 5;
