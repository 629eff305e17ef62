//! The metric families: names, helps and labels of everything that is exposed.

use std::collections::BTreeMap;
use std::fmt;

use mesh_common::{Counter, FlowStats, Verdict};
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::flags::ResponseFlags;
use super::registry::{Content, DecisionLabels, FlowLabels};
use super::snapshot::{PolicyState, SplitSeries, Transport};
use crate::policy::model::DefaultAction;

mod sheet;

use sheet::{Pair, Sheet, Value};

/// Writes every family that has a sample.
pub(crate) fn encode(content: &Content, encoder: DescriptorEncoder<'_>) -> fmt::Result {
    let mut sheet = Sheet(encoder);
    build_and_process(&mut sheet, content)?;
    tcp(&mut sheet, content)?;
    udp(&mut sheet, content)?;
    decisions(&mut sheet, content)?;
    splits(&mut sheet, &content.snapshot.splits)?;
    if let Some(policy) = &content.snapshot.policy {
        self::policy(&mut sheet, policy)?;
    }
    data_plane(&mut sheet, content)?;
    losses(&mut sheet, content)
}

fn build_and_process(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
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

fn flow_labels(labels: &FlowLabels) -> [Pair<'_>; 5] {
    [
        ("reporter", REPORTER),
        ("source_service", &labels.source),
        ("destination_service", &labels.destination),
        ("destination_version", &labels.version),
        ("connection_security_policy", PLAINTEXT),
    ]
}

/// Samples of one transport, one for each label set.
fn samples<'a>(
    content: &'a Content,
    protocol: Transport,
    value: impl Fn(&'a FlowStats) -> Value<'a>,
) -> impl Iterator<Item = ([Pair<'a>; 5], Value<'a>)> {
    content
        .flows
        .iter()
        .filter(move |(labels, _)| labels.protocol == protocol)
        .map(move |(labels, stats)| (flow_labels(labels), value(stats)))
}

fn tcp(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
    sheet.family(
        "mesh_tcp_connections_opened",
        None,
        "TCP connections that were established.",
        samples(content, Transport::Tcp, |s| Value::Count(s.opened)),
    )?;
    sheet.family(
        "mesh_tcp_connections_closed",
        None,
        "TCP connections that were closed after they were established.",
        samples(content, Transport::Tcp, |s| Value::Count(s.closed)),
    )?;
    sheet.family(
        "mesh_tcp_connections_open",
        None,
        "TCP connections that are established now.",
        samples(content, Transport::Tcp, |s| {
            Value::Gauge(s.opened.saturating_sub(s.closed))
        }),
    )?;
    failed(sheet, content)?;
    sheet.family(
        "mesh_tcp_sent",
        Some(Unit::Bytes),
        "Bytes from the client to the server, counted when a connection closes.",
        samples(content, Transport::Tcp, |s| Value::Count(s.sent_bytes)),
    )?;
    sheet.family(
        "mesh_tcp_received",
        Some(Unit::Bytes),
        "Bytes from the server to the client, counted when a connection closes.",
        samples(content, Transport::Tcp, |s| Value::Count(s.received_bytes)),
    )?;
    sheet.family(
        "mesh_tcp_retransmits",
        None,
        "Segments the client sent again, counted when a connection closes.",
        samples(content, Transport::Tcp, |s| Value::Count(s.retransmits)),
    )?;
    sheet.family(
        "mesh_tcp_connect_duration",
        Some(Unit::Seconds),
        "Time from connect to established, as the client saw it.",
        samples(content, Transport::Tcp, Value::Connects),
    )
}

/// What failed is known from two sides: connections that nobody answered, and denials.
fn failed(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
    let mut sums = BTreeMap::<(&str, &str, &str, &str), u64>::new();
    for (labels, stats) in &content.flows {
        if labels.protocol == Transport::Tcp && stats.failed > 0 {
            let FlowLabels {
                source,
                destination,
                version,
                protocol: _,
            } = labels;
            let flags = ResponseFlags::Connect.name();
            *sums
                .entry((source, destination, version, flags))
                .or_default() += stats.failed;
        }
    }
    for (labels, count) in &content.decisions {
        if labels.verdict == Verdict::Denied {
            let flags = ResponseFlags::of_denial(labels.reason).name();
            let key = (&*labels.source, &*labels.destination, NO_VERSION, flags);
            *sums.entry(key).or_default() += count;
        }
    }
    sheet.family(
        "mesh_tcp_connections_failed",
        None,
        "Connections that were refused or never established; refused UDP flows are among them.",
        sums.into_iter()
            .map(|((source, destination, version, flags), count)| {
                let labels = [
                    ("reporter", REPORTER),
                    ("source_service", source),
                    ("destination_service", destination),
                    ("destination_version", version),
                    ("connection_security_policy", PLAINTEXT),
                    ("response_flags", flags),
                ];
                (labels, Value::Count(count))
            }),
    )
}

fn udp(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
    sheet.family(
        "mesh_udp_flows",
        None,
        "UDP flows that were begun.",
        samples(content, Transport::Udp, |s| Value::Count(s.opened)),
    )?;
    sheet.family(
        "mesh_udp_datagrams",
        None,
        "Datagrams from the client to the server.",
        samples(content, Transport::Udp, |s| Value::Count(s.sent_bytes)),
    )
}

fn decisions(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
    sheet.family(
        "mesh_authorization_decisions",
        None,
        "Verdicts about new flows, by the rule that gave them.",
        content
            .decisions
            .iter()
            .map(|(labels, count)| (decision_labels(labels), Value::Count(*count))),
    )
}

fn decision_labels(labels: &DecisionLabels) -> [Pair<'_>; 6] {
    [
        ("reporter", REPORTER),
        ("rule", &labels.rule),
        ("verdict", labels.verdict.name()),
        ("reason", labels.reason.name()),
        ("source_service", &labels.source),
        ("destination_service", &labels.destination),
    ]
}

fn splits(sheet: &mut Sheet<'_>, splits: &[SplitSeries]) -> fmt::Result {
    let mut unique = BTreeMap::new();
    let mut totals = BTreeMap::<_, u64>::new();
    for split in splits {
        let key = (&*split.service, &*split.source_service, &*split.version);
        if unique.insert(key, split).is_none() {
            *totals.entry((key.0, key.1)).or_default() += split.observed;
        }
    }
    sheet.family(
        "mesh_split_weight",
        None,
        "Share of connections a version should get, 0 to 1.",
        unique
            .values()
            .map(|split| (split_labels(split), Value::Level(split.weight))),
    )?;
    sheet.family(
        "mesh_split_observed_ratio",
        None,
        "Share of connections a version got since the split took this form, 0 to 1.",
        unique.iter().filter_map(|((service, source, _), split)| {
            let total = totals.get(&(*service, *source)).filter(|n| **n > 0)?;
            let share = split.observed as f64 / *total as f64;
            Some((split_labels(split), Value::Level(share)))
        }),
    )
}

fn split_labels(split: &SplitSeries) -> [Pair<'_>; 3] {
    [
        ("service", &split.service),
        ("source_service", &split.source_service),
        ("version", &split.version),
    ]
}

fn policy(sheet: &mut Sheet<'_>, policy: &PolicyState) -> fmt::Result {
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

fn data_plane(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
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

fn losses(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
    let kernel = |counter: Counter| Value::Count(content.snapshot.counter(counter));
    let agent = content.snapshot.agent;
    sheet.single(
        "mesh_denials",
        None,
        "Denials of any kind, also those without a series of their own.",
        Some(kernel(Counter::Denials)),
    )?;
    sheet.family(
        "mesh_events_lost",
        None,
        "Denial records that did not reach the agent (buffer full) or made no sense to it.",
        [
            ([("cause", "buffer-full")], kernel(Counter::RecordsLost)),
            (
                [("cause", "malformed")],
                Value::Count(agent.denial_records_malformed),
            ),
        ],
    )?;
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
            ("udp-flow", Counter::UdpFlowsDisplaced),
        ]
        .map(|(resource, counter)| ([("resource", resource)], kernel(counter))),
    )
}

const REPORTER: &str = "source";
const PLAINTEXT: &str = "none";
/// No version was chosen.
const NO_VERSION: &str = "-";
