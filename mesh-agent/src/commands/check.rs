//! `check`: everything that is wrong with the configuration, offline and without privileges.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::against::Replay;
use crate::config::AgentConfig;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::model::Policy;
use crate::policy::parse;
use crate::policy::source::Belief;

mod against;

#[cfg(test)]
mod tests;

/// How the result is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text for people.
    Human,
    /// One JSON document.
    Json,
}

/// What is to be checked.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// The directory; `None` for the one in `config`.
    pub directory: Option<PathBuf>,
    /// The node's `agent.toml`, used if it exists.
    pub config: &'a Path,
    /// Recorded flows to judge by the policy, `-` for standard input.
    pub against: Option<&'a Path>,
    /// How the result is shown.
    pub format: Format,
    /// Whether text is coloured.
    pub color: bool,
}

/// Checks, and returns the exit code: 0, 3 for an invalid configuration, 5 if recorded flows would
/// get another verdict, 1 if they cannot be read.
///
/// `compile` is what comes after parsing: a line about what came of it, or what keeps the
/// kernel from holding the policy. Problems are written to `err` for people; JSON and the
/// summary are written to `out`.
///
/// # Errors
///
/// Those of `out` and `err`.
pub fn run(
    options: &Options<'_>,
    compile: impl FnOnce(&Policy) -> Result<String, Vec<Diagnostic>>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<u8> {
    let outcome = outcome(options, compile);
    match options.format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &outcome)?;
            writeln!(out)?;
        }
        Format::Human => {
            for diagnostic in &outcome.diagnostics {
                writeln!(err, "{}", diagnostic.render(options.color))?;
            }
            match outcome.ok {
                true => writeln!(out, "{}", outcome.in_one_line())?,
                false => writeln!(err, "{}", outcome.in_one_line())?,
            }
            if let Some(replay) = &outcome.replay {
                replay.write(out)?;
            }
            if let Some(problem) = &outcome.replay_problem {
                writeln!(err, "{problem}")?;
            }
        }
    }
    Ok(outcome.code())
}

/// What was found; also the JSON document.
#[derive(Debug, Serialize)]
struct Outcome {
    schema_version: u32,
    ok: bool,
    services: usize,
    rules: usize,
    splits: usize,
    files: usize,
    errors: usize,
    warnings: usize,
    compiled: Option<String>,
    diagnostics: Vec<Diagnostic>,
    /// What would change for recorded flows.
    replay: Option<Replay>,
    /// Why that cannot be told.
    replay_problem: Option<String>,
}

fn outcome(
    options: &Options<'_>,
    compile: impl FnOnce(&Policy) -> Result<String, Vec<Diagnostic>>,
) -> Outcome {
    let config = match AgentConfig::load(options.config, false) {
        Ok(config) => config,
        Err(diagnostics) => return Outcome::new(diagnostics, 0),
    };
    // A directory that is named is looked at; the configured one is as the agent sees it.
    let (directory, belief) = match &options.directory {
        Some(directory) if *directory != config.paths.config_dir => (directory, Belief::Anybody),
        _ => (&config.paths.config_dir, Belief::TrustedOwners),
    };
    let (sources, parsed) = parse::load(directory, belief, &config.local_node());
    let mut outcome = Outcome::new(parsed.diagnostics, sources.files.len());
    if let Some(policy) = parsed.policy {
        outcome.services = policy.services.len();
        outcome.rules = policy.rules.len();
        outcome.splits = policy.splits.len();
        let quoted = |diagnostic: Diagnostic| diagnostic.quoted(|file| sources.text(file));
        let compiled = compile(&policy);
        outcome.compiled_as(compiled.map_err(|found| found.into_iter().map(quoted).collect()));
        let flows = options.against.filter(|_| outcome.ok);
        match flows.map(|path| Replay::new(&policy, path)) {
            Some(Ok(replay)) => outcome.replay = Some(replay),
            Some(Err(problem)) => outcome.replay_problem = Some(problem),
            None => {}
        }
    }
    outcome
}

impl Outcome {
    fn new(diagnostics: Vec<Diagnostic>, files: usize) -> Self {
        let errors = diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.is_error());
        let errors = errors.count();
        Self {
            schema_version: 1,
            ok: errors == 0,
            services: 0,
            rules: 0,
            splits: 0,
            files,
            errors,
            warnings: diagnostics.len() - errors,
            compiled: None,
            diagnostics,
            replay: None,
            replay_problem: None,
        }
    }

    fn code(&self) -> u8 {
        match &self.replay {
            _ if !self.ok => INVALID,
            _ if self.replay_problem.is_some() => FAILED,
            Some(replay) if replay.has_changes() => CHANGED,
            _ => 0,
        }
    }

    fn compiled_as(&mut self, result: Result<String, Vec<Diagnostic>>) {
        match result {
            Ok(line) => self.compiled = Some(line).filter(|line| !line.is_empty()),
            Err(diagnostics) => {
                self.errors += diagnostics.len();
                self.ok = false;
                self.diagnostics.extend(diagnostics);
            }
        }
    }

    /// Such as "3 services, 2 rules, 1 split in 2 files: ok".
    fn in_one_line(&self) -> String {
        let verdict = match (self.errors, self.warnings) {
            (0, 0) => "ok".to_owned(),
            (0, warnings) => format!("ok, {}", count(warnings, "warning")),
            (errors, 0) => count(errors, "error"),
            (errors, warnings) => {
                format!("{}, {}", count(errors, "error"), count(warnings, "warning"))
            }
        };
        let files = count(self.files, "file");
        if !self.ok {
            return format!("{files}: {verdict}");
        }
        let compiled = self.compiled.as_ref().map(|line| format!(" ({line})"));
        format!(
            "{}, {}, {} in {files}: {verdict}{}",
            count(self.services, "service"),
            count(self.rules, "rule"),
            count(self.splits, "split"),
            compiled.unwrap_or_default(),
        )
    }
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Exit code for flows that cannot be read.
const FAILED: u8 = 1;
/// Exit code for an invalid configuration.
const INVALID: u8 = 3;
/// Exit code for flows that would get another verdict.
const CHANGED: u8 = 5;
