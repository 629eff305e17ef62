//! What is wrong with the files.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::policy::diagnostic::Severity;

/// Something about a file that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file, relative to the directory; a directory ends with a slash, and the one that is
    /// read itself is `./`.
    pub file: Arc<str>,
    /// A stable name for the kind of problem.
    pub code: &'static str,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to do.
    pub help: String,
    /// Whether what the file holds is used nevertheless.
    pub used: bool,
}

impl Problem {
    /// What keeps a file from being used.
    pub(super) fn error(
        file: &Arc<str>,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            file: Arc::clone(file),
            code,
            message: message.into(),
            help: help.into(),
            used: false,
        }
    }

    /// What is worth knowing about a file that is used.
    pub(super) fn warning(
        file: &Arc<str>,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            used: true,
            ..Self::error(file, code, message, help)
        }
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self.used {
            true => Severity::Warning,
            false => Severity::Error,
        }
    }

    /// Whether it keeps what `file` holds from being used.
    pub(super) fn breaks(&self, file: &str) -> bool {
        let within = self.file.ends_with('/') && file.starts_with(&*self.file);
        !self.used && (*self.file == *file || within || &*self.file == WHOLE)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            code,
            message,
            help,
            ..
        } = self;
        let severity = self.severity().name();
        write!(f, "{severity}[{code}]: {file}: {message}; {help}")
    }
}

/// The directory itself.
pub(super) const WHOLE: &str = "./";
