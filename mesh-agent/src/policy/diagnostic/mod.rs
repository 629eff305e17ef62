//! What is wrong with the configuration, where, and what to do about it.
//!
//! Comes in from everything that reads files; goes out as text for people (`render`), as one
//! line for logs (`Display`) and as JSON (`Serialize`).

mod problems;
mod render;
mod snippet;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::model::Place;
pub(crate) use problems::Problems;
use render::one_line;
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

    /// Adds the source lines of places that came from the model, as far as `text_of` has the
    /// texts of the files.
    #[must_use]
    pub fn quoted<'t>(mut self, text_of: impl Fn(&str) -> Option<&'t str>) -> Self {
        for label in self
            .labels
            .iter_mut()
            .filter(|label| label.snippet.is_none())
        {
            let (Some(line), Some(column)) =
                (label.line.checked_sub(1), label.column.checked_sub(1))
            else {
                continue;
            };
            let text = text_of(&label.file).unwrap_or_default();
            let Some(line) = text.lines().nth(line as usize) else {
                continue;
            };
            let start = line
                .char_indices()
                .nth(column as usize)
                .map_or(line.len(), |(at, _)| at);
            label.snippet = Some(Snippet::cut(line, start, start));
        }
        self
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
