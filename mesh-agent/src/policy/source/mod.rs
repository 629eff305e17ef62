//! The files of the configuration directory, read once and safely.
//!
//! Comes in: a path. Goes out: the texts, in lexical order of their names.

mod directory;
mod file;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::diagnostic::Diagnostic;
pub use directory::{read, read_believing};
pub(crate) use file::read_path;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its name within the directory.
    pub name: Arc<str>,
    /// What it says.
    pub text: Arc<str>,
}

/// All files of a directory, in lexical order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<SourceFile>", into = "Vec<SourceFile>")]
pub struct SourceSet {
    /// The files.
    pub files: Vec<SourceFile>,
    /// Whether some file is missing because it could not be read.
    pub(crate) incomplete: bool,
}

impl SourceSet {
    /// A set of names and texts, in any order.
    pub fn from_texts<N, T>(texts: impl IntoIterator<Item = (N, T)>) -> Self
    where
        N: Into<Arc<str>>,
        T: Into<Arc<str>>,
    {
        let file = |(name, text): (N, T)| SourceFile {
            name: name.into(),
            text: text.into(),
        };
        texts.into_iter().map(file).collect::<Vec<_>>().into()
    }

    /// The text of the file `name`.
    pub fn text(&self, name: &str) -> Option<&str> {
        let found = self
            .files
            .binary_search_by(|file| (*file.name).cmp(name))
            .ok()?;
        self.files.get(found).map(|file| &*file.text)
    }
}

impl From<Vec<SourceFile>> for SourceSet {
    fn from(mut files: Vec<SourceFile>) -> Self {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            files,
            incomplete: false,
        }
    }
}

impl From<SourceSet> for Vec<SourceFile> {
    fn from(set: SourceSet) -> Self {
        set.files
    }
}

/// Whose files are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// Those of root and of this process's own user that nobody else can write.
    TrustedOwners,
    /// Everybody's, with a warning where the agent would refuse them: files that are only
    /// looked at, such as those of a working copy.
    Anybody,
}

/// Why a directory cannot be used.
#[derive(Debug)]
pub struct ReadError {
    /// Every problem found.
    pub diagnostics: Vec<Diagnostic>,
    /// The files that could be read, so that their problems can be reported in the same run.
    pub readable: SourceSet,
}

/// Most files in a directory.
pub const MOST_FILES: usize = 1000;
/// Largest file, bytes.
pub const LARGEST_FILE: usize = 1 << 20;
/// Largest sum of all files, bytes.
pub const LARGEST_SET: usize = 16 << 20;
