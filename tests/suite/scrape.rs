//! Metrics in the forms that Prometheus takes, and a Prometheus that takes them.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use flate2::read::GzDecoder;
use mesh_tests::agent::AgentProcess;
use mesh_tests::observe::{counts, until};
use mesh_tests::prometheus::{Prometheus, ask, has};
use mesh_tests::shop::{Shop, dial};
use mesh_tests::{Sandbox, host};

const OPENED: &str = "mesh_tcp_connections_opened_total";

fn start(sandbox: &Sandbox) -> AgentProcess {
    AgentProcess::start(sandbox).expect("the agent starts")
}

#[test]
fn the_forms_are_those_that_were_asked_for() {
    host::run("forms", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        shop.is_guarded();
        let port = sandbox.admin().port();
        counts(sandbox, OPENED, &[], |opened| opened == 1.0);

        let (head, text) = ask(port, "/metrics", "").expect("an answer");
        assert!(head.starts_with("http/1.0 200"), "{head}");
        assert!(
            head.contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        let accept = "Accept: application/openmetrics-text; version=1.0.0\r\n";
        let (head, open) = ask(port, "/metrics", accept).expect("an answer");
        assert!(
            head.contains("content-type: application/openmetrics-text"),
            "{head}"
        );
        assert!(open.ends_with(b"\n# EOF\n"));
        let accept = "Accept-Encoding: gzip\r\n";
        let (head, packed) = ask(port, "/metrics", accept).expect("an answer");
        assert!(head.contains("content-encoding: gzip"), "{head}");
        let mut unpacked = String::new();
        GzDecoder::new(packed.as_slice())
            .read_to_string(&mut unpacked)
            .expect("whole");
        assert!(
            packed.len() * 3 < unpacked.len(),
            "{} {}",
            packed.len(),
            unpacked.len()
        );
        assert!(unpacked.contains(OPENED));
        let (head, _) = ask(port, "/nothing", "").expect("an answer");
        assert!(head.starts_with("http/1.0 404"), "{head}");
        // What is for the host's administrator is not on TCP.
        for path in ["/status", "/policy", "/reload"] {
            let (head, _) = ask(port, path, "").expect("an answer");
            assert!(head.starts_with("http/1.0 404"), "{path}: {head}");
        }

        if has("promtool") {
            let mut promtool = Command::new("promtool")
                .args(["check", "metrics"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("it runs");
            let mut input = promtool.stdin.take().expect("a pipe");
            input.write_all(&text).expect("written");
            drop(input);
            let output = promtool.wait_with_output().expect("it ends");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
            assert_eq!(said.trim(), "", "promtool has nothing to say");
        }
    });
}

#[test]
fn prometheus_scrapes_it() {
    host::run("prometheus", |sandbox| {
        if !has("prometheus") {
            return;
        }
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        for _ in 0..5 {
            assert_eq!(dial(&mut shop.checkout), Ok("v1".into()));
            assert_eq!(dial(&mut shop.intruder), Err("EPERM".into()));
        }
        let prometheus = Prometheus::start(sandbox, &[]);
        let limit = Duration::from_secs(30);
        until(limit, "the target is up", || {
            prometheus.query("up") == [1.0]
        });
        let opened = format!("{OPENED}{{source_service=\"shop/checkout\"}}");
        until(limit, "connections are counted", || {
            prometheus.query(&opened) == [5.0]
        });
        let denied = "sum(mesh_authorization_decisions_total{verdict=\"denied\"})";
        until(limit, "denials are counted", || {
            prometheus.query(denied) == [5.0]
        });
        let buckets = "sum(mesh_tcp_connect_duration_seconds_bucket{le=\"+Inf\"})";
        assert_eq!(prometheus.query(buckets), [5.0]);
        assert_eq!(
            prometheus.query("mesh_policy_last_reload_successful"),
            [1.0]
        );
        let targets = prometheus.document("/api/v1/targets");
        let target = &targets["data"]["activeTargets"][0];
        assert_eq!(target["lastError"], "", "{target:#}");
        assert_eq!(target["health"], "up");
    });
}
