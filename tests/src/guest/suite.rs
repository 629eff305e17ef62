//! Runs the tests of a plan, each as a process of its own, and reports.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::init::hide_btf;
use super::plan::{Event, Outcome, Plan, Planned};
use crate::patience;

const PLAN: &str = "/mesh/plan.json";
/// How much of what a test said is reported.
const SAID: u64 = 6 * 1024;

/// Runs the plan.
pub(super) fn run() -> Result<()> {
    let plan = fs::read(PLAN).context(PLAN)?;
    let plan: Plan = serde_json::from_slice(&plan).context(PLAN)?;
    let line = File::options().write(true).open(&plan.line);
    let line = line.with_context(|| plan.line.display().to_string())?;
    let report = Report(Mutex::new(line));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kernel = kernel.trim();
    report.say(&Event::Boot { kernel });
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    up.context("ip")?;
    if plan.hide_btf {
        hide_btf().context("cannot hide the kernel's types")?;
    }
    let (alone, together): (Vec<_>, Vec<_>) = plan.tests.iter().partition(|test| test.alone);
    for (tests, workers) in [(together, plan.workers), (alone, 1)] {
        work(&plan, &report, &tests, workers);
    }
    report.say(&Event::Done);
    Ok(())
}

/// Runs `tests`, as many at a time as there are workers.
fn work(plan: &Plan, report: &Report, tests: &[&Planned], workers: usize) {
    let queue = Mutex::new(tests.iter());
    let next = || queue.lock().ok()?.next().copied();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(test) = next() {
                    run_one(plan, report, test);
                }
            });
        }
    });
}

fn run_one(plan: &Plan, report: &Report, planned: &Planned) {
    let name = format!("{}::{}", planned.suite, planned.test);
    report.say(&Event::Begin { test: &name });
    let started = Instant::now();
    let (outcome, said) = outcome(plan, planned)
        .unwrap_or_else(|error| (Outcome::Failed, format!("cannot run it: {error:#}")));
    report.say(&Event::End {
        test: &name,
        outcome,
        seconds: started.elapsed().as_secs_f64(),
        said: &said,
    });
}

fn outcome(plan: &Plan, planned: &Planned) -> Result<(Outcome, String)> {
    let mut output = tempfile::tempfile()?;
    let mut child = Command::new(format!("/mesh/deps/{}", planned.suite))
        .args(["--exact", &planned.test])
        .args(["--include-ignored", "--nocapture", "--test-threads=1"])
        .env("MESH_AGENT", "/mesh/mesh-agent")
        .env(patience::VARIABLE, plan.slowness.to_string())
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .process_group(0)
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(plan.limit);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= deadline {
            killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL)?;
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let said = tail(&mut output)?;
    Ok(match status {
        Some(status) if status.success() => judge(said),
        Some(_) => (Outcome::Failed, said),
        None => {
            let limit = plan.limit;
            (Outcome::Failed, format!("{said}\nkilled after {limit} s"))
        }
    })
}

/// How a test that succeeded ended: it may have said that it did not try.
fn judge(said: String) -> (Outcome, String) {
    let why = |mark| {
        said.split_once(mark)
            .and_then(|(_, why)| why.lines().next())
    };
    if let Some(why) = why("SKIPPED: ") {
        (Outcome::Skipped, why.to_owned())
    } else if let Some(why) = why("SKIPPED (optional): ") {
        (Outcome::Optional, why.to_owned())
    } else if said.contains("test result: ok. 1 passed;") {
        (Outcome::Passed, String::new())
    } else {
        (Outcome::Failed, format!("no test ran\n{said}"))
    }
}

fn tail(output: &mut File) -> Result<String> {
    let length = output.metadata()?.len();
    output.seek(SeekFrom::Start(length.saturating_sub(SAID)))?;
    let mut text = Vec::new();
    output.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The line to those who booted this.
struct Report(Mutex<File>);

impl Report {
    /// Says one thing. That nobody listens is no reason to stop.
    fn say(&self, event: &Event<'_>) {
        let Ok(mut text) = serde_json::to_string(event) else {
            return;
        };
        text.push('\n');
        if let Ok(mut line) = self.0.lock() {
            let _ = line.write_all(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(said: &str, outcome: Outcome) {
        assert_eq!(judge(said.to_owned()).0, outcome, "{said}");
    }

    #[test]
    fn a_test_that_did_nothing_has_not_passed() {
        check("test result: ok. 1 passed; 0 failed", Outcome::Passed);
        check("test result: ok. 0 passed; 0 failed", Outcome::Failed);
        check("", Outcome::Failed);
        check(
            "SKIPPED: needs IPv6\ntest result: ok. 1 passed;",
            Outcome::Skipped,
        );
        check("SKIPPED (optional): old\n", Outcome::Optional);
    }
}
