//! How long a policy takes from the files to the kernel.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::lab::Meshed;
use super::report::{Report, millis};
use super::rounds::{Spread, Variant, compare};
use super::{Effort, policy};
use crate::{Sandbox, agent};

const SERVICES: usize = 1000;
const RULES: usize = 10_000;
/// The file with the rule that changes.
const CHANGING: &str = "90-changing.toml";
/// How long a changed file may take to be noticed.
const NOTICE: Duration = Duration::from_secs(10);

/// A first start, then one changed rule, several times.
pub(super) fn measure(effort: &Effort<'_>, report: &mut Report) -> Result<()> {
    report.section(&format!("apply: {SERVICES} services and {RULES} rules"));
    let mut files = policy::of_size(8001, SERVICES, RULES - 1);
    files.push((CHANGING.into(), changing(0)));
    let mut starts = Vec::new();
    let mut meshed = Meshed::new(8001, &files)?;
    starts.push(took(&meshed.sandbox)?);
    for _ in 0..if effort.quick { 1 } else { 4 } {
        drop(meshed);
        meshed = Meshed::new(8001, &files)?;
        starts.push(took(&meshed.sandbox)?);
    }
    let start = Spread::of(starts).median;
    report.value(
        "parse, compile, apply",
        &millis(start),
        Some(("<= 200 ms", start <= 0.2)),
    );
    let first = change(&meshed.sandbox, CHANGING, &changing(1))?;
    report.value("first change (other slot is empty)", &millis(first), None);
    report.note(&written(&meshed.sandbox));
    let changed = changes(effort, &meshed, CHANGING, &changing)?;
    report.value(
        "one changed rule",
        &millis(changed),
        Some(("<= 20 ms", changed <= 0.02)),
    );
    report.note(&written(&meshed.sandbox));
    drop(meshed);
    in_a_large_file(effort, report)
}

/// One changed rule in the middle of a file that is as large as files can be.
fn in_a_large_file(effort: &Effort<'_>, report: &mut Report) -> Result<()> {
    let mut files = policy::of_size(8001, SERVICES, 1);
    let (before, after) = policy::large_file(SERVICES);
    let text = |number| format!("{before}{}\n{after}", changing(number));
    files.push((CHANGING.into(), text(0)));
    let meshed = Meshed::new(8001, &files)?;
    change(&meshed.sandbox, CHANGING, &text(1))?;
    let changed = changes(effort, &meshed, CHANGING, &text)?;
    let size = text(1).len() >> 10;
    let what = format!("one changed rule in a file of {size} KiB");
    report.value(&what, &millis(changed), Some(("<= 40 ms", changed <= 0.04)));
    report.note(&written(&meshed.sandbox));
    Ok(())
}

/// Changes `file` again and again, to another text each time.
fn changes(
    effort: &Effort<'_>,
    meshed: &Meshed,
    file: &str,
    text: &dyn Fn(usize) -> String,
) -> Result<f64> {
    let mut number = 1;
    let mut variants = [Variant {
        name: file,
        run: Box::new(|| {
            number += 1;
            change(&meshed.sandbox, file, &text(number))
        }),
    }];
    let few = Effort {
        rounds: effort.rounds.min(10),
        ..*effort
    };
    Ok(compare(&few, &meshed.pids(), &mut variants)?.of(0).median)
}

fn changing(number: usize) -> String {
    // Not the callers that the slot being written had before.
    let from = number % 500;
    format!("[[allow]]\nname = \"changing\"\nfrom = [\"many/s{from}\"]\nto = [\"bench/echo\"]\n")
}

/// Changes a file; how long the agent took, from reading the files on.
fn change(sandbox: &Sandbox, file: &str, text: &str) -> Result<f64> {
    let before = agent::metric(sandbox, "mesh_policy_revision", &[])?;
    sandbox.write_policy(file, text)?;
    let deadline = Instant::now() + NOTICE;
    while agent::metric(sandbox, "mesh_policy_revision", &[])? == before {
        if Instant::now() > deadline {
            bail!("the change is not applied:\n{}", agent::log(sandbox));
        }
        sleep(Duration::from_millis(300));
    }
    took(sandbox)
}

/// Seconds for the policy in force, as the agent says.
fn took(sandbox: &Sandbox) -> Result<f64> {
    let output = agent::command(sandbox, &["status", "-o", "json"])?;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(status["policy"]["apply_seconds"]
        .as_f64()
        .unwrap_or(f64::NAN))
}

/// What the agent has logged of the newest policy.
fn written(sandbox: &Sandbox) -> String {
    let log = agent::log(sandbox);
    let line = log
        .lines()
        .rev()
        .find_map(|line| line.split_once("policy in force "));
    line.map_or_else(String::new, |(_, fields)| fields.to_owned())
}
