//! Runs the fuzz targets for a while each.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    host,
    need::Need,
    setup,
    step::{Step, cargo},
};

/// How long each target runs, seconds.
const SECONDS: u32 = 10;
/// What a target may use, MiB.
const MEMORY: u32 = 1024;
/// Longest input, bytes.
const LENGTH: u32 = 4096;

/// The task `fuzz [--seconds N] [target..]`; `false` if a target found something.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let (seconds, named) = match arguments {
        [flag, seconds, named @ ..] if flag == "--seconds" => {
            (seconds.parse().context("--seconds takes a number")?, named)
        }
        named => (SECONDS, named),
    };
    let known = targets()?;
    if let Some(unknown) = named.iter().find(|name| !known.contains(name)) {
        bail!(
            "there is no target {unknown:?}; these are: {}",
            known.join(", ")
        );
    }
    setup::ensure(&Need::FUZZ)?;
    Step::start("build the fuzz targets").finish(cargo_fuzz("build")?)?;
    let mut failed = Vec::new();
    for target in if named.is_empty() { &known } else { named } {
        let step = Step::start(&format!("fuzz {target}"));
        if let Err(error) = step.finish(one(target, seconds)?) {
            eprintln!("error: {error:#}");
            failed.push(target.as_str());
        }
    }
    match failed[..] {
        [] => println!("\nfuzz: nothing found"),
        _ => println!("\nfuzz: found by {}", failed.join(", ")),
    }
    Ok(failed.is_empty())
}

/// Names of the targets: those of their files.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir("fuzz/targets").context("fuzz/targets")? {
        let path = entry?.path();
        names.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

/// `cargo fuzz` with what all uses of it share. Nothing that is fuzzed has unsafe code, so a
/// sanitizer, which only a nightly compiler has, would find nothing.
fn cargo_fuzz(command: &str) -> Result<Command> {
    let mut fuzz = cargo(&["fuzz", command, "--fuzz-dir", "fuzz", "--sanitizer", "none"]);
    fuzz.arg("--target-dir").arg(target_dir()?);
    Ok(fuzz)
}

/// One target, which begins with what is checked in and with what earlier runs have found.
fn one(target: &str, seconds: u32) -> Result<Command> {
    let corpus = target_dir()?.join("corpus").join(target);
    fs::create_dir_all(&corpus)?;
    let mut fuzz = cargo_fuzz("run")?;
    fuzz.arg(target)
        .arg(corpus)
        .arg(format!("fuzz/seeds/{target}"));
    fuzz.args([
        "--",
        "-verbosity=0",
        "-print_funcs=0",
        "-timeout=10",
        "-dict=fuzz/toml.dict",
    ]);
    fuzz.arg(format!("-max_total_time={seconds}"));
    fuzz.arg(format!("-rss_limit_mb={MEMORY}"));
    fuzz.arg(format!("-max_len={LENGTH}"));
    Ok(fuzz)
}

fn target_dir() -> Result<std::path::PathBuf> {
    Ok(host::target_dir()?.join("fuzz"))
}
