//! A caller that does not take no for an answer.

use anyhow::Result;

use super::lab::Meshed;
use super::report::{Report, micros};
use super::{Effort, host, policy};
use crate::agent;

/// Denied calls for some seconds, and what they do to the agent.
pub(super) fn measure(effort: &Effort<'_>, report: &mut Report) -> Result<()> {
    report.section("storm: one caller is denied as often as it can call");
    let meshed = Meshed::new(8001, &[policy::base(8001)])?;
    let mut intruder = meshed.client_in("intruder")?;
    let to = meshed.addresses.close.clone();
    let before = host::cpu_of(meshed.agent_pid());
    let done = intruder.order("denied", &to, if effort.quick { 500 } else { 4000 })?;
    let cpu = host::cpu_of(meshed.agent_pid()) - before;
    let per_second = done.count as f64 / done.took.as_secs_f64();
    report.value("denied calls per second", &format!("{per_second:.0}"), None);
    report.value("one denied call", &micros(done.each()), None);
    let share = cpu.as_secs_f64() / done.took.as_secs_f64();
    report.value(
        "agent, share of a CPU",
        &format!("{:.1} %", share * 100.0),
        None,
    );
    let counted = agent::metric(
        &meshed.sandbox,
        "mesh_authorization_decisions_total",
        &[("verdict", "denied")],
    )?;
    let all = counted == done.count as f64;
    report.value(
        "counted",
        &format!("{counted:.0}"),
        Some(("every one", all)),
    );
    let lost = agent::metric(
        &meshed.sandbox,
        "mesh_events_lost_total",
        &[("kind", "denial")],
    )?;
    report.value("records lost (buffer full)", &format!("{lost:.0}"), None);
    Ok(())
}
