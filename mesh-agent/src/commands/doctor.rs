//! `mesh-agent doctor`: what this kernel and host can do, before anything is loaded.
//!
//! Nothing is attached, and what the probes load is gone before they return.

mod checks;
mod host;
mod probe;

use std::path::PathBuf;

use serde::Serialize;

use super::output::{Output, Style, Tone, clean, print};
use host::Host;

/// Arguments of the command.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// What to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What of `[paths]` matters here.
#[derive(Clone, Debug)]
pub struct Paths {
    /// `paths.bpffs`.
    pub bpffs: PathBuf,
    /// `paths.cgroup_root`, where it is set.
    pub cgroup_root: Option<PathBuf>,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            bpffs: "/sys/fs/bpf".into(),
            cgroup_root: None,
        }
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Good to know; nothing to do.
    Info,
    /// The mesh works, with a drawback.
    Warning,
    /// The mesh does not work without it.
    Failed,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub check: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do, if something is to be done.
    pub advice: Option<String>,
}

/// All checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of the document's form.
    pub schema_version: u32,
    /// Whether everything required is there.
    pub ok: bool,
    /// The checks.
    pub checks: Vec<Check>,
}

/// Everything required is there.
pub const FIT: u8 = 0;
/// Something required is missing.
pub const UNFIT: u8 = 1;

/// Looks, prints, and returns the exit code.
pub fn run(paths: &Paths, args: &Args) -> u8 {
    let report = report(paths);
    match args.output {
        Output::Table => print(&render(&report, Style::of_stdout())),
        Output::Json => match serde_json::to_string_pretty(&report) {
            Ok(document) => print(&(document + "\n")),
            Err(error) => eprintln!("cannot write the document: {error}"),
        },
    }
    if report.ok { FIT } else { UNFIT }
}

/// Looks.
pub fn report(paths: &Paths) -> Report {
    examine(&Host::at("/"), &probe::Kernel, paths)
}

fn examine(host: &Host, kernel: &impl probe::Probe, paths: &Paths) -> Report {
    let checks = vec![
        checks::kernel(host),
        checks::capabilities(host),
        checks::cgroup2(host, paths.cgroup_root.as_deref()),
        checks::bpffs(host, &paths.bpffs),
        checks::tracefs(host),
        probe::programs(kernel),
        probe::maps(kernel),
        probe::helpers(kernel),
        probe::flows(kernel),
        checks::jit(host),
        checks::lockdown(host),
        checks::optmem(host),
        checks::ipv6(host),
        checks::systemd(host),
        checks::btf(host),
        probe::others(kernel),
    ];
    Report {
        schema_version: 1,
        ok: checks.iter().all(|check| check.outcome != Outcome::Failed),
        checks,
    }
}

/// The report as people read it: what is wrong is said again at the end, where they look.
fn render(report: &Report, style: Style) -> String {
    let width = report.checks.iter().map(|check| check.check.len()).max();
    let width = width.unwrap_or(0);
    let mut out = String::new();
    for check in &report.checks {
        let (mark, tone) = match check.outcome {
            Outcome::Ok => ("ok    ", Some(Tone::Good)),
            Outcome::Info => ("info  ", None),
            Outcome::Warning => ("warn  ", Some(Tone::Warning)),
            Outcome::Failed => ("FAILED", Some(Tone::Bad)),
        };
        let mark = tone.map_or(mark.to_owned(), |tone| style.paint(tone, mark));
        let found = clean(&check.found);
        out.push_str(&format!("{mark}  {:<width$}  {found}\n", check.check));
        if let Some(advice) = &check.advice {
            out.push_str(&format!("{:8}{:<width$}  why: {}\n", "", "", check.why));
            out.push_str(&format!("{:8}{:<width$}  do:  {}\n", "", "", clean(advice)));
        }
    }
    let failed = report
        .checks
        .iter()
        .filter(|c| c.outcome == Outcome::Failed);
    let failed: Vec<_> = failed.map(|check| check.check).collect();
    let end = if report.ok {
        style.paint(Tone::Good, "This host can run the mesh.")
    } else {
        let text = format!("This host cannot run the mesh yet: {}.", failed.join(", "));
        style.paint(Tone::Bad, &text)
    };
    format!("{out}\n{end}\n")
}

#[cfg(test)]
mod tests;
