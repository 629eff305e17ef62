//! Services as rows of text, in an order.

use std::cmp::Reverse;

use crate::commands::output::clean;
use crate::telemetry::services::{ServiceView, Services, TrafficView};

/// Columns: their names, and the key that sorts by them.
pub(super) const HEAD: [(&str, Option<char>); 11] = [
    ("SERVICE", Some('n')),
    ("DIR", None),
    ("RATE/S", Some('r')),
    ("SUCCESS", Some('e')),
    ("P50", None),
    ("P95", None),
    ("P99", Some('l')),
    ("OPEN", Some('o')),
    ("SENT/S", None),
    ("RECV/S", Some('b')),
    ("DENIED/S", Some('d')),
];

/// What is on top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// The first name.
    Name,
    /// Most requests, or connections where none are measured.
    #[default]
    Rate,
    /// The smallest share that went well.
    Errors,
    /// The longest 99th percentile.
    Latency,
    /// Most open connections.
    Open,
    /// Most bytes.
    Bytes,
    /// Most denials.
    Denied,
}

impl Sort {
    /// By the key of a column.
    pub(super) fn of_key(key: char) -> Option<Self> {
        Some(match key {
            'n' => Self::Name,
            'r' => Self::Rate,
            'e' => Self::Errors,
            'l' => Self::Latency,
            'o' => Self::Open,
            'b' => Self::Bytes,
            'd' => Self::Denied,
            _ => return None,
        })
    }

    /// The key of the column.
    pub(super) const fn key(self) -> char {
        match self {
            Self::Name => 'n',
            Self::Rate => 'r',
            Self::Errors => 'e',
            Self::Latency => 'l',
            Self::Open => 'o',
            Self::Bytes => 'b',
            Self::Denied => 'd',
        }
    }

    /// Larger is further up; in whole numbers, because those have an order.
    fn weight(self, traffic: &TrafficView) -> u64 {
        let rates = &traffic.rates;
        let scaled = |value: Option<f64>| (value.unwrap_or_default() * 1e6) as u64;
        match self {
            Self::Name => 0,
            Self::Rate => scaled(traffic.calls_per_second()),
            Self::Errors => scaled(rates.success_ratio.map(|ratio| 1.0 - ratio)),
            Self::Latency => scaled(traffic.latency.p99_seconds),
            Self::Open => traffic.connections_open,
            Self::Bytes => {
                scaled(rates.sent_bytes_per_second) + scaled(rates.received_bytes_per_second)
            }
            Self::Denied => scaled(rates.denied_per_second),
        }
    }
}

/// A service, in text.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) cells: [String; HEAD.len()],
    /// Whether something goes wrong.
    pub(super) bad: bool,
}

/// What is told of a service: what it is called for, or what it calls if it is never called.
fn side(service: &ServiceView) -> (&'static str, &TrafficView) {
    let seen = |traffic: &TrafficView| {
        traffic.connections_opened_total + traffic.connections_failed_total + traffic.denied_total
            > 0
            || traffic.requests_total.is_some()
    };
    if !seen(&service.inbound) && seen(&service.outbound) {
        ("out", &service.outbound)
    } else {
        ("in", &service.inbound)
    }
}

/// All services in the order of `sort`; equal ones by name.
pub(super) fn rows(services: &Services, sort: Sort) -> Vec<Row> {
    let mut all: Vec<_> = services.services.iter().map(|s| (s, side(s))).collect();
    all.sort_by_key(|(service, (_, traffic))| (Reverse(sort.weight(traffic)), &service.service));
    all.into_iter()
        .map(|(service, (direction, traffic))| row(&service.service, direction, traffic))
        .collect()
}

fn row(service: &str, direction: &str, traffic: &TrafficView) -> Row {
    let (rates, latency) = (&traffic.rates, &traffic.latency);
    let show = |value: Option<f64>, how: fn(f64) -> String| value.map_or("-".into(), how);
    let wrong = rates.success_ratio.is_some_and(|ratio| ratio < 0.99);
    Row {
        cells: [
            clean(service),
            direction.into(),
            show(traffic.calls_per_second(), number),
            show(rates.success_ratio, |ratio| {
                format!("{:.2}%", ratio * 100.0)
            }),
            show(latency.p50_seconds, time),
            show(latency.p95_seconds, time),
            show(latency.p99_seconds, time),
            traffic.connections_open.to_string(),
            show(rates.sent_bytes_per_second, bytes),
            show(rates.received_bytes_per_second, bytes),
            show(rates.denied_per_second, number),
        ],
        bad: wrong || rates.denied_per_second.is_some_and(|denied| denied > 0.0),
    }
}

fn number(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.1}M", v / 1e6),
        v if v >= 1e4 => format!("{:.1}k", v / 1e3),
        v if v >= 100.0 => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.0}us", s * 1e6),
        s if s < 1.0 => format!("{:.1}ms", s * 1e3),
        s => format!("{s:.2}s"),
    }
}

fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let mut value = value;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0);
    format!("{value:.digits$}{}", units[unit])
}
