//! All problems of one run, bounded.

use super::{Diagnostic, Severity};

/// Problems found so far. Keeps the first [`MOST_SHOWN`] of each severity, counts the rest: a
/// file of a million mistakes must not cost the agent its memory.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
}

impl Problems {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        let count = match diagnostic.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count <= MOST_SHOWN {
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

    /// Whether more errors would only be counted, so that it is not worth looking for them.
    pub(crate) fn is_full(&self) -> bool {
        self.errors > MOST_SHOWN
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// All of them, in the order of files and lines.
    pub(crate) fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort_by(|a, b| position(a).cmp(&position(b)));
        let left_out = |count: usize| count.saturating_sub(MOST_SHOWN);
        let (errors, warnings) = (left_out(self.errors), left_out(self.warnings));
        let rest = match (errors, warnings) {
            (0, 0) => return self.found,
            (0, warnings) => Diagnostic::warning(
                "too-many-problems",
                format!("at least {warnings} more warnings are not shown"),
            ),
            (errors, _) => Diagnostic::error(
                "too-many-problems",
                format!("at least {errors} more errors are not shown"),
            ),
        };
        self.found.push(rest.help("fix some of those above first"));
        self.found
    }
}

fn position(diagnostic: &Diagnostic) -> Option<(&str, u32, u32)> {
    let label = diagnostic.labels.first()?;
    Some((&label.file, label.line, label.column))
}

/// How many problems of one severity are kept.
const MOST_SHOWN: usize = 1000;
