//! What runs in a guest: built here, listed here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::hardware::{AMD64, CPUS, Hardware};
use super::kernel::run;
use super::variant::{EXCLUDED, Variant, covers};
use crate::{
    dist, host,
    step::{Step, cargo},
};

/// The programs.
pub(super) struct Programs {
    pub(super) agent: PathBuf,
    pub(super) tests: Tests,
}

/// Those that test.
pub(super) struct Tests {
    pub(super) peer: PathBuf,
    pub(super) init: PathBuf,
    pub(super) suites: Vec<Suite>,
}

/// A test program.
pub(super) struct Suite {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Its tests, and whether they are ignored elsewhere.
    tests: Vec<(String, bool)>,
}

/// What a guest is told; see `mesh_tests::guest::Plan`.
#[derive(Serialize)]
pub(super) struct Plan {
    pub(super) tests: Vec<Planned>,
    workers: usize,
    limit: u64,
    slowness: u32,
    hide_btf: bool,
    line: &'static str,
}

/// A test to run.
#[derive(Serialize)]
pub(super) struct Planned {
    suite: String,
    test: String,
    /// A test that is ignored elsewhere changes the whole machine.
    alone: bool,
}

impl Planned {
    pub(super) fn name(&self) -> String {
        format!("{}::{}", self.suite, self.test)
    }
}

impl Programs {
    /// Builds them as `cargo xtask test` does, which then has nothing left to build. What is shipped, as it is shipped, is
    /// in the guests with systemd.
    pub(super) fn build() -> Result<Self> {
        let step = Step::start("build the agent");
        step.finish(cargo(&["build", "--package", "mesh-agent"]))?;
        Ok(Self {
            agent: host::binary("debug", "mesh-agent")?,
            tests: Tests::build(&AMD64, &["*"])?,
        })
    }

    /// The agent of a package, and tests for its computer.
    pub(super) fn of_package(hardware: &Hardware, directory: &Path) -> Result<Self> {
        let tree = directory.join(format!("package-{}", hardware.arch.name()));
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        let package = package(hardware)?;
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&tree))?;
        Ok(Self {
            agent: tree.join("usr/bin/mesh-agent"),
            tests: Tests::build(hardware, &["*"])?,
        })
    }
}

/// The latest package that `cargo xtask dist` has built for a computer.
pub(super) fn package(hardware: &Hardware) -> Result<PathBuf> {
    let directory = host::target_dir()?.join("dist");
    let end = format!("_{}.deb", hardware.arch.name());
    let files = fs::read_dir(&directory).into_iter().flatten().flatten();
    let packages = files.filter(|file| file.file_name().to_string_lossy().ends_with(&end));
    let latest = packages.max_by_key(|file| file.metadata().and_then(|data| data.modified()).ok());
    match latest {
        Some(file) => Ok(file.path()),
        None => bail!(
            "no package in {}: run `cargo xtask dist --arch {}` first",
            directory.display(),
            hardware.arch.name()
        ),
    }
}

impl Tests {
    /// Builds the named suites as `cargo xtask test` does.
    pub(super) fn build(hardware: &Hardware, suites: &[&str]) -> Result<Self> {
        let step = Step::start(&format!("build the tests for {}", hardware.arch.name()));
        let suites = build_suites(hardware, suites)?;
        step.done();
        let place = place(hardware)?;
        Ok(Self {
            peer: place.join("mesh-peer"),
            init: place.join("mesh-guest"),
            suites,
        })
    }

    /// Which tests run in a variant.
    pub(super) fn plan(&self, variant: &Variant, quick: bool, filters: &[String]) -> Result<Plan> {
        let wanted = |name: &str| {
            let quick = !quick
                || variant.has_systemd()
                || variant.quick.iter().any(|entry| covers(entry, name));
            let filtered = filters.is_empty() || filters.iter().any(|part| name.contains(part));
            quick && filtered
        };
        let mut tests: Vec<Planned> = self.suites.iter().flat_map(Suite::planned).collect();
        let is_there = |entry: &str| tests.iter().any(|test| covers(entry, &test.name()));
        let gone = variant.quick.iter().find(|entry| !is_there(entry));
        if let Some(gone) = gone.filter(|_| !variant.has_systemd()) {
            bail!("no test is called {gone} any more, which --quick must run");
        }
        tests.retain(|test| variant.runs(&test.suite) && wanted(&test.name()));
        if tests.is_empty() && !wants_reboot(variant, filters) {
            bail!("no test has such a name");
        }
        Ok(plan_of(tests, variant))
    }

    /// What runs in each of the boots of a machine that is rebooted.
    pub(super) fn reboot_plan(&self, variant: &Variant) -> Plan {
        let mut tests: Vec<Planned> = self.suites.iter().flat_map(Suite::planned).collect();
        tests.retain(|test| test.suite == variant.over_a_reboot());
        plan_of(tests, variant)
    }
}

/// Whether the machine that is rebooted is asked for.
pub(super) fn wants_reboot(variant: &Variant, filters: &[String]) -> bool {
    filters.is_empty() || filters.iter().any(|part| part == variant.over_a_reboot())
}

impl Plan {
    /// Whether a test of a suite is in it.
    pub(super) fn has(&self, suite: &Suite) -> bool {
        self.tests.iter().any(|test| test.suite == suite.name)
    }
}

fn plan_of(tests: Vec<Planned>, variant: &Variant) -> Plan {
    Plan {
        tests,
        workers: CPUS,
        limit: TEST_LIMIT,
        slowness: SLOWNESS,
        hide_btf: variant.hide_btf,
        line: variant.hardware.line,
    }
}

impl Suite {
    fn list(hardware: &Hardware, name: String, path: PathBuf) -> Result<Self> {
        let all = tests(hardware, &path, &[])?;
        let ignored = tests(hardware, &path, &["--ignored"])?;
        let tests = all.into_iter().map(|test| {
            let is_ignored = ignored.contains(&test);
            (test, is_ignored)
        });
        let tests = tests.collect();
        Ok(Self { name, path, tests })
    }

    fn planned(&self) -> impl Iterator<Item = Planned> {
        self.tests.iter().map(|(test, ignored)| Planned {
            suite: self.name.clone(),
            test: test.clone(),
            alone: *ignored,
        })
    }
}

/// The tests of a program.
fn tests(hardware: &Hardware, path: &Path, which: &[&str]) -> Result<Vec<String>> {
    let path = path.to_str().context("the path is not text")?;
    let list = [which, &["--list", "--format", "terse"]].concat();
    let listed = match hardware.is_ours() {
        true => host::output(path, &list),
        false => host::output(hardware.arch.emulator(), &[&[path], &list[..]].concat()),
    };
    let listed = listed.with_context(|| format!("{path} lists no tests"))?;
    let names = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    Ok(names.map(str::to_owned).collect())
}

/// A message of cargo's, of which most are about something else.
#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Where cargo puts what it builds for a computer.
fn place(hardware: &Hardware) -> Result<PathBuf> {
    let target = host::target_dir()?;
    Ok(match hardware.is_ours() {
        true => target.join("debug"),
        false => target.join(hardware.arch.target()).join("debug"),
    })
}

fn build_suites(hardware: &Hardware, suites: &[&str]) -> Result<Vec<Suite>> {
    let mut build = cargo(&["test", "--package", "mesh-tests"]);
    build.args(suites.iter().flat_map(|suite| ["--test", suite]));
    build.args(["--no-run", "--message-format=json-render-diagnostics"]);
    if !hardware.is_ours() {
        build.args(["--target", hardware.arch.target()]);
        dist::set_environment(&mut build, hardware.arch)?;
    }
    let output = build.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the tests do not build ({})", output.status);
    }
    let mut suites = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Message = serde_json::from_str(line)?;
        let (Some(target), Some(path)) = (message.target, message.executable) else {
            continue;
        };
        if message.reason != "compiler-artifact" || target.kind != ["test"] {
            continue;
        }
        match EXCLUDED.iter().find(|(suite, _)| *suite == target.name) {
            Some((suite, why)) => println!("left out: {suite}: {why}"),
            None => suites.push(Suite::list(hardware, target.name, path)?),
        }
    }
    suites.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(suites)
}

/// A copy of `program` without what only a debugger reads.
pub(super) fn strip(hardware: &Hardware, program: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new(match hardware.is_ours() {
        true => "strip",
        false => "aarch64-linux-gnu-strip",
    });
    strip.arg("--strip-debug").arg("-o").arg(to).arg(program);
    let status = strip.status().context("cannot run strip")?;
    if !status.success() {
        bail!("strip {} failed ({status})", program.display());
    }
    Ok(())
}

/// How many times slower than on a real machine time limits assume everything to be.
const SLOWNESS: u32 = 8;
/// How long a test may take, in seconds: more than it gives itself.
const TEST_LIMIT: u64 = 1500;
