//! What code must satisfy besides its tests.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    dist, host,
    need::{BPF_TARGET, BpfCompiler, Need},
    setup,
    step::{Step, cargo},
};

/// The task `lint`: runs every check, then says which failed.
pub(crate) fn run() -> Result<bool> {
    setup::ensure(&Need::LINT)?;
    let mut failed = Vec::new();
    for (name, command) in [
        ("rustfmt", cargo(&["fmt", "--all", "--check"])),
        ("rustfmt (fuzz)", fuzz_targets(&["fmt", "--check"])?),
        ("clippy", clippy()),
        ("clippy (BPF)", bpf_clippy()?),
        ("clippy (fuzz)", fuzz_targets(&["clippy"])?),
        ("rustdoc", rustdoc()),
        ("cargo-deny", deny(&["bans", "licenses", "sources"])),
    ] {
        record(name, Step::start(name).finish(command), &mut failed);
    }
    record("advisories", advisories(), &mut failed);
    record("attributes", attributes(), &mut failed);
    record("packaging", dist::check(), &mut failed);
    record("units", units(), &mut failed);

    if failed.is_empty() {
        println!("\nlint: clean");
    } else {
        println!("\nlint: failed: {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

fn record(name: &'static str, result: Result<()>, failed: &mut Vec<&'static str>) {
    if let Err(error) = result {
        eprintln!("error: {error:#}");
        failed.push(name);
    }
}

fn clippy() -> Command {
    let mut clippy = cargo(&["clippy", "--workspace", "--exclude", "mesh-ebpf"]);
    clippy.args(["--all-targets", "--", "-D", "warnings"]);
    clippy
}

/// The fuzz targets are a workspace of their own.
fn fuzz_targets(arguments: &[&str]) -> Result<Command> {
    let mut command = cargo(arguments);
    command.args(["--manifest-path", "fuzz/Cargo.toml"]);
    if arguments[0] == "clippy" {
        command
            .arg("--target-dir")
            .arg(host::target_dir()?.join("fuzz"));
        command.args(["--", "-D", "warnings"]);
    }
    Ok(command)
}

/// Clippy must be of the same build as the compiler that has `core` for BPF.
fn bpf_clippy() -> Result<Command> {
    let (mut command, driver) = match BpfCompiler::find() {
        Some(BpfCompiler::Ready(rustc)) => {
            let driver = Path::new(&rustc).with_file_name("clippy-driver");
            let mut check = cargo(&["check"]);
            check.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            (check, driver)
        }
        Some(BpfCompiler::Nightly) => {
            let mut check = Command::new("rustup");
            check.args(["run", "nightly", "cargo", "check", "-Zbuild-std=core"]);
            check.env_remove("CARGO");
            (check, "clippy-driver".into())
        }
        None => bail!("no Rust compiler has `core` for {BPF_TARGET}"),
    };
    // What `cargo clippy` does, which knows only the clippy of its own toolchain.
    command.env("RUSTC_WORKSPACE_WRAPPER", driver);
    command.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
    // The profile and directory of the agent's build script, to share what it has compiled.
    command.args([
        "--release",
        "--package",
        "mesh-ebpf",
        "--target",
        BPF_TARGET,
    ]);
    command
        .arg("--target-dir")
        .arg(host::target_dir()?.join("bpf"));
    command.env("CARGO_ENCODED_RUSTFLAGS", BPF_FLAGS);
    Ok(command)
}

fn rustdoc() -> Command {
    let mut doc = cargo(&["doc", "--workspace", "--exclude", "mesh-ebpf"]);
    doc.args(["--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings");
    doc
}

fn deny(checks: &[&str]) -> Command {
    let mut deny = cargo(&["deny", "check", "--hide-inclusion-graph"]);
    deny.args(checks);
    deny
}

/// The database is a repository of its own, which an offline machine cannot get.
fn advisories() -> Result<()> {
    let step = Step::start("advisories");
    if !host::succeeds("cargo", &["deny", "fetch", "db"]) {
        println!("not checked: the advisory database cannot be fetched");
        step.done();
        return Ok(());
    }
    step.finish(deny(&["advisories"]))
}

/// How much each unit may be exposed, in tenths, as systemd counts it. The usher has for the agent what the agent
/// has not.
const EXPOSURE: [(&str, &str); 3] = [
    ("mesh-agent.service", "20"),
    ("mesh-load.service", "18"),
    ("mesh-usher@.service", "30"),
];

fn units() -> Result<()> {
    let step = Step::start("units");
    for (unit, most) in EXPOSURE {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(format!("--threshold={most}"))
            .arg(Path::new("packaging/systemd").join(unit))
            .output()
            .context("cannot run systemd-analyze")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            print!("{said}{}", String::from_utf8_lossy(&output.stderr));
            bail!("{unit} is exposed more than {most} tenths");
        }
        println!("{}", said.lines().last().unwrap_or_default());
    }
    step.done();
    Ok(())
}

/// An exception to a lint is an `expect` with its reason, which ends when it is not needed.
fn attributes() -> Result<()> {
    let step = Step::start("attributes");
    let files = host::output("git", &["ls-files", "*.rs"]).context("git ls-files failed")?;
    let mut found = 0;
    for file in files.lines() {
        let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
        for (line, _) in (1..).zip(text.lines()).filter(|(_, text)| allows(text)) {
            println!("{file}:{line}: use `expect` with a reason");
            found += 1;
        }
    }
    if found > 0 {
        bail!("{found} lint exceptions without an expectation");
    }
    step.done();
    Ok(())
}

fn allows(line: &str) -> bool {
    let line = line.trim_start();
    (line.starts_with("#[") || line.starts_with("#![")) && line.contains("allow(")
}

/// One flag per unit separator.
#[cfg(target_arch = "aarch64")]
const BPF_FLAGS: &str = "--cfg=bpf_target_arch=\"aarch64\"";
#[cfg(not(target_arch = "aarch64"))]
const BPF_FLAGS: &str = "--cfg=bpf_target_arch=\"x86_64\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_attributes_that_silence_a_lint() {
        assert!(allows("    #[allow(dead_code)]"));
        assert!(allows("#![allow(missing_docs)]"));
        assert!(allows("#[cfg_attr(test, allow(dead_code))]"));
        assert!(!allows("#[expect(dead_code, reason = \"..\")]"));
        assert!(!allows("let text = \"#[allow(dead_code)]\";"));
    }
}
