//! Runs the tests and counts what they did.

use std::{
    io::{self, BufRead as _, BufReader, IsTerminal as _, Read, Write},
    ops::AddAssign,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result};

use crate::{
    host,
    need::Need,
    setup,
    step::{Step, cargo},
};

/// The task `test [filter..]`; `false` if a test failed, or was skipped where all must run.
pub(crate) fn run(filters: &[String]) -> Result<bool> {
    setup::ensure(&Need::TEST)?;
    let mut total = Tally::default();
    let mut passed = true;

    let unit = [
        "--workspace",
        "--exclude",
        "mesh-ebpf",
        "--exclude",
        "mesh-tests",
    ];
    passed &= suite("unit tests", &unit, filters, &mut total)?;

    let step = Step::start("build the agent");
    step.finish(cargo(&["build", "--package", "mesh-agent", "--bins"]))?;
    passed &= suite(
        "tests on the running kernel",
        &["--package", "mesh-tests"],
        filters,
        &mut total,
    )?;

    let required = host::in_ci() && total.skipped_required > 0;
    if required {
        println!("\nCI=true, and tests that it must run were skipped");
    }
    println!(
        "\n{} passed, {} failed, {} skipped",
        total.passed(),
        total.failed,
        total.skipped
    );
    Ok(passed && !required)
}

fn suite(name: &str, packages: &[&str], filters: &[String], total: &mut Tally) -> Result<bool> {
    let step = Step::start(name);
    let mut command = cargo(&["test", "--no-fail-fast"]);
    command.args(packages).arg("--").args(filters);
    command.env("MESH_AGENT", host::binary("debug", "mesh-agent")?);
    if io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let (tally, success) = run_counted(command).with_context(|| name.to_owned())?;
    *total += tally;
    step.done();
    Ok(success)
}

/// Passes the command's output through and reads the results out of it.
fn run_counted(mut command: Command) -> Result<(Tally, bool)> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let errors = thread::spawn(|| stderr.map(|from| pass_through(from, io::stderr())));
    let mut tally = Tally::default();
    for part in [
        stdout.map(|from| pass_through(from, io::stdout())),
        errors.join().ok().flatten(),
    ] {
        tally += part.context("lost the output")??;
    }
    Ok((tally, child.wait()?.success()))
}

fn pass_through(from: impl Read, mut to: impl Write) -> io::Result<Tally> {
    let mut tally = Tally::default();
    for line in BufReader::new(from).split(b'\n') {
        let mut line = line?;
        tally.read(&String::from_utf8_lossy(&line));
        line.push(b'\n');
        to.write_all(&line)?;
    }
    Ok(tally)
}

/// What the lines of one or more test programs add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    /// As test programs count them: a test that skips itself is among these.
    ok: usize,
    failed: usize,
    skipped: usize,
    skipped_required: usize,
}

impl Tally {
    /// Tests say `SKIPPED: why` when they cannot run here, `SKIPPED (optional): why` if CI may.
    fn read(&mut self, line: &str) {
        if line.contains("SKIPPED: ") {
            self.skipped += 1;
            self.skipped_required += 1;
        } else if line.contains("SKIPPED (optional): ") {
            self.skipped += 1;
        } else if line.starts_with("test result: ") {
            self.ok += count(line, " passed");
            self.failed += count(line, " failed");
        }
    }

    fn passed(&self) -> usize {
        self.ok.saturating_sub(self.skipped)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.skipped_required += other.skipped_required;
    }
}

/// The number before `what` in `test result: ok. 3 passed; 0 failed; ..`.
fn count(line: &str, what: &str) -> usize {
    let before = line.split(what).next().unwrap_or_default();
    let number = before.rsplit(' ').next().unwrap_or_default();
    number.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, expect: [usize; 3]) {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.read(line));
        assert_eq!(
            [tally.passed(), tally.failed, tally.skipped],
            expect,
            "{output}"
        );
    }

    #[test]
    fn reads_the_results_of_test_programs() {
        check("", [0, 0, 0]);
        check(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured",
            [12, 0, 0],
        );
        check(
            "test result: FAILED. 3 passed; 2 failed; 0 ignored",
            [3, 2, 0],
        );
        check(
            "SKIPPED: needs root\ntest result: ok. 2 passed; 0 failed",
            [1, 0, 1],
        );
        check(
            "SKIPPED (optional): no kTLS\ntest result: ok. 2 passed; 0 failed",
            [1, 0, 1],
        );
        check(
            "test a ... ok\ntest result: ok. 1 passed; 0 failed\ntest result: ok. 4 passed; 0 failed",
            [5, 0, 0],
        );
    }

    #[test]
    fn only_a_required_test_counts_as_such() {
        let mut tally = Tally::default();
        tally.read("SKIPPED (optional): no kTLS");
        assert_eq!(tally.skipped_required, 0);
        tally.read("SKIPPED: needs root");
        assert_eq!(tally.skipped_required, 1);
    }
}
