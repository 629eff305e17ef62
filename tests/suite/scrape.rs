//! Metrics in the forms that Prometheus takes, and a Prometheus that takes them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use flate2::read::GzDecoder;
use mesh_tests::agent::{self, AgentProcess};
use mesh_tests::authority::Authority;
use mesh_tests::observe::{counts, status, until};
use mesh_tests::prometheus::{Prometheus, ask, has};
use mesh_tests::sandbox::free_port;
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

#[test]
fn prometheus_scrapes_it_over_the_network_with_a_token_or_a_certificate() {
    host::run("scrape-tls", |_| {
        if !has("prometheus") {
            return;
        }
        let address = IpAddr::from([10, 77, 0, 1]);
        host::add_address(address);
        let admin = SocketAddr::new(address, free_port().expect("a port").port());
        let sandbox = &Sandbox::with_admin("scrape-tls", admin).expect("a sandbox");
        let mut shop = Shop::open(sandbox).expect("a shop");
        let settings = fs::read_to_string(sandbox.agent_toml()).expect("settings");
        let authority = Authority::new("root").expect("an authority");
        let tls = sandbox.path("tls");
        authority
            .write_bundle(&tls, "edge-1", &["node edge-1"], 1)
            .expect("certificates");
        let own = sandbox.path("own");
        authority
            .write_bundle(&own, "edge-1", &["ops/prometheus"], 7)
            .expect("certificates");
        let token = sandbox.path("token");
        fs::write(&token, "0123456789abcdef".repeat(2)).expect("written");
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("a mode");

        // Without any of it the agent does not open to the network, and says what to add.
        let refused = agent::command(sandbox, &["check"]).expect("it runs");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(3), "{said}");
        assert!(
            said.contains("tls = true") && said.contains("token_file"),
            "{said}"
        );

        let more = format!(
            "tls = true\ntoken_file = \"{}\"\nclients = [\"spiffe://mesh.local/ns/ops/sa/prometheus\"]\n",
            token.display()
        );
        fs::write(sandbox.agent_toml(), settings + &more).expect("written");
        let _agent = AgentProcess::spawn(sandbox).expect("the agent starts");
        let limit = Duration::from_secs(30);
        until(limit, "the agent is ready", || {
            status(sandbox).is_ok_and(|(_, document)| document["policy"].is_object())
        });
        shop.is_guarded();
        let server = format!(
            "  scheme: https\n  tls_config:\n    ca_file: {}\n    server_name: edge-1.node.mesh\n",
            tls.join("ca.pem").display()
        );
        let certificate = format!(
            "    cert_file: {0}/ops.prometheus.crt\n    key_file: {0}/ops.prometheus.key\n",
            own.display()
        );
        let shown = format!(
            "  authorization:\n    credentials_file: {}\n",
            token.display()
        );
        for (job, up) in [
            (server.clone(), false),
            (server.clone() + &certificate, true),
            (server + &shown, true),
        ] {
            let prometheus = Prometheus::start_with(sandbox, &[], &job);
            let expected = if up { "up" } else { "down" };
            let health = || {
                let targets = prometheus.document("/api/v1/targets");
                targets["data"]["activeTargets"][0].clone()
            };
            until(limit, &job, || health()["health"] == expected);
            let error = health()["lastError"].to_string();
            assert_eq!(error.contains("401"), !up, "{error}");
        }
    });
}
