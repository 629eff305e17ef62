//! What is wrong with the configuration, where, and what to do about it.
//!
//! Comes in from everything that reads files; goes out as text for people (`render`), as one
//! line for logs (`Display`) and as JSON (`Serialize`).

mod render;
mod snippet;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::model::Place;
pub(crate) use render::one_line;
pub(crate) use snippet::Snippet;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, and probably does not do what was meant.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Stable name of the kind of problem, such as `unknown-service`.
    pub code: &'static str,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Where; the first is where to look first, the others are what it conflicts with.
    pub labels: Vec<Label>,
    /// What to do.
    pub help: Option<String>,
}

/// A place in a file and what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Label {
    /// Name of the file.
    pub file: Arc<str>,
    /// Line, from 1; 0 for the file as such.
    pub line: u32,
    /// Column in characters, from 1; 0 for the file as such.
    pub column: u32,
    /// How many characters are meant, where that is known; within the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// What is to be said; may be empty.
    pub text: String,
    #[serde(skip)]
    pub(crate) snippet: Option<Snippet>,
}

impl Diagnostic {
    /// An error without a place.
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, message.into())
    }

    /// A warning without a place.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, message.into())
    }

    fn new(severity: Severity, code: &'static str, message: String) -> Self {
        Self {
            severity,
            code,
            message,
            labels: Vec::new(),
            help: None,
        }
    }

    /// Adds a place.
    #[must_use]
    pub fn label(mut self, label: Label) -> Self {
        self.labels.push(label);
        self
    }

    /// Sets what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Whether the configuration cannot be used.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Several lines for people, ending in a newline; `color` adds ANSI colours.
    pub fn render(&self, color: bool) -> String {
        render::render(self, color)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]: ", self.severity.name(), self.code)?;
        if let Some(label) = self.labels.first() {
            write!(f, "{}: ", label.location())?;
        }
        write!(f, "{}", one_line(&self.message))?;
        match &self.help {
            Some(help) => write!(f, " (help: {})", one_line(help)),
            None => Ok(()),
        }
    }
}

impl Label {
    /// A label on a file as such.
    pub fn on_file(file: impl Into<Arc<str>>, text: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            length: None,
            text: text.into(),
            snippet: None,
        }
    }

    /// A label on a place of the model, where the file's text is no longer at hand.
    pub fn at(place: &Place, text: impl Into<String>) -> Self {
        Self {
            line: place.line,
            column: place.column,
            ..Self::on_file(Arc::clone(&place.file), text)
        }
    }

    /// `file:line:column`, or `file`.
    pub fn location(&self) -> String {
        let file = one_line(&self.file);
        match self.line {
            0 => file,
            line => format!("{file}:{line}:{}", self.column),
        }
    }
}

/// Problems found so far. Keeps the first [`MOST_SHOWN`], counts the rest: a file of a million
/// mistakes must not cost the agent its memory.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<Diagnostic>,
    left_out: usize,
    errors: usize,
}

impl Problems {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        self.errors += usize::from(diagnostic.is_error());
        if self.is_full() {
            self.left_out += 1;
        } else {
            self.found.push(diagnostic);
        }
    }

    /// The value, or `None` after remembering what is wrong with it.
    pub(crate) fn ok<T>(&mut self, result: Result<T, Diagnostic>) -> Option<T> {
        result.map_err(|diagnostic| self.push(diagnostic)).ok()
    }

    pub(crate) fn extend(&mut self, diagnostics: impl IntoIterator<Item = Diagnostic>) {
        for diagnostic in diagnostics {
            self.push(diagnostic);
        }
    }

    /// Whether more problems would only be counted.
    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= MOST_SHOWN
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// All of them, in the order of files and lines.
    pub(crate) fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort_by(|a, b| position(a).cmp(&position(b)));
        if self.left_out > 0 {
            let message = format!("{} more problems are not shown", self.left_out);
            let rest = match self.errors {
                0 => Diagnostic::warning("too-many-problems", message),
                _ => Diagnostic::error("too-many-problems", message),
            };
            self.found.push(rest.help("fix some of those above first"));
        }
        self.found
    }
}

fn position(diagnostic: &Diagnostic) -> Option<(&str, u32, u32)> {
    let label = diagnostic.labels.first()?;
    Some((&label.file, label.line, label.column))
}

/// How many problems of one run are kept.
const MOST_SHOWN: usize = 1000;
