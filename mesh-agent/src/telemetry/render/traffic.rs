//! Who calls whom: flows, decisions and splits.

use std::collections::BTreeMap;
use std::fmt;

use mesh_common::{
    CONNECT_BOUNDS_NS, DURATION_BOUNDS_NS, FlowStats, RTT_BOUNDS_NS, Reason, Verdict,
};
use prometheus_client::registry::Unit;

use super::sheet::{Durations, Pair, Sheet, Value};
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::registry::{Content, DecisionLabels, FlowLabels};
use crate::telemetry::snapshot::{Crossing, SplitSeries, Transport};

/// Writes the families of traffic.
pub(super) fn encode(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
    tcp(sheet, content)?;
    udp(sheet, content)?;
    decisions(sheet, content)?;
    splits(sheet, &content.snapshot.splits)
}

fn flow_labels(labels: &FlowLabels) -> [Pair<'_>; 5] {
    [
        ("reporter", labels.crossing.reporter()),
        ("source_service", &labels.source),
        ("destination_service", &labels.destination),
        ("destination_version", &labels.version),
        ("connection_security_policy", labels.crossing.security()),
    ]
}

/// Samples of one transport, one for each label set.
fn samples<'a>(
    content: &'a Content,
    protocol: Transport,
    value: impl Fn(&'a FlowStats) -> Value<'a>,
) -> impl Iterator<Item = ([Pair<'a>; 5], Value<'a>)> {
    samples_of(content, protocol, |_| true, value)
}

/// The same, of those that have something to show.
fn samples_of<'a>(
    content: &'a Content,
    protocol: Transport,
    shown: impl Fn(&FlowStats) -> bool,
    value: impl Fn(&'a FlowStats) -> Value<'a>,
) -> impl Iterator<Item = ([Pair<'a>; 5], Value<'a>)> {
    content
        .flows
        .iter()
        .filter(move |(labels, stats)| labels.protocol == protocol && shown(stats))
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
        "Payload bytes from the client to the server; those of open connections as of the last look at them.",
        samples(content, Transport::Tcp, |s| Value::Count(s.sent_bytes)),
    )?;
    sheet.family(
        "mesh_tcp_received",
        Some(Unit::Bytes),
        "Payload bytes from the server to the client; those of open connections as of the last look at them.",
        samples(content, Transport::Tcp, |s| Value::Count(s.received_bytes)),
    )?;
    sheet.family(
        "mesh_tcp_retransmits",
        None,
        "Segments the client sent again; those of open connections as of the last look at them.",
        samples(content, Transport::Tcp, |s| Value::Count(s.retransmits)),
    )?;
    durations(sheet, content)
}

fn durations(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
    sheet.family(
        "mesh_tcp_connect_duration",
        Some(Unit::Seconds),
        "Time from connect to established, as the client saw it.",
        samples(content, Transport::Tcp, |s| {
            Value::Durations(Durations {
                sum_ns: s.connect_ns,
                counts: &s.connect_buckets,
                bounds_ns: &CONNECT_BOUNDS_NS,
            })
        }),
    )?;
    sheet.family(
        "mesh_tcp_rtt",
        Some(Unit::Seconds),
        "Smoothed round-trip time between the client and the server, taken when a connection closes; of calls to another node only at the destination, and there on that node.",
        samples_of(content, Transport::Tcp, |s| s.rtt_buckets.iter().any(|n| *n > 0), |s| {
            Value::Durations(Durations {
                sum_ns: s.rtt_ns,
                counts: &s.rtt_buckets,
                bounds_ns: &RTT_BOUNDS_NS,
            })
        }),
    )?;
    sheet.family(
        "mesh_tcp_connection_duration",
        Some(Unit::Seconds),
        "Time from established to closed.",
        samples_of(
            content,
            Transport::Tcp,
            |s| s.duration_buckets.iter().any(|n| *n > 0),
            |s| {
                Value::Durations(Durations {
                    sum_ns: s.duration_ns,
                    counts: &s.duration_buckets,
                    bounds_ns: &DURATION_BOUNDS_NS,
                })
            },
        ),
    )
}

/// What failed is known from two sides: connections that nobody answered, and denials.
fn failed(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
    let mut sums = BTreeMap::<(Crossing, &str, &str, &str, &str), u64>::new();
    for (labels, stats) in &content.flows {
        if labels.protocol == Transport::Tcp && stats.failed > 0 {
            let FlowLabels {
                source,
                destination,
                version,
                protocol: _,
                crossing,
            } = labels;
            let flags = ResponseFlags::Connect.name();
            *sums
                .entry((*crossing, source, destination, version, flags))
                .or_default() += stats.failed;
        }
    }
    for (labels, count) in &content.decisions {
        // What was cut later did not fail to be established.
        if labels.verdict == Verdict::Denied && labels.reason != Reason::LateDenial {
            let flags = ResponseFlags::of_denial(labels.reason).name();
            let (source, destination) = (&*labels.source, &*labels.destination);
            let key = (Crossing::None, source, destination, NO_VERSION, flags);
            *sums.entry(key).or_default() += count;
        }
    }
    sheet.family(
        "mesh_tcp_connections_failed",
        None,
        "Connections that were refused or never established; refused UDP flows are among them.",
        sums.into_iter()
            .map(|((crossing, source, destination, version, flags), count)| {
                let labels = [
                    ("reporter", crossing.reporter()),
                    ("source_service", source),
                    ("destination_service", destination),
                    ("destination_version", version),
                    ("connection_security_policy", crossing.security()),
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
        "Verdicts about new flows, by the rule that gave them; established flows that were cut have the reason late-denial.",
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
    let shares = Share::sum(splits);
    sheet.family(
        "mesh_split_weight",
        None,
        "Share of connections a version should get, 0 to 1.",
        shares
            .values()
            .map(|share| (share.labels, Value::Level(share.weight))),
    )?;
    sheet.family(
        "mesh_split_observed_ratio",
        None,
        "Share of connections a version got since the split took this form, 0 to 1.",
        shares.values().filter(|share| share.of > 0).map(|share| {
            let ratio = share.observed as f64 / share.of as f64;
            (share.labels, Value::Level(ratio))
        }),
    )
}

/// One version's share, over all ports of its service.
struct Share<'a> {
    labels: [Pair<'a>; 3],
    weight: f64,
    observed: u64,
    /// What all versions together were observed to get.
    of: u64,
}

impl<'a> Share<'a> {
    fn sum(splits: &'a [SplitSeries]) -> BTreeMap<[&'a str; 3], Self> {
        let mut totals = BTreeMap::<_, u64>::new();
        for split in splits {
            let whole = (&split.service, &split.source_service);
            *totals.entry(whole).or_default() += split.observed;
        }
        let mut shares = BTreeMap::new();
        for split in splits {
            let key = [&*split.service, &*split.source_service, &*split.version];
            let share = shares.entry(key).or_insert_with(|| Self {
                labels: [
                    ("service", key[0]),
                    ("source_service", key[1]),
                    ("version", key[2]),
                ],
                weight: split.weight,
                observed: 0,
                of: totals[&(&split.service, &split.source_service)],
            });
            share.observed += split.observed;
        }
        shares
    }
}

const REPORTER: &str = "source";
/// No version was chosen.
const NO_VERSION: &str = "-";
