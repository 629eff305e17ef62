//! What a guest's tests did, told while it happens and added up at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::guest::{Event, Outcome};
use super::programs::{Plan, Planned};
use super::variant::Variant;

/// The results of one guest.
pub(super) struct Report {
    name: &'static str,
    accepted: &'static [&'static str],
    /// The tests of the plan; `None` for those that have not ended.
    tests: BTreeMap<String, Option<Outcome>>,
    /// Those that are under way.
    running: BTreeSet<String>,
    skipped: Vec<String>,
    failures: Vec<String>,
    done: bool,
    took: Duration,
}

impl Report {
    pub(super) fn new(variant: &Variant, plan: &Plan) -> Self {
        let tests = plan.tests.iter().map(|test| (Planned::name(test), None));
        Self {
            name: variant.name,
            accepted: variant.skips,
            tests: tests.collect(),
            running: BTreeSet::new(),
            skipped: Vec::new(),
            failures: Vec::new(),
            done: false,
            took: Duration::ZERO,
        }
    }

    /// Takes in one line of the guest.
    pub(super) fn take(&mut self, line: &str) {
        match serde_json::from_str(line) {
            Ok(Event::Boot { kernel }) => println!("booted {kernel}"),
            Ok(Event::Begin { test }) => {
                self.running.insert(test);
            }
            Ok(Event::End {
                test,
                outcome,
                seconds,
                said,
            }) => self.end_test(test, outcome, seconds, said.trim()),
            Ok(Event::Done) => self.done = true,
            Err(error) => self.fail(format!("the guest said {line:?}: {error}")),
        }
    }

    fn end_test(&mut self, test: String, outcome: Outcome, seconds: f64, said: &str) {
        self.running.remove(&test);
        let accepted = self.accepted.iter().any(|reason| said.contains(reason));
        let outcome = match outcome {
            Outcome::Skipped if accepted => Outcome::Optional,
            other => other,
        };
        match outcome {
            Outcome::Passed => println!("ok       {test}  {seconds:.1} s"),
            Outcome::Optional => {
                println!("skipped  {test}: {said}");
                self.skipped.push(format!("{test}: {said}"));
            }
            Outcome::Skipped => self.fail(format!("{test} must run here, and did not: {said}")),
            Outcome::Failed => self.fail(format!("{test}  {seconds:.1} s\n{said}")),
        }
        match self.tests.get_mut(&test) {
            Some(place) => *place = Some(outcome),
            None => self.fail(format!("{test} was not asked for")),
        }
    }

    fn fail(&mut self, what: String) {
        println!("FAILED   {}", what.replace('\n', "\n         "));
        let first = what.lines().next().unwrap_or_default();
        self.failures.push(first.to_owned());
    }

    /// The guest is gone; `console` is what its kernel said.
    pub(super) fn end(&mut self, took: Duration, console: &str) {
        self.took = took;
        let complaints = console.lines().filter(|line| is_complaint(line));
        for line in complaints.map(str::to_owned).collect::<Vec<_>>() {
            self.fail(format!("the kernel complains: {line}"));
        }
        let lost = self.tests.iter().filter(|(_, outcome)| outcome.is_none());
        for test in lost.map(|(test, _)| test.clone()).collect::<Vec<_>>() {
            let how = if self.running.contains(&test) {
                "not ended"
            } else {
                "not begun"
            };
            self.fail(format!("{test} has {how}"));
        }
        if !self.done {
            let last: Vec<_> = console.lines().rev().take(15).collect();
            let last: Vec<_> = last.into_iter().rev().collect();
            let last = last.join("\n");
            self.fail(format!("the guest did not come to its end\n{last}"));
        }
    }

    /// Whether all tests ran that must, and nothing failed.
    pub(super) fn is_good(&self) -> bool {
        self.failures.is_empty()
    }

    /// Prints what it comes to.
    pub(super) fn print(&self) {
        for skipped in &self.skipped {
            println!("{}: skipped {skipped}", self.name);
        }
        for failure in &self.failures {
            println!("{}: FAILED {failure}", self.name);
        }
        let count = |wanted| {
            self.tests
                .values()
                .filter(|it| **it == Some(wanted))
                .count()
        };
        println!(
            "{}: {} passed, {} failed, {} skipped, {:.0} s",
            self.name,
            count(Outcome::Passed),
            self.failures.len(),
            self.skipped.len(),
            self.took.as_secs_f64()
        );
    }
}

/// Whether a line of the kernel's says that it is broken.
fn is_complaint(line: &str) -> bool {
    const COMPLAINTS: [&str; 5] = [
        "] BUG: ",
        "] WARNING: CPU",
        "] Oops: ",
        "general protection fault",
        "] Kernel panic",
    ];
    COMPLAINTS.iter().any(|complaint| line.contains(complaint))
}
