//! Whole bodies: golden text, promtool, and the cap.

use super::*;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use mesh_common::Counter;
use mesh_common::http::Unparsed;

use crate::policy::model::DefaultAction;
use crate::telemetry::snapshot::{
    AccessLogCounters, AgentCounters, FlowCounters, HttpState, LeavingSeries, LiveFlows, MapUsage,
    MemoryState, NodeNames, PolicyState, ProgramState, RequestDurations, RequestProtocol,
    RequestRoute, RequestSeries, SplitSeries, UnparsedSeries,
};
use crate::telemetry::tunnel::{CertificateView, PoolView, TunnelView};

fn route(crossing: Crossing, protocol: RequestProtocol) -> RequestRoute {
    RequestRoute {
        source_service: "shop/checkout".into(),
        destination_service: "shop/payments".into(),
        destination_version: "v1".into(),
        crossing,
        protocol,
    }
}

fn requests(
    crossing: Crossing,
    protocol: RequestProtocol,
    response_code: u16,
    grpc_status: Option<u16>,
) -> RequestSeries {
    RequestSeries {
        route: route(crossing, protocol),
        method: "POST",
        response_code,
        grpc_status,
        count: 7,
    }
}

fn durations() -> RequestDurations {
    RequestDurations {
        route: route(Crossing::None, RequestProtocol::Http),
        buckets: std::array::from_fn(|index| index as u64),
        sum_ns: 1_500_000_000,
    }
}

fn flow(source: &str, protocol: Transport, opened: u64) -> FlowSeries {
    let mut stats = FlowStats {
        opened,
        closed: 2,
        failed: 1,
        sent_bytes: 1500,
        received_bytes: 90_000,
        retransmits: 4,
        connect_ns: 1_500_000,
        ..FlowStats::default()
    };
    stats.connect_buckets[0] = 1;
    stats.connect_buckets[3] = 2;
    stats.connect_buckets[9] = 1;
    (stats.rtt_ns, stats.rtt_buckets[1]) = (400_000, 2);
    (stats.duration_ns, stats.duration_buckets[3]) = (600_000_000, 2);
    FlowSeries {
        source_service: source.into(),
        destination_service: "shop/payments".into(),
        destination_version: "v1".into(),
        protocol,
        crossing: Crossing::None,
        stats,
    }
}

fn decision(rule: &str, verdict: Verdict, reason: Reason, count: u64) -> DecisionSeries {
    DecisionSeries {
        rule: rule.into(),
        verdict,
        reason,
        source_service: "shop/checkout".into(),
        destination_service: "shop/payments".into(),
        protocol: Transport::Tcp,
        count,
    }
}

fn split(version: &str, weight: f64, observed: u64) -> SplitSeries {
    SplitSeries {
        service: "shop/payments".into(),
        source_service: "*".into(),
        version: version.into(),
        weight,
        observed,
    }
}

fn snapshot() -> Snapshot {
    let mut counters = [0; Counter::COUNT as usize];
    for counter in Counter::ALL {
        counters[counter.0 as usize] = u64::from(counter.0) + 10;
    }
    Snapshot {
        node: NodeNames {
            name: "edge-1".into(),
            trust_domain: "mesh.local".into(),
        },
        requests: vec![
            requests(Crossing::None, RequestProtocol::Http, 200, None),
            requests(Crossing::None, RequestProtocol::Http, 0, None),
            requests(Crossing::Inbound, RequestProtocol::Grpc, 200, Some(14)),
            requests(Crossing::Outbound, RequestProtocol::Grpc, 200, None),
        ],
        request_durations: vec![durations()],
        unparsed: vec![UnparsedSeries {
            destination_service: "shop/payments".into(),
            reason: Unparsed::Gap,
            count: 3,
        }],
        http: HttpState {
            wanted: true,
            cgroups: 2,
            missing: 1,
            error: None,
        },
        tunnel: tunnel(),
        flows: vec![
            flow("shop/checkout", Transport::Tcp, 4),
            flow("shop/checkout", Transport::Udp, 4),
        ],
        decisions: vec![
            decision("checkout-pays", Verdict::Allowed, Reason::Policy, 99),
            decision("default", Verdict::Denied, Reason::Policy, 3),
            decision("no-dev-in-prod", Verdict::Denied, Reason::Policy, 2),
            decision("-", Verdict::Denied, Reason::MapFull, 1),
            decision("try-it", Verdict::WouldDeny, Reason::Policy, 8),
        ],
        splits: vec![split("v1", 0.99, 99), split("v2", 0.01, 1)],
        counters,
        maps: vec![MapUsage {
            map: "FLOWS".into(),
            entries: 2,
            capacity: 4096,
            memory_bytes: 65_536,
            evicts: false,
        }],
        programs: vec![ProgramState {
            program: "connect4".into(),
            hook: "connect4".into(),
            attached: true,
        }],
        policy: Some(PolicyState {
            revision: 7,
            digest: "0123abcd".into(),
            default: DefaultAction::Deny,
            services: 2,
            rules: 3,
            splits: 1,
            last_reload_successful: true,
            last_success_timestamp_seconds: 1_795_253_400.5,
            apply_duration: Duration::from_millis(3),
            reloads_ok: 2,
            reloads_rejected: 1,
        }),
        agent: AgentCounters {
            denial_logs_suppressed: 6,
            denial_records_malformed: 0,
            enforcement_repairs: 0,
            canary_failures: 0,
            memory: MemoryState {
                limit: 32 << 20,
                shedding: true,
                shed: 3,
            },
            flows: FlowCounters {
                recorded: 30,
                evicted: 20,
                log: Some(AccessLogCounters {
                    written: 8,
                    suppressed: 2,
                    failed: 0,
                }),
                ..FlowCounters::default()
            },
        },
        live: LiveFlows {
            supported: Some(true),
            late_denials: 5,
            took: Duration::from_millis(2),
            sweeps: 9,
            leaving: vec![LeavingSeries {
                service: "shop/payments".into(),
                version: "v2".into(),
                remaining: 3,
                closed: 4,
            }],
            ..LiveFlows::default()
        },
    }
}

fn tunnel() -> TunnelView {
    let counts = |counts: &[(&str, u64)]| {
        let counts = counts.iter();
        counts
            .map(|(name, count)| (name.to_string(), *count))
            .collect()
    };
    TunnelView {
        outbound_flows: 2,
        handshakes: [("client".to_owned(), counts(&[("ok", 5), ("failed", 1)]))].into(),
        dial_failures: counts(&[("refused", 3)]),
        turned_away: counts(&[("handshakes", 4)]),
        pool: PoolView {
            hits: 90,
            misses: 10,
            idle: 6,
            closed: counts(&[("expired", 7)]),
        },
        sessions_revoked: 1,
        namespaces: 2,
        certificates: vec![CertificateView {
            kind: "own".into(),
            name: "shop/checkout".into(),
            not_after_unix_seconds: 1_800_000_000.0,
        }],
        ..TunnelView::default()
    }
}

fn exporter(series: usize) -> Exporter {
    let build = Build {
        version: "0.1.0",
        revision: "abc",
        rustc: "1.95.0",
    };
    Exporter::new(build, series, Registry::default())
}

fn body(snapshot: Snapshot, format: Format) -> String {
    let mut exporter = exporter(DEFAULT_SERIES);
    let view = exporter.view(snapshot);
    exporter.render(&view, format, 0)
}

fn without_process(body: &str) -> String {
    let lines = body.lines().filter(|line| !line.contains("process_"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Compares with a file beside this one; `UPDATE_GOLDEN=1` writes it instead.
fn check_golden(file: &str, format: Format) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/telemetry/registry")
        .join(file);
    let body = without_process(&body(snapshot(), format));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &body).expect("golden file");
    }
    let golden = fs::read_to_string(&path).expect("golden file");
    for (line, (is, expected)) in body.lines().zip(golden.lines()).enumerate() {
        assert_eq!(is, expected, "{file}:{}", line + 1);
    }
    assert_eq!(body.len(), golden.len(), "{file}: one is longer");
}

#[test]
fn text_is_the_golden_one() {
    check_golden("golden.txt", Format::Text);
}

#[test]
fn openmetrics_is_the_golden_one() {
    check_golden("golden.om", Format::OpenMetrics);
}

#[test]
fn promtool_has_no_complaint() {
    for snapshot in [snapshot(), Snapshot::default()] {
        let child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            println!("skipped: promtool is not installed");
            return;
        };
        let mut stdin = child.stdin.take().expect("piped");
        let body = body(snapshot, Format::Text);
        stdin.write_all(body.as_bytes()).expect("promtool reads");
        drop(stdin);
        let output = child.wait_with_output().expect("promtool ends");
        let said = [output.stdout, output.stderr].concat();
        assert_eq!(String::from_utf8_lossy(&said), "");
        assert!(output.status.success(), "{:?}", output.status);
    }
}

#[test]
fn label_values_are_escaped() {
    let odd = "a\"b\\c\nd # {x=\"y\"} 1";
    let snapshot = Snapshot {
        flows: vec![flow(odd, Transport::Tcp, 4)],
        ..Snapshot::default()
    };
    let body = body(snapshot, Format::Text);
    let expected = r#"source_service="a\"b\\c\nd # {x=\"y\"} 1","#;
    assert!(body.contains(expected), "{body}");
    assert!(body.contains(r#"response_flags="CONNECT"} 1"#), "{body}");
}

#[test]
fn series_with_equal_labels_are_one() {
    let snapshot = Snapshot {
        flows: vec![
            flow("shop/checkout", Transport::Tcp, 4),
            flow("shop/checkout", Transport::Tcp, 40),
        ],
        ..Snapshot::default()
    };
    let body = body(snapshot, Format::Text);
    let opened: Vec<_> = body
        .lines()
        .filter(|line| line.starts_with("mesh_tcp_connections_opened_total"))
        .collect();
    assert_eq!(opened.len(), 1);
    assert!(opened[0].ends_with("} 44"), "{opened:?}");
}

#[test]
fn beyond_the_cap_is_other() {
    let mut exporter = exporter(3);
    let flows = (0..50).map(|n| flow(&format!("shop/{n:02}"), Transport::Tcp, 1));
    let view = exporter.view(Snapshot {
        flows: flows.collect(),
        ..Snapshot::default()
    });
    let body = exporter.render(&view, Format::Text, 0);
    for expected in [
        r#"mesh_tcp_connections_opened_total{reporter="source",source_service="other",destination_service="other",destination_version="other",connection_security_policy="none"} 47"#,
        r#"mesh_metrics_series_dropped_total{kind="flow",stage="scrape"} 47"#,
    ] {
        assert!(body.contains(expected), "{body}");
    }
}

#[test]
fn a_split_is_measured_over_all_ports() {
    let snapshot = Snapshot {
        splits: vec![
            split("v1", 0.5, 30),
            split("v2", 0.5, 10),
            split("v1", 0.5, 20),
            split("v2", 0.5, 40),
        ],
        ..Snapshot::default()
    };
    let body = body(snapshot, Format::Text);
    let ratios: Vec<_> = body
        .lines()
        .filter(|line| line.starts_with("mesh_split_observed_ratio{"))
        .filter_map(|line| line.rsplit(' ').next())
        .collect();
    assert_eq!(ratios, ["0.5", "0.5"]);

    let unused = Snapshot {
        splits: vec![split("v1", 1.0, 0)],
        ..Snapshot::default()
    };
    assert!(!self::body(unused, Format::Text).contains("observed_ratio"));
}

#[test]
fn more_closed_than_opened_is_none_open() {
    let snapshot = Snapshot {
        flows: vec![flow("shop/checkout", Transport::Tcp, 1)],
        ..Snapshot::default()
    };
    let body = body(snapshot, Format::Text);
    let open = body
        .lines()
        .find(|line| line.starts_with("mesh_tcp_connections_open{"));
    assert!(open.is_some_and(|line| line.ends_with("} 0")), "{body}");
}
