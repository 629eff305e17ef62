//! Everything one does with this repository, as `cargo xtask <task>`.
#![forbid(unsafe_code)]

mod dist;
mod envoy;
mod fuzz;
mod host;
mod lint;
mod need;
mod setup;
mod step;
mod test;
mod vm;

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};

use crate::{
    need::Need,
    step::{Step, cargo},
};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one task; `false` if it failed and has said so.
fn run(arguments: &[String]) -> Result<bool> {
    let (task, rest) = match arguments {
        [] => ("help", arguments),
        [task, rest @ ..] => (task.as_str(), rest),
    };
    match task {
        "help" | "-h" | "--help" => println!("{HELP}"),
        "setup" => setup::run(rest)?,
        "build" => build_release()?,
        "dist" => dist::run(rest)?,
        "demo" => {
            if rest.iter().any(|argument| argument == "--two-hosts") {
                setup::ensure(&Need::TWO_HOSTS)?;
            }
            if rest.iter().any(|argument| argument == "--web") {
                setup::ensure(&Need::WEB)?;
            }
            run_binary("mesh-demo", rest)?;
        }
        "bench" if rest.first().is_some_and(|first| first == "tunnel") => bench_tunnel(rest)?,
        "bench" => run_binary("mesh-bench", rest)?,
        "soak" => run_binary("mesh-soak", rest)?,
        "test" => return test::run(rest),
        "vm" => return vm::run(rest),
        "lint" => return lint::run(),
        "fuzz" => return fuzz::run(rest),
        "ci" => {
            let lint = lint::run()?;
            let fuzz = fuzz::run(&[])?;
            return Ok(test::run(&[])? && fuzz && lint);
        }
        other => bail!("there is no task {other:?}; `cargo xtask help` lists them"),
    }
    Ok(true)
}

fn build_release() -> Result<()> {
    setup::ensure(&Need::BUILD)?;
    let step = Step::start("build the agent (release)");
    step.finish(cargo(&["build", "--release", "--package", "mesh-agent"]))?;
    println!("{}", host::binary("release", "mesh-agent")?.display());
    Ok(())
}

/// Runs a program of the tests package beside a release build of the agent.
fn run_binary(name: &str, arguments: &[String]) -> Result<()> {
    run_binary_with(name, arguments, None)
}

/// What `bench tunnel` needs beyond what `bench` does is only installed for it.
fn bench_tunnel(arguments: &[String]) -> Result<()> {
    setup::ensure(&Need::TUNNEL)?;
    let envoy = match envoy::get() {
        Ok(path) => Some(("MESH_ENVOY", path)),
        Err(error) => {
            println!("Envoy cannot be had, so it is left out: {error:#}");
            None
        }
    };
    run_binary_with("mesh-bench", arguments, envoy)
}

/// As [`run_binary`], with one more variable in its environment.
fn run_binary_with(
    name: &str,
    arguments: &[String],
    variable: Option<(&str, PathBuf)>,
) -> Result<()> {
    if !host::is_root()? {
        bail!("{name} loads programs into the kernel: run it as root");
    }
    setup::ensure(&Need::RUN)?;
    build_release()?;
    // Whichever it is, it may start peers.
    let package = [
        "build",
        "--release",
        "--package",
        "mesh-tests",
        "--bin",
        name,
        "--bin",
        "mesh-peer",
    ];
    Step::start(&format!("build {name}")).finish(cargo(&package))?;
    let mut program = std::process::Command::new(host::binary("release", name)?);
    program.args(arguments);
    program.env("MESH_AGENT", host::binary("release", "mesh-agent")?);
    program.envs(variable);
    Step::start(name).finish(program)
}

const HELP: &str = "\
usage: cargo xtask <task>

  setup [--yes]     install what building, testing and linting need, after saying what and why
  build             build the agent for release
  dist [--arch amd64|arm64].. [--check-reproducible]
                    .deb packages and tarballs in target/dist; or whether two builds are the same
  demo [args..]     build for release and run the demo on this host (root)
  bench [args..]    build for release and measure on this host (root)
  bench tunnel [args..]
                    the same for mTLS between hosts, beside nginx, HAProxy, stunnel and Envoy (root)
  soak [args..]     call right and wrong a million times while everything around changes (root)
  test [filter..]   unit tests, then the tests on the running kernel (root)
  vm [--quick] [--variant NAME].. [filter..]
                    those tests on Debian's kernels 6.1 and 6.12, each in an emulated machine
  vm --systemd [filter..]
                    the package and real units on Debian 12 and 13, each in an emulated machine
  vm --arm64 [filter..]
                    the tests on arm64 with 512 MiB of memory
  lint              formatting, clippy for host and BPF code, docs, licences and dependencies
  fuzz [--seconds N] [target..]
                    run the fuzz targets for 10 s, or N, each
  ci                lint, fuzz and test

Each task first installs what it needs itself: on Debian 12 as root; elsewhere it says how.";
