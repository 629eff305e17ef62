//! The parts of the archive. What cannot be had is noted, and the rest goes on.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use hyper::{Method, StatusCode};

use super::archive::Part;
use super::host;
use crate::admin;
use crate::commands::doctor;
use crate::config::AgentConfig;
use crate::dataplane::survey;
use crate::identity::{hex, sha256};

/// Files of the policy that are looked at, at most.
const MOST_FILES: usize = 1000;

/// What the agent is asked for, where that goes, and what it is.
const QUESTIONS: [(&str, &str, &str); 5] = [
    ("/status", "status.json", "mesh-agent status -o json"),
    ("/metrics", "metrics.txt", "all metrics"),
    (
        "/api/v1/flows?last=1000",
        "flows.json",
        "the latest flows and denials",
    ),
    (
        "/api/v1/services",
        "services.json",
        "services and how they are",
    ),
    (
        "/decisions",
        "decisions.json",
        "decisions by rule, and recorded denials",
    ),
];

/// All parts, and what could not be had.
pub(super) fn collect(config: &AgentConfig) -> (Vec<Part>, Vec<String>) {
    let mut notes = Vec::new();
    let mut parts = Vec::new();
    for (question, name, about) in QUESTIONS {
        match ask(&config.paths.run_dir, question) {
            Ok(answer) => parts.push(Part::new(name, about, answer)),
            Err(problem) => notes.push(format!("{name}: {problem}")),
        }
    }
    parts.push(Part::new(
        "settings.txt",
        "what of agent.toml matters",
        settings(config),
    ));
    parts.push(Part::new(
        "policy.txt",
        "names, sizes and SHA-256 of the policy's files",
        policy(&config.paths.config_dir),
    ));
    parts.push(Part::new(
        "kernel-side.txt",
        "pinned links and maps, as the kernel has them",
        survey(&config.paths.bpffs),
    ));
    parts.push(Part::new(
        "doctor.json",
        "mesh-agent doctor -o json",
        examined(config),
    ));
    parts.push(Part::new(
        "host.txt",
        "the kernel and what of its settings matters",
        host::facts(),
    ));
    match journal() {
        Ok(lines) => parts.push(Part::new(
            "journal.txt",
            "the latest log lines of the agent's units",
            lines,
        )),
        Err(problem) => notes.push(format!("journal.txt: {problem}")),
    }
    (parts, notes)
}

fn ask(run_dir: &Path, question: &str) -> Result<String, String> {
    let answer =
        admin::request(run_dir, Method::GET, question).map_err(|error| error.to_string())?;
    match answer.status {
        StatusCode::OK => Ok(String::from_utf8_lossy(&answer.body).into_owned()),
        status => Err(format!("the agent answers {status}")),
    }
}

/// Settings without paths of keys, and without comments, which may hold anything.
fn settings(config: &AgentConfig) -> String {
    let AgentConfig {
        node,
        paths,
        tunnel,
        admin,
        flows,
        access_log,
        limits,
        sockets,
        log,
    } = config;
    format!(
        "version {}\n{node:#?}\n{paths:#?}\ntunnel: {}, drain {:?}\nadmin: {}, tls {}, restricted {}\n{flows:#?}\naccess log: {}\n{limits:#?}\n{sockets:#?}\n{log:#?}\n",
        env!("CARGO_PKG_VERSION"),
        tunnel.listen,
        tunnel.drain,
        admin.listen,
        admin.access.tls.is_some(),
        admin.access.is_restricted(),
        access_log.is_on(),
    )
}

fn policy(directory: &Path) -> String {
    let mut files: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .take(MOST_FILES)
        .collect();
    files.sort();
    let line = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match fs::metadata(path).and_then(|file| match file.is_file() {
            true => fs::read(path),
            false => Err(std::io::ErrorKind::InvalidInput.into()),
        }) {
            Ok(text) => format!("{}  {:>9}  {name}\n", hex(&sha256(&text)), text.len()),
            Err(error) => format!("not readable ({error})  {name}\n"),
        }
    };
    files.iter().map(line).collect()
}

fn examined(config: &AgentConfig) -> String {
    let paths = doctor::Paths {
        bpffs: config.paths.bpffs.clone(),
        cgroup_root: config.paths.cgroup_root.clone(),
    };
    serde_json::to_string_pretty(&doctor::report(&paths)).unwrap_or_default()
}

fn journal() -> Result<String, String> {
    let output = Command::new("journalctl")
        .args([
            "--unit=mesh-agent",
            "--unit=mesh-load",
            "--unit=mesh-usher@*",
            "--lines=2000",
            "--no-pager",
            "--output=short-iso",
        ])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("journalctl: {error}"))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("journalctl: {told}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
