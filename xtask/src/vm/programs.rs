//! What runs in a guest: built here, listed here.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::variant::{EXCLUDED, OVER_A_REBOOT, QUICK, Variant, covers};
use crate::{
    host,
    step::{Step, cargo},
};

/// The programs.
pub(super) struct Programs {
    pub(super) agent: PathBuf,
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
    /// Builds them: what is shipped as it is shipped, the tests as `cargo xtask test` does.
    pub(super) fn build() -> Result<Self> {
        let step = Step::start("build the agent and the peer (release)");
        let mut build = cargo(&["build", "--release"]);
        build.args(["--package", "mesh-agent", "--package", "mesh-tests"]);
        build.args(["--bin", "mesh-agent", "--bin", "mesh-peer"]);
        step.finish(build)?;
        let step = Step::start("build the tests");
        let suites = build_suites()?;
        step.done();
        Ok(Self {
            agent: host::binary("release", "mesh-agent")?,
            peer: host::binary("release", "mesh-peer")?,
            init: host::binary("debug", "mesh-guest")?,
            suites,
        })
    }

    /// Which tests run in a variant.
    pub(super) fn plan(&self, variant: &Variant, quick: bool, filters: &[String]) -> Result<Plan> {
        let wanted = |name: &str| {
            let quick = !quick || QUICK.iter().any(|entry| covers(entry, name));
            let filtered = filters.is_empty() || filters.iter().any(|part| name.contains(part));
            quick && filtered
        };
        let mut tests: Vec<Planned> = self.suites.iter().flat_map(Suite::planned).collect();
        let is_there = |entry: &str| tests.iter().any(|test| covers(entry, &test.name()));
        if let Some(gone) = QUICK.iter().find(|entry| !is_there(entry)) {
            bail!("no test is called {gone} any more, which --quick must run");
        }
        tests.retain(|test| wanted(&test.name()) && !covers(OVER_A_REBOOT, &test.name()));
        if tests.is_empty() && !wants_reboot(filters) {
            bail!("no test has such a name");
        }
        Ok(plan_of(tests, variant))
    }

    /// What runs in each of the boots of a machine that is rebooted.
    pub(super) fn reboot_plan(&self, variant: &Variant) -> Plan {
        let mut tests: Vec<Planned> = self.suites.iter().flat_map(Suite::planned).collect();
        tests.retain(|test| covers(OVER_A_REBOOT, &test.name()));
        plan_of(tests, variant)
    }
}

/// Whether the machine that is rebooted is asked for.
pub(super) fn wants_reboot(filters: &[String]) -> bool {
    filters.is_empty() || filters.iter().any(|part| part == OVER_A_REBOOT)
}

fn plan_of(tests: Vec<Planned>, variant: &Variant) -> Plan {
    Plan {
        tests,
        workers: CPUS,
        limit: TEST_LIMIT,
        slowness: SLOWNESS,
        hide_btf: variant.hide_btf,
    }
}

impl Suite {
    fn list(name: String, path: PathBuf) -> Result<Self> {
        let all = tests(&path, &[])?;
        let ignored = tests(&path, &["--ignored"])?;
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
fn tests(path: &Path, which: &[&str]) -> Result<Vec<String>> {
    let path = path.to_str().context("the path is not text")?;
    let list = [which, &["--list", "--format", "terse"]].concat();
    let listed = host::output(path, &list).with_context(|| format!("{path} lists no tests"))?;
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

fn build_suites() -> Result<Vec<Suite>> {
    let mut build = cargo(&["test", "--package", "mesh-tests", "--test", "*"]);
    build.args(["--no-run", "--message-format=json-render-diagnostics"]);
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
            None => suites.push(Suite::list(target.name, path)?),
        }
    }
    suites.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(suites)
}

/// A copy of `program` without what only a debugger reads.
pub(super) fn strip(program: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new("strip");
    strip.arg("--strip-debug").arg("-o").arg(to).arg(program);
    let status = strip.status().context("cannot run strip")?;
    if !status.success() {
        bail!("strip {} failed ({status})", program.display());
    }
    Ok(())
}

/// Processors of a guest, and tests at a time in it.
pub(super) const CPUS: usize = 2;
/// How many times slower than on a real machine time limits assume everything to be.
const SLOWNESS: u32 = 8;
/// How long a test may take, in seconds: more than it gives itself.
const TEST_LIMIT: u64 = 1500;
