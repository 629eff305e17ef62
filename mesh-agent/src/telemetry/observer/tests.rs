//! Documents of snapshots, a moment apart.

use std::thread::sleep;

use mesh_common::{CONNECT_BUCKETS, FlowStats, REQUEST_BUCKETS, Reason, Verdict};

use super::super::services::LatencyOf;
use super::super::snapshot::{
    Crossing, DecisionSeries, FlowSeries, RequestDurations, RequestProtocol, RequestRoute,
    RequestSeries, Transport,
};
use super::*;

const WINDOW: Duration = Duration::from_secs(10);

fn flow(to: (&str, &str), crossing: Crossing, stats: FlowStats) -> FlowSeries {
    FlowSeries {
        source_service: "shop/checkout".into(),
        destination_service: to.0.into(),
        destination_version: to.1.into(),
        protocol: Transport::Tcp,
        crossing,
        stats,
    }
}

fn denied(source: &str, destination: &str, verdict: Verdict, count: u64) -> DecisionSeries {
    DecisionSeries {
        rule: "default".into(),
        verdict,
        reason: Reason::Policy,
        source_service: source.into(),
        destination_service: destination.into(),
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

fn declared() -> Vec<Declared> {
    let one = |service: &str, vip: Option<[u8; 4]>, versions: &[&str]| Declared {
        service: service.into(),
        identity: format!("spiffe://mesh.local/{service}"),
        vip: vip.map(Into::into),
        local: true,
        versions: versions.iter().map(|version| (*version).into()).collect(),
    };
    vec![
        one("shop/checkout", None, &[]),
        one("shop/payments", Some([10, 96, 0, 10]), &["v1", "v2"]),
        one("shop/stock", Some([10, 96, 0, 11]), &["v1"]),
    ]
}

/// Counters after `n` rounds of the same: two connections to payments, of which one goes to v2,
/// each of them with three requests of which one fails; a connection to another node that works
/// and one that does not; a denial.
fn after(n: u64) -> Snapshot {
    let stats = |opened, failed| {
        let mut connect_buckets = [0; CONNECT_BUCKETS];
        connect_buckets[2] = opened;
        FlowStats {
            opened,
            closed: opened - opened.min(1),
            failed,
            sent_bytes: opened * 100,
            received_bytes: opened * 1000,
            connect_buckets,
            ..FlowStats::default()
        }
    };
    let route = RequestRoute {
        source_service: "shop/checkout".into(),
        destination_service: "shop/payments".into(),
        destination_version: "v1".into(),
        crossing: Crossing::None,
        protocol: RequestProtocol::Http,
    };
    let requests = |response_code, count| RequestSeries {
        route: route.clone(),
        method: "GET",
        response_code,
        grpc_status: None,
        count,
    };
    let mut buckets = [0; REQUEST_BUCKETS];
    buckets[3] = 6 * n;
    Snapshot {
        flows: vec![
            flow(("shop/payments", "v1"), Crossing::None, stats(n, 0)),
            flow(("shop/payments", "v2"), Crossing::None, stats(n, 0)),
            flow(("shop/stock", "v1"), Crossing::Outbound, stats(n, n)),
        ],
        decisions: vec![
            denied("shop/checkout", "shop/payments", Verdict::Allowed, 2 * n),
            denied("dev/intruder", "shop/payments", Verdict::Denied, n),
            denied("shop/checkout", "-", Verdict::Denied, 1),
        ],
        requests: vec![requests(200, 4 * n), requests(503, 2 * n)],
        request_durations: vec![RequestDurations {
            route,
            buckets,
            sum_ns: 0,
        }],
        splits: vec![split("v1", 0.5, n), split("v2", 0.5, n)],
        ..Snapshot::default()
    }
}

fn observed() -> Observer {
    let mut observer = Observer::new(100);
    observer.take(after(10), declared());
    sleep(Duration::from_millis(600));
    observer.take(after(20), declared());
    observer
}

/// What a rate is of a count over the window.
fn is_rate(rate: Option<f64>, count: f64, window: f64) {
    let rate = rate.expect("a rate");
    // The document has the window in whole milliseconds.
    let off = (rate * window - count).abs() / count;
    assert!(off < 0.005, "{rate} {count} {window}");
}

#[test]
fn services_have_their_counts_rates_and_quantiles() {
    let services = observed().services(WINDOW);
    let names: Vec<_> = services.services.iter().map(|s| &*s.service).collect();
    let expected = [
        "dev/intruder",
        "outside",
        "shop/checkout",
        "shop/payments",
        "shop/stock",
    ];
    assert_eq!(names, expected);
    let over = services.window_seconds;
    assert!((0.5..2.0).contains(&over), "{over}");

    let payments = &services.services[3];
    assert_eq!(
        payments.identity.as_deref(),
        Some("spiffe://mesh.local/shop/payments")
    );
    assert_eq!(payments.vip.as_deref(), Some("10.96.0.10"));
    let inbound = &payments.inbound;
    assert_eq!(inbound.connections_opened_total, 40);
    assert_eq!(inbound.connections_open, 2);
    assert_eq!(inbound.denied_total, 20);
    assert_eq!(inbound.requests_total, Some(120));
    assert_eq!(inbound.request_errors_total, Some(40));
    assert_eq!(inbound.received_bytes_total, 40_000);
    is_rate(inbound.rates.connections_per_second, 20.0, over);
    is_rate(inbound.rates.requests_per_second, 60.0, over);
    is_rate(inbound.rates.denied_per_second, 10.0, over);
    is_rate(inbound.rates.sent_bytes_per_second, 2000.0, over);
    let success = inbound.rates.success_ratio.expect("requests");
    assert!((success - 2.0 / 3.0).abs() < 1e-9, "{success}");
    assert_eq!(inbound.latency.of, LatencyOf::Request);
    assert_eq!(inbound.latency.p50_seconds, Some(0.000_75));
    assert_eq!(payments.outbound.connections_opened_total, 0);
    let shares: Vec<_> = payments
        .versions
        .iter()
        .map(|v| (v.weight, v.observed))
        .collect();
    assert_eq!(shares, [(Some(0.5), Some(0.5)); 2]);

    let stock = &services.services[4];
    assert_eq!(stock.inbound.requests_total, None);
    assert_eq!(stock.inbound.rates.requests_per_second, None);
    assert_eq!(stock.inbound.rates.success_ratio, Some(0.5));
    assert_eq!(stock.inbound.latency.of, LatencyOf::Connect);
    let p50 = stock.inbound.latency.p50_seconds.expect("connects");
    assert!((65.536e-6..=262.144e-6).contains(&p50), "{p50}");
    assert_eq!(stock.versions[0].weight, None);
}

#[test]
fn the_first_document_says_that_rates_are_not_known_yet() {
    let mut observer = Observer::new(100);
    observer.take(after(10), declared());
    let services = observer.services(WINDOW);
    assert_eq!(services.window_seconds, 0.0);
    let inbound = &services.services[3].inbound;
    assert_eq!(inbound.connections_opened_total, 20);
    assert_eq!(inbound.rates.connections_per_second, None);
    assert_eq!(inbound.rates.success_ratio, None);
    assert_eq!(observer.graph(WINDOW).edges[0].rate, None);
}

#[test]
fn the_graph_has_every_pair_as_an_edge() {
    let graph = observed().graph(WINDOW);
    for node in &graph.nodes {
        let sum = node.arc_allowed + node.arc_denied + node.arc_failed;
        assert!((sum - 1.0).abs() < 1e-9, "{node:?}");
    }
    let payments = graph
        .nodes
        .iter()
        .find(|n| n.id == "shop/payments")
        .expect("node");
    assert_eq!(
        (&*payments.title, &*payments.subtitle),
        ("payments", "shop")
    );
    assert_eq!(payments.detail_versions, "v1 50.0 % (50) / v2 50.0 % (50)");
    let denied = payments.arc_denied;
    assert!((denied - 1.0 / 3.0).abs() < 1e-9, "{denied}");

    let edges: Vec<_> = graph
        .edges
        .iter()
        .map(|e| {
            (
                &*e.source,
                &*e.target,
                &*e.security,
                e.denied,
                e.error_share,
            )
        })
        .collect();
    let third = graph.edges[2].error_share;
    assert!((third - 1.0 / 3.0).abs() < 1e-9, "{third}");
    assert_eq!(
        edges,
        [
            ("dev/intruder", "shop/payments", "none", true, 0.0),
            ("shop/checkout", "outside", "none", true, 0.0),
            ("shop/checkout", "shop/payments", "none", false, third),
            ("shop/checkout", "shop/stock", "mutual_tls", false, 0.5),
        ]
    );
    assert_eq!(graph.edges[2].rate_of, LatencyOf::Request);
    is_rate(graph.edges[2].rate, 60.0, graph.window_seconds);
    is_rate(graph.edges[0].denied_per_second, 10.0, graph.window_seconds);
    assert_eq!(graph.edges[2].versions.len(), 2);

    let json = serde_json::to_value(&graph).expect("json");
    let node = json["nodes"][3].as_object().expect("object");
    for field in [
        "id",
        "title",
        "subtitle",
        "mainstat",
        "secondarystat",
        "arc__allowed",
        "arc__denied",
        "arc__failed",
        "detail__identity",
    ] {
        assert!(node.contains_key(field), "{field}");
    }
}
