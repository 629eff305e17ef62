//! How long a policy takes from the files to the kernel.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::lab::Meshed;
use super::report::{Report, millis};
use super::rounds::Spread;
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
    let first = change(&meshed.sandbox, 1)?;
    report.value("first change (other slot is empty)", &millis(first), None);
    report.note(&written(&meshed.sandbox));
    let mut changes = Vec::new();
    for number in 2..if effort.quick { 5 } else { 12 } {
        if effort.interrupt.happened() {
            bail!("interrupted");
        }
        changes.push(change(&meshed.sandbox, number)?);
    }
    let changed = Spread::of(changes).median;
    report.value(
        "one changed rule",
        &millis(changed),
        Some(("<= 20 ms", changed <= 0.02)),
    );
    report.note(&written(&meshed.sandbox));
    Ok(())
}

fn changing(number: usize) -> String {
    let from = number;
    format!("[[allow]]\nname = \"changing\"\nfrom = [\"many/s{from}\"]\nto = [\"bench/echo\"]\n")
}

/// Changes the rule; how long the agent took, from reading the files on.
fn change(sandbox: &Sandbox, number: usize) -> Result<f64> {
    let before = agent::metric(sandbox, "mesh_policy_revision", &[])?;
    sandbox.write_policy(CHANGING, &changing(number))?;
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
