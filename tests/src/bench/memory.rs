//! What the agent and its maps take.

use std::fs;

use anyhow::{Context as _, Result};

use super::lab::Meshed;
use super::policy;
use super::report::{Report, mebibytes};
use crate::agent;

/// With a small policy, after traffic and scrapes.
pub(super) fn measure(report: &mut Report) -> Result<()> {
    report.section("memory: a small policy, after traffic and scrapes");
    let mut meshed = Meshed::new(8001, &[policy::base(8001)])?;
    let to = meshed.addresses.close.clone();
    meshed.client.order("cycle", &to, 2000)?;
    for _ in 0..3 {
        agent::get(&meshed.sandbox, "/metrics")?;
        agent::command(&meshed.sandbox, &["status"])?;
    }
    let pid = meshed.agent_pid();
    let resident = resident(pid)?;
    let met = resident <= f64::from(8 << 20);
    report.value(
        "agent, resident",
        &mebibytes(resident),
        Some(("<= 8 MiB", met)),
    );
    for (name, file, key) in [
        ("  of which not backed by files", "status", "RssAnon:"),
        ("agent, proportional (Pss)", "smaps_rollup", "Pss:"),
    ] {
        report.value(name, &mebibytes(field(pid, file, key)?), None);
    }
    report.value(
        "usher, of its own",
        &mebibytes(told(&meshed, "usher_bytes")?),
        None,
    );
    let maps = told(&meshed, "maps_bytes")?;
    let met = maps <= f64::from(2 << 20);
    report.value("BPF maps", &mebibytes(maps), Some(("<= 2 MiB", met)));
    drop(meshed);
    small_host(report)
}

/// What a small host is meant to have.
fn small_host(report: &mut Report) -> Result<()> {
    report.section("memory: 100 services and as many rules, after 2,000 flows and scrapes");
    let mut meshed = Meshed::new(8001, &policy::of_size(8001, 100, 100))?;
    let to = meshed.addresses.close.clone();
    meshed.client.order("cycle", &to, 2000)?;
    for _ in 0..3 {
        agent::get(&meshed.sandbox, "/metrics")?;
        agent::command(&meshed.sandbox, &["status"])?;
    }
    let pid = meshed.agent_pid();
    let all = resident(pid)? + told(&meshed, "usher_bytes")? + told(&meshed, "maps_bytes")?;
    let met = all <= f64::from(32 << 20);
    report.value(
        "agent, usher and BPF maps",
        &mebibytes(all),
        Some(("<= 32 MiB", met)),
    );
    report.value(
        "  the most the agent was, at its start",
        &mebibytes(peak(pid)?),
        None,
    );
    Ok(())
}

/// What the agent says of its memory, bytes.
fn told(meshed: &Meshed, what: &str) -> Result<f64> {
    let output = agent::command(&meshed.sandbox, &["status", "-o", "json"])?;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let bytes = status["memory"][what].as_f64();
    bytes.with_context(|| format!("no {what}"))
}

/// Resident memory of a process, bytes.
pub(super) fn resident(pid: u32) -> Result<f64> {
    field(pid, "status", "VmRSS:")
}

/// The most it was since [`forget_peak`], bytes.
pub(super) fn peak(pid: u32) -> Result<f64> {
    field(pid, "status", "VmHWM:")
}

/// Lets [`peak`] begin anew (proc_pid_clear_refs(5)).
pub(super) fn forget_peak(pid: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// A field of a file below /proc/PID that is in kB, in bytes.
fn field(pid: u32, file: &str, key: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: f64 = number.with_context(|| key.to_owned())?.parse()?;
    Ok(kilobytes * 1024.0)
}
