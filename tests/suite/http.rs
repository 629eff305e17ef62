//! Requests, as the kernel counts them, against what clients and servers have seen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mesh_tests::names::{CHECKOUT, PAYMENTS, address};
use mesh_tests::patience::scaled;
use mesh_tests::web::{Load, Nginx};
use mesh_tests::{Mesh, Sandbox, agent, host, web};

const SHOP: &str = r#"
[mesh]
default = "deny"

[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout.service" }

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "http", listen = 80, protocol = "http" }]
workload = { systemd = "payments.service" }
endpoints = [{ address = "127.0.0.1:8081", version = "v1" }]

[[allow]]
name = "checkout-pays"
from = ["shop/checkout"]
to = ["shop/*"]
"#;

/// Requests by source, method and status.
type Counts = BTreeMap<(String, String, String), u64>;

fn counted(sandbox: &Sandbox) -> Counts {
    let mut counts = Counts::new();
    let series = agent::series(sandbox, "mesh_http_requests_total").expect("metrics");
    for (labels, value) in series {
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        assert_eq!(label("reporter"), "destination");
        assert_eq!(label("protocol"), "http");
        let key = (
            label("source_service"),
            label("method"),
            label("response_code"),
        );
        *counts.entry(key).or_default() += value as u64;
    }
    counts
}

fn unparsed(sandbox: &Sandbox) -> BTreeMap<String, u64> {
    let series = agent::series(sandbox, "mesh_http_unparsed_total").expect("metrics");
    let of_series =
        |(labels, value): (BTreeMap<String, String>, f64)| (labels["reason"].clone(), value as u64);
    series.into_iter().map(of_series).collect()
}

/// Waits until exactly these requests are counted.
#[track_caller]
fn expect(sandbox: &Sandbox, expected: &[(&str, &str, &str, u64)]) {
    let expected: Counts = expected
        .iter()
        .map(|(source, method, code, count)| {
            let key = ((*source).into(), (*method).into(), (*code).into());
            (key, *count)
        })
        .collect();
    let deadline = Instant::now() + scaled(Duration::from_secs(3));
    loop {
        let counts = counted(sandbox);
        if counts == expected {
            return;
        }
        if Instant::now() > deadline {
            let unparsed = unparsed(sandbox);
            assert_eq!(counts, expected, "{unparsed:?} {}", agent::log(sandbox));
        }
        sleep(Duration::from_millis(50));
    }
}

const CHECKOUT_NAME: &str = "shop/checkout";

#[test]
fn every_request_of_a_load_is_counted() {
    host::run("http-load", |sandbox| {
        if let Some(missing) = web::missing() {
            eprintln!("SKIPPED: {missing}");
            return;
        }
        let _mesh = Mesh::start(sandbox, SHOP);
        let payments = sandbox.cgroup.child(PAYMENTS).expect("a cgroup");
        let checkout = sandbox.cgroup.child(CHECKOUT).expect("a cgroup");
        sleep(scaled(Duration::from_millis(300)));
        let listen: SocketAddr = address("127.0.0.1:8081");
        let locations = "location / { return 200 \"hello\"; } location /no { return 503; }";
        let _nginx =
            Nginx::start(&payments, &sandbox.path("nginx"), &[listen], locations).expect("nginx");
        let load = Load {
            to: address("10.96.0.10:80"),
            path: "/".into(),
            connections: 4,
            requests: 25_000,
            fail_every: 0,
        };
        let seen = load.run(&checkout, &sandbox.path("wrk")).expect("wrk");
        assert_eq!((seen.requests, seen.errors, seen.failures), (100_000, 0, 0));
        expect(sandbox, &[(CHECKOUT_NAME, "GET", "200", 100_000)]);
        assert_eq!(unparsed(sandbox), BTreeMap::new());
        println!(
            "{:?}",
            agent::series(sandbox, "mesh_http_request_duration_seconds_bucket")
        );
        println!("{seen:?}");
    });
}
