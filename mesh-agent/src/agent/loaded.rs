//! A policy from its files to what the kernel needs, not yet in force.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::Arc;

use crate::policy::compile::{Entries, compile};
use crate::policy::diagnostic::Diagnostic;
use crate::policy::ids::Ids;
use crate::policy::model::Policy;
use crate::policy::parse::{LocalNode, Parsed, Previous, parse, parse_read};
use crate::policy::source::{Belief, SourceSet, read_believing};

/// A policy, parsed and compiled.
pub(super) struct Loaded {
    pub(super) sources: SourceSet,
    pub(super) policy: Policy,
    pub(super) ids: Ids,
    pub(super) entries: Entries,
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) rule_files: BTreeSet<Arc<str>>,
    /// Digest of the files.
    pub(super) digest: String,
}

impl Loaded {
    /// Reads a directory; `previous` is what came of it before. `None` if it says the same.
    pub(super) fn from_directory(
        directory: &Path,
        local: &LocalNode,
        ids: &Ids,
        previous: Option<Previous<'_>>,
    ) -> Result<Option<Self>, Vec<Diagnostic>> {
        let read = read_believing(directory, Belief::TrustedOwners);
        if let (Ok((sources, _)), Some(previous)) = (&read, previous)
            && sources == previous.sources
        {
            return Ok(None);
        }
        let (sources, parsed) = parse_read(read, local, previous);
        Self::from_parsed(sources, parsed, ids).map(Some)
    }

    /// Parses files that were read before.
    pub(super) fn from_sources(
        sources: SourceSet,
        local: &LocalNode,
        ids: &Ids,
    ) -> Result<Self, Vec<Diagnostic>> {
        let parsed = parse(&sources, local);
        Self::from_parsed(sources, parsed, ids)
    }

    fn from_parsed(sources: SourceSet, parsed: Parsed, ids: &Ids) -> Result<Self, Vec<Diagnostic>> {
        let Some(policy) = parsed.policy else {
            return Err(parsed.diagnostics);
        };
        let mut ids = ids.clone();
        let entries = compile(&policy, &mut ids);
        let digest = digest(&sources);
        Ok(Self {
            sources,
            policy,
            ids,
            entries,
            warnings: parsed.diagnostics,
            rule_files: parsed.rule_files,
            digest,
        })
    }
}

/// Tells two sets of files apart; not meant to withstand somebody who wants them confused.
fn digest(sources: &SourceSet) -> String {
    let mut hasher = DefaultHasher::new();
    for file in &sources.files {
        file.name.hash(&mut hasher);
        file.text.hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// Diagnostics as `mesh-agent check` says them.
pub(super) fn render(diagnostics: &[Diagnostic]) -> String {
    let rendered: Vec<String> = diagnostics
        .iter()
        .map(|problem| problem.render(false))
        .collect();
    rendered.join("\n")
}
