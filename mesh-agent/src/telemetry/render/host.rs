//! How the agent, its policy and its data plane are.

use std::fmt;

use mesh_common::Counter;
use prometheus_client::registry::Unit;

use super::sheet::{Sheet, Value};
use crate::policy::model::DefaultAction;
use crate::telemetry::registry::Content;
use crate::telemetry::snapshot::{FlowCounters, MemoryState, PolicyState};

/// Writes the families of this build and this process.
pub(super) fn process(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
    let build = &content.build;
    sheet.info(
        "mesh_build",
        "What this agent was built from.",
        &[
            ("version", build.version),
            ("revision", build.revision),
            ("rustc", build.rustc),
        ],
    )?;
    let node = &content.snapshot.node;
    sheet.info(
        "mesh_node",
        "The node that the agent is for, and the trust domain of its identities.",
        &[("node", &*node.name), ("trust_domain", &*node.trust_domain)],
    )?;
    let process = &content.process;
    sheet.single(
        "process_cpu",
        Some(Unit::Seconds),
        "User and system time of the agent.",
        process.cpu_seconds.map(Value::CountedSeconds),
    )?;
    sheet.single(
        "process_resident_memory",
        Some(Unit::Bytes),
        "Memory of the agent that is in RAM.",
        process.resident_bytes.map(Value::Gauge),
    )?;
    sheet.single(
        "process_virtual_memory",
        Some(Unit::Bytes),
        "Address space of the agent.",
        process.virtual_bytes.map(Value::Gauge),
    )?;
    sheet.single(
        "process_open_fds",
        None,
        "File descriptors of the agent in use.",
        process.open_fds.map(Value::Gauge),
    )?;
    sheet.single(
        "process_max_fds",
        None,
        "File descriptors the agent may have.",
        process.max_fds.map(Value::Gauge),
    )?;
    sheet.single(
        "process_start_time",
        Some(Unit::Seconds),
        "When the agent started, since 1970.",
        process.start_time_seconds.map(Value::Level),
    )?;
    sheet.single(
        "process_threads",
        None,
        "Threads of the agent.",
        process.threads.map(Value::Gauge),
    )
}

/// Writes the families of the policy.
pub(super) fn policy(sheet: &mut Sheet<'_>, policy: &PolicyState) -> fmt::Result {
    let default = match policy.default {
        DefaultAction::Allow => "allow",
        DefaultAction::Deny => "deny",
    };
    sheet.info(
        "mesh_policy",
        "The policy in force.",
        &[("digest", &policy.digest), ("default", default)],
    )?;
    sheet.single(
        "mesh_policy_revision",
        None,
        "Number of the policy in force; grows with each one that is applied.",
        Some(Value::Gauge(policy.revision)),
    )?;
    sheet.single(
        "mesh_policy_last_reload_successful",
        None,
        "Whether the newest set of files is in force (1) or an older one, because the newest is rejected (0).",
        Some(Value::Gauge(policy.last_reload_successful.into())),
    )?;
    sheet.single(
        "mesh_policy_last_success_timestamp",
        Some(Unit::Seconds),
        "When a policy was last applied, since 1970.",
        Some(Value::Level(policy.last_success_timestamp_seconds)),
    )?;
    sheet.single(
        "mesh_policy_apply_duration",
        Some(Unit::Seconds),
        "How long the last policy took to be applied.",
        Some(Value::Level(policy.apply_duration.as_secs_f64())),
    )?;
    sheet.family(
        "mesh_policy_reloads",
        None,
        "Reloads since the agent started.",
        [
            ([("outcome", "ok")], Value::Count(policy.reloads_ok)),
            (
                [("outcome", "rejected")],
                Value::Count(policy.reloads_rejected),
            ),
        ],
    )?;
    sheet.family(
        "mesh_policy_objects",
        None,
        "What the policy in force has.",
        [
            ([("kind", "service")], Value::Gauge(policy.services)),
            ([("kind", "rule")], Value::Gauge(policy.rules)),
            ([("kind", "split")], Value::Gauge(policy.splits)),
        ],
    )
}

/// Writes the families of programs and maps.
pub(super) fn data_plane(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
    let snapshot = &content.snapshot;
    sheet.family(
        "mesh_bpf_program_attached",
        None,
        "Whether a program is among the effective ones of its hook.",
        snapshot.programs.iter().map(|state| {
            let labels = [("program", &*state.program), ("hook", &*state.hook)];
            (labels, Value::Gauge(state.attached.into()))
        }),
    )?;
    let maps = || snapshot.maps.iter().map(|map| ([("map", &*map.map)], map));
    sheet.family(
        "mesh_bpf_map_entries",
        None,
        "Entries of a BPF map in use.",
        maps().map(|(labels, map)| (labels, Value::Gauge(map.entries))),
    )?;
    sheet.family(
        "mesh_bpf_map_capacity",
        None,
        "Entries a BPF map can hold.",
        maps().map(|(labels, map)| (labels, Value::Gauge(map.capacity))),
    )?;
    sheet.family(
        "mesh_bpf_map_memory",
        Some(Unit::Bytes),
        "Memory of a BPF map.",
        maps().map(|(labels, map)| (labels, Value::Gauge(map.memory_bytes))),
    )
}

/// Writes how the agent and its maps stay below their ceiling.
fn memory(sheet: &mut Sheet<'_>, state: &MemoryState) -> fmt::Result {
    sheet.single(
        "mesh_memory_limit",
        Some(Unit::Bytes),
        "Memory that the agent, its usher and its BPF maps may use together.",
        Some(Value::Gauge(state.limit)),
    )?;
    sheet.single(
        "mesh_memory_shedding",
        None,
        "Whether telemetry is given up at the moment to stay below the limit.",
        Some(Value::Gauge(state.shedding.into())),
    )?;
    sheet.single(
        "mesh_memory_shed",
        None,
        "How often telemetry began to be given up to stay below the limit.",
        Some(Value::Count(state.shed)),
    )
}

/// Writes what could not be counted, recorded or remembered.
pub(super) fn losses(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
    let kernel = |counter: Counter| Value::Count(content.snapshot.counter(counter));
    let agent = content.snapshot.agent;
    sheet.single(
        "mesh_denials",
        None,
        "Denials of any kind, also those without a series of their own.",
        Some(Value::Count(content.snapshot.denials())),
    )?;
    sheet.single(
        "mesh_enforcement_repairs",
        None,
        "How often pins or programs that somebody removed were put back.",
        Some(Value::Count(agent.enforcement_repairs)),
    )?;
    sheet.single(
        "mesh_canary_failures",
        None,
        "Calls of the agent's own that had to be refused and were not.",
        Some(Value::Count(agent.canary_failures)),
    )?;
    sheet.family(
        "mesh_events_lost",
        None,
        "Records of denials and of flows that did not reach the agent (buffer full) or made no sense to it.",
        [
            ("denial", "buffer-full", kernel(Counter::RecordsLost)),
            ("denial", "malformed", Value::Count(agent.denial_records_malformed)),
            ("flow", "buffer-full", kernel(Counter::FlowRecordsLost)),
            ("flow", "malformed", Value::Count(agent.flows.malformed)),
        ]
        .map(|(kind, cause, value)| ([("kind", kind), ("cause", cause)], value)),
    )?;
    flows(sheet, &agent.flows)?;
    memory(sheet, &agent.memory)?;
    sheet.single(
        "mesh_denial_logs_suppressed",
        None,
        "Denials that were counted but not logged, because the same was logged just before.",
        Some(Value::Count(agent.denial_logs_suppressed)),
    )?;
    sheet.family(
        "mesh_metrics_series_dropped",
        None,
        "Stage kernel: updates that found the map of series full; stage scrape: label sets shown as other.",
        [
            ("flow", "kernel", kernel(Counter::FlowSeriesDropped)),
            ("flow", "scrape", Value::Count(content.flows_folded)),
            ("request", "kernel", kernel(Counter::RequestSeriesDropped)),
            ("request", "scrape", Value::Count(content.requests.folded)),
            ("decision", "kernel", kernel(Counter::DecisionSeriesDropped)),
            ("decision", "scrape", Value::Count(content.decisions_folded)),
        ]
        .map(|(kind, stage, value)| ([("kind", kind), ("stage", stage)], value)),
    )?;
    sheet.family(
        "mesh_resource_shortages",
        None,
        "How often the kernel side could not get, or had to give up, an entry of a resource.",
        [
            ("cgroup", Counter::CgroupsDropped),
            ("affinity", Counter::AffinityDropped),
            ("split-counter", Counter::SplitCountersShared),
            ("socket-storage", Counter::SocketStorageFailed),
            ("ticket", Counter::TicketsDropped),
            ("udp-flow", Counter::UdpFlowsDisplaced),
        ]
        .map(|(resource, counter)| ([("resource", resource)], kernel(counter))),
    )
}

/// Writes what became of records of flows.
fn flows(sheet: &mut Sheet<'_>, flows: &FlowCounters) -> fmt::Result {
    sheet.single(
        "mesh_flow_records",
        None,
        "Records of flows and denials that were remembered.",
        Some(Value::Count(flows.recorded)),
    )?;
    sheet.single(
        "mesh_flow_records_evicted",
        None,
        "Records of flows and denials that made room for newer ones.",
        Some(Value::Count(flows.evicted)),
    )?;
    sheet.family(
        "mesh_flow_updates_skipped",
        None,
        "Open flows without an update (quiet: others had moved more bytes) or not looked at (unseen: there were too many).",
        [
            ([("cause", "quiet")], Value::Count(flows.updates_skipped)),
            ([("cause", "unseen")], Value::Count(flows.unseen)),
        ],
    )?;
    let Some(log) = flows.log else { return Ok(()) };
    sheet.family(
        "mesh_access_log_records",
        None,
        "Records of the access log; suppressed: there were too many at a time.",
        [
            ([("outcome", "written")], Value::Count(log.written)),
            ([("outcome", "suppressed")], Value::Count(log.suppressed)),
            ([("outcome", "failed")], Value::Count(log.failed)),
        ],
    )
}
