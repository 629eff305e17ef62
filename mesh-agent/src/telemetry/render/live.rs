//! Established flows: what was cut, what is left.

use std::fmt;

use prometheus_client::registry::Unit;

use super::sheet::{Sheet, Value};
use crate::telemetry::snapshot::LiveFlows;

/// Writes the families of established flows.
pub(super) fn encode(sheet: &mut Sheet<'_>, live: &LiveFlows) -> fmt::Result {
    sheet.single(
        "mesh_late_denials",
        None,
        "Established flows that were cut because policy no longer allows them.",
        Some(Value::Count(live.late_denials)),
    )?;
    sheet.single(
        "mesh_flow_cutting_supported",
        None,
        "Whether this kernel can cut established flows (CONFIG_INET_DIAG_DESTROY).",
        live.supported
            .map(|supported| Value::Gauge(supported.into())),
    )?;
    sheet.single(
        "mesh_flows_uncut",
        None,
        "Established flows that policy does not allow and that could not be cut.",
        Some(Value::Gauge(live.uncut)),
    )?;
    sheet.single(
        "mesh_netns_unreached",
        None,
        "Network namespaces whose established flows could not be judged.",
        Some(Value::Gauge(live.unreached)),
    )?;
    sheet.single(
        "mesh_flow_sweeps",
        None,
        "Times that established flows were judged since the agent started.",
        Some(Value::Count(live.sweeps)),
    )?;
    sheet.single(
        "mesh_flow_sweep_duration",
        Some(Unit::Seconds),
        "How long judging all established flows took the last time.",
        Some(Value::Level(live.took.as_secs_f64())),
    )?;
    sheet.family(
        "mesh_flows_remaining",
        None,
        "Flows to endpoints that were removed or whose version has no weight any more.",
        live.leaving.iter().map(|leaving| {
            let labels = [
                ("service", &*leaving.service),
                ("version", &*leaving.version),
            ];
            (labels, Value::Gauge(leaving.remaining))
        }),
    )?;
    sheet.family(
        "mesh_flows_closed",
        None,
        "Flows that on_weight_change closed since the agent started.",
        live.leaving.iter().map(|leaving| {
            let labels = [
                ("service", &*leaving.service),
                ("version", &*leaving.version),
            ];
            (labels, Value::Count(leaving.closed))
        }),
    )
}
