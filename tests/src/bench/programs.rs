//! The kernel's own account of its programs (kernel.bpf_stats_enabled), taken apart from the
//! other measurements because the account itself costs time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use super::lab::Meshed;
use super::report::Report;
use super::{Effort, policy};

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Runs and nanoseconds of every program, for each connection.
pub(super) fn measure(effort: &Effort<'_>, report: &mut Report) -> Result<()> {
    report.section("programs: runs and time per connection (FIN both ways)");
    if Command::new("bpftool").arg("version").output().is_err() {
        report.note("skipped: there is no bpftool (Debian package bpftool)");
        return Ok(());
    }
    let mut meshed = Meshed::new(8001, &[policy::base(8001)])?;
    let to = meshed.addresses.close.clone();
    let count = u64::from(effort.batch) * if effort.quick { 1 } else { 10 };
    meshed.client.order("cycle", &to, count)?;
    let _switch = Switch::on()?;
    let before = account()?;
    meshed.client.order("cycle", &to, count)?;
    let mut total = 0.0;
    for ((id, name), (runs, ns)) in account()? {
        let earlier = before.get(&(id, name.clone())).copied().unwrap_or_default();
        let (runs, ns) = (runs - earlier.0, ns - earlier.1);
        if name.starts_with("mesh_") && runs > 0 {
            total += ns as f64 / count as f64;
            let (runs, ns) = (runs as f64, ns as f64);
            let calls = runs / count as f64;
            report.value(&name, &format!("{calls:.2} runs"), None);
            report.note(&format!(
                "{:>44.0} ns a run, {:.0} ns together",
                ns / runs,
                ns / count as f64
            ));
        }
    }
    report.value(
        "all programs, per connection",
        &format!("{total:.0} ns"),
        None,
    );
    Ok(())
}

/// Runs and nanoseconds by program id and name.
fn account() -> Result<BTreeMap<(u64, String), (u64, u64)>> {
    let output = Command::new("bpftool")
        .args(["-j", "prog", "show"])
        .output()?;
    let programs: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let read = |program: &Value| {
        let number = |field: &str| program[field].as_u64().unwrap_or_default();
        let name = program["name"].as_str().unwrap_or_default().to_owned();
        (
            (number("id"), name),
            (number("run_cnt"), number("run_time_ns")),
        )
    };
    Ok(programs.iter().map(read).collect())
}

/// The account while this exists; then as it was before.
struct Switch(String);

impl Switch {
    fn on() -> io::Result<Self> {
        let before = fs::read_to_string(SWITCH)?;
        fs::write(SWITCH, "1")?;
        Ok(Self(before))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SWITCH, self.0.trim_end()) {
            eprintln!("left behind: {SWITCH} is 1: {error}");
        }
    }
}
