//! What is shipped for Prometheus and Grafana, asked of a Prometheus that scrapes an agent with
//! traffic: every query of every panel and rule has an answer.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mesh_tests::cgroup::in_cgroup;
use mesh_tests::host;
use mesh_tests::hosts::Host;
use mesh_tests::names::{CHECKOUT, INTRUDER};
use mesh_tests::nodes::{Nodes, call, policy};
use mesh_tests::observe::until;
use mesh_tests::prometheus::{Prometheus, has};
use mesh_tests::web::Nginx;
use serde_json::Value;

const RULES: [&str; 3] = ["mesh-alerts.yml", "mesh-recording.yml", "mesh-istio.yml"];

/// A service on the caller's own node, in two versions.
const LOCAL: &str = r#"
[[service]]
name = "stock"
namespace = "shop"
vip = "10.96.0.20"
ports = [
  { name = "http", listen = 80, protocol = "http" },
  { name = "grpc", listen = 81, protocol = "grpc" },
]
workload = { systemd = "stock.service" }
endpoints = [
  { address = "127.0.0.1:8091", port = "http", version = "v1", node = "edge-1" },
  { address = "127.0.0.1:8092", port = "http", version = "v2", node = "edge-1" },
  { address = "127.0.0.1:8191", port = "grpc", version = "v1", node = "edge-1" },
  { address = "127.0.0.1:8192", port = "grpc", version = "v2", node = "edge-1" },
]

[[split]]
service = "shop/stock"
weights = { v1 = 1, v2 = 1 }

[[allow]]
name = "checkout-counts"
from = ["shop/checkout"]
to = ["shop/stock"]
"#;

/// What is asked of it: an answer, an error, a call.
const STOCK_REQUESTS: [&[&str]; 3] = [
    &["http://10.96.0.20/"],
    &["http://10.96.0.20/fail"],
    &["--http2-prior-knowledge", "http://10.96.0.20:81/call"],
];
const STOCK_ANSWERS: &str = "
    location / { return 200 stock; }
    location /fail { return 500 no; }
    location /call { default_type application/grpc; add_trailer grpc-status 0 always; return 200 called; }";

/// Both versions of the local service: one that speaks HTTP/1.1, one gRPC.
fn serve(host: &Host) -> [Nginx; 2] {
    let cgroup = host.sandbox.cgroup.child("system.slice/stock.service");
    let cgroup = cgroup.expect("a cgroup");
    let start = |name: &str, ports: [u16; 2]| {
        let listen = [
            format!("127.0.0.1:{}", ports[0]),
            format!("127.0.0.1:{} http2", ports[1]),
        ];
        let directory = host.sandbox.path(name);
        Nginx::start(&cgroup, &directory, &listen, STOCK_ANSWERS)
    };
    let both = || Ok([start("v1", [8091, 8191])?, start("v2", [8092, 8192])?]);
    host.namespace.run(both).expect("nginx")
}

/// Asks as checkout does.
fn request(host: &Host, requests: &[&[&str]]) {
    let cgroup = host.sandbox.cgroup.child(CHECKOUT).expect("a cgroup");
    for arguments in requests {
        let curl = || {
            let output = in_cgroup(&cgroup, "curl")
                .args(["--silent", "--show-error", "--max-time", "5"])
                .args(*arguments)
                .output()?;
            anyhow::ensure!(output.status.success(), "{output:?}");
            Ok(())
        };
        host.namespace.run(curl).expect("an answer");
    }
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../dashboards")
        .join(name)
}

/// Every query of the dashboard, with the panel it is for.
fn panels() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(shipped("mesh.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let queries = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap_or_default();
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| {
            let query = target["expr"].as_str().expect("a query");
            (title.to_owned(), filled_in(query))
        })
    });
    queries.collect()
}

/// A query with all variables as Grafana fills them in.
fn filled_in(query: &str) -> String {
    let query = query.replace("$__rate_interval", "5s");
    let query = query.replace("$instance", ".*").replace("$service", ".*");
    assert!(!query.contains('$'), "an unknown variable: {query}");
    query
}

/// What a rule compares, without the comparison: there must be data also where nothing is wrong.
fn compared(rule: &Value) -> String {
    let query = rule["query"].as_str().expect("a query");
    let last = [" == ", " > ", " < "]
        .iter()
        .filter_map(|sign| query.rfind(sign))
        .max();
    match last.filter(|_| rule["type"] == "alerting") {
        Some(end) => any_value(&query[..end]),
        None => query.to_owned(),
    }
}

/// A query that asks only that labels are there, whatever their values: nothing is wrong here.
fn any_value(query: &str) -> String {
    let mut parts = query.split('{');
    let mut any = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (matchers, rest) = part.split_once('}').expect("closed");
        let names = matchers
            .split(',')
            .filter_map(|one| one.split(['=', '!']).next());
        let matchers: Vec<_> = names.map(|name| format!("{name}=~\".+\"")).collect();
        any += &format!("{{{}}}{rest}", matchers.join(","));
    }
    any
}

fn promtool(arguments: &[&str], files: &[PathBuf]) {
    let output = Command::new("promtool")
        .args(arguments)
        .args(files)
        .output()
        .expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
}

#[test]
fn rules_are_right_and_fire_when_they_should() {
    if !has("promtool") {
        return;
    }
    let files = RULES.map(|name| shipped("rules").join(name));
    promtool(&["check", "rules"], &files);
    promtool(&["test", "rules"], &[shipped("rules/test.yml")]);
}

#[test]
fn every_query_of_the_dashboard_and_the_rules_has_an_answer() {
    host::run("dashboards", |_| {
        if !has("prometheus") {
            return;
        }
        let policy = [&policy(), LOCAL].concat();
        let mut nodes = Nodes::with(&policy, &policy);
        let _stock = serve(&nodes.here);
        let mut intruder = nodes.here.peer(INTRUDER);
        let files = RULES.map(|name| shipped("rules").join(name));
        let files = files.each_ref().map(PathBuf::as_path);
        let here = nodes.here.namespace.share().expect("a handle");
        let start = || Ok(Prometheus::start(&nodes.here.sandbox, &files));
        let prometheus = here.run(start).expect("it starts");
        let ask = |query: &str| here.run(|| Ok(prometheus.answer(query))).expect("asked");
        let mut traffic = || {
            nodes.is_open();
            assert_eq!(call(&mut intruder), Err("EPERM".into()));
            request(&nodes.here, &STOCK_REQUESTS);
        };
        for (panel, query) in panels() {
            let mut answer = Value::Null;
            until(
                Duration::from_secs(20),
                &format!("{panel}: {query}"),
                || {
                    traffic();
                    answer = ask(&query);
                    has_data(&answer)
                },
            );
        }
        let mut rules = Vec::new();
        until(Duration::from_secs(20), "all rules are evaluated", || {
            traffic();
            let document = here.run(|| Ok(prometheus.document("/api/v1/rules")));
            rules = rules_of(&document.expect("asked"));
            !rules.is_empty() && rules.iter().all(|rule| rule["health"] != "unknown")
        });
        for rule in &rules {
            assert_eq!(rule["health"], "ok", "{rule:#}");
            let query = compared(rule);
            until(Duration::from_secs(20), &query, || {
                traffic();
                has_data(&ask(&query))
            });
        }
    });
}

fn rules_of(document: &Value) -> Vec<Value> {
    let groups = document["data"]["groups"].as_array().into_iter().flatten();
    let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
    rules.cloned().collect()
}

/// Whether there is a series with a number.
fn has_data(answer: &Value) -> bool {
    let series = answer["data"]["result"].as_array().into_iter().flatten();
    let mut numbers = series.filter_map(|one| one["value"][1].as_str()?.parse::<f64>().ok());
    numbers.any(f64::is_finite)
}
