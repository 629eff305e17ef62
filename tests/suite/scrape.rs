//! Metrics in the forms that Prometheus takes, and a Prometheus that takes them.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flate2::read::GzDecoder;
use mesh_tests::agent::AgentProcess;
use mesh_tests::observe::{counts, until};
use mesh_tests::sandbox::free_port;
use mesh_tests::shop::{Shop, dial};
use mesh_tests::{Sandbox, host};
use serde_json::Value;

const OPENED: &str = "mesh_tcp_connections_opened_total";

fn start(sandbox: &Sandbox) -> AgentProcess {
    AgentProcess::start(sandbox).expect("the agent starts")
}

/// An HTTP/1.0 answer: its head and its body.
fn ask(port: u16, path: &str, headers: &str) -> io::Result<(String, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: mesh\r\n{headers}\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or_else(|| io::Error::other("no head"))?;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    Ok((head, answer.split_off(end + 4)))
}

fn has(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: needs {program} (Debian package prometheus)"
        );
    }
    found
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

/// A Prometheus of our own; dropping it ends it.
struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    fn start(sandbox: &Sandbox) -> Self {
        let port = free_port().expect("a port").port();
        let config = sandbox.path("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 400ms }}\n\
             scrape_configs:\n- job_name: mesh\n  static_configs:\n  - targets: ['{}']\n",
            sandbox.admin()
        );
        fs::write(&config, text).expect("written");
        let log = fs::File::create(sandbox.path("prometheus.log")).expect("created");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                sandbox.path("tsdb").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(sandbox.path("run"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it runs");
        Self { child, port }
    }

    /// The values of an instant query.
    fn query(&self, query: &str) -> Vec<f64> {
        let Ok((_, body)) = ask(self.port, &format!("/api/v1/query?query={query}"), "") else {
            return Vec::new();
        };
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let series = answer["data"]["result"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let value = |one: &Value| one["value"][1].as_str()?.parse().ok();
        series.iter().filter_map(value).collect()
    }

    fn document(&self, path: &str) -> Value {
        let (_, body) = ask(self.port, path, "").expect("an answer");
        serde_json::from_slice(&body).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Either may fail because it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
        let prometheus = Prometheus::start(sandbox);
        let limit = Duration::from_secs(30);
        until(limit, "the target is up", || {
            prometheus.query("up") == [1.0]
        });
        let opened = format!("{OPENED}%7Bsource_service=%22shop/checkout%22%7D");
        until(limit, "connections are counted", || {
            prometheus.query(&opened) == [5.0]
        });
        let denied = "sum(mesh_authorization_decisions_total%7Bverdict=%22denied%22%7D)";
        until(limit, "denials are counted", || {
            prometheus.query(denied) == [5.0]
        });
        let buckets = "sum(mesh_tcp_connect_duration_seconds_bucket%7Ble=%22%2BInf%22%7D)";
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
