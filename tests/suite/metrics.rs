//! Metrics are what the clients counted, in forms that Prometheus takes.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use mesh_tests::agent::{AgentProcess, metric};
use mesh_tests::observe::{NOTICE, until};
use mesh_tests::peer::{After, Dial, Kind, Peer, Played, Request, Step, play};
use mesh_tests::sandbox::free_port;
use mesh_tests::shop::{ENDPOINT, FILE, POLICY, Shop, VIP, dial, to_vip};
use mesh_tests::{Sandbox, host};
use serde_json::Value;

const OPENED: &str = "mesh_tcp_connections_opened_total";
const CLOSED: &str = "mesh_tcp_connections_closed_total";
const FAILED: &str = "mesh_tcp_connections_failed_total";
const OPEN: &str = "mesh_tcp_connections_open";
const SENT: &str = "mesh_tcp_sent_bytes_total";
const RECEIVED: &str = "mesh_tcp_received_bytes_total";
const CHECKOUT: [(&str, &str); 3] = [
    ("source_service", "shop/checkout"),
    ("destination_service", "shop/payments"),
    ("destination_version", "v1"),
];

fn start(sandbox: &Sandbox) -> AgentProcess {
    AgentProcess::start(sandbox).expect("the agent starts")
}

/// Waits until a metric has a value, and fails if it does not.
#[track_caller]
fn is(sandbox: &Sandbox, name: &str, labels: &[(&str, &str)], expected: u64) {
    let deadline = Instant::now() + NOTICE;
    loop {
        let value = metric(sandbox, name, labels).expect("metrics");
        if value == expected as f64 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{name}{labels:?} is {value}, not {expected}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn connections_are_counted_as_the_clients_see_them() {
    host::run("connections", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        // One of two endpoints is dead.
        let dead = r#"
[[service]]
name = "dead"
namespace = "shop"
vip = "10.96.0.11"
ports = [{ name = "http", listen = 80 }]
endpoints = [{ address = "127.0.0.1:9", version = "v1" }]
[[allow]]
name = "dead"
from = ["shop/checkout"]
to = ["shop/dead"]
"#;
        sandbox
            .write_policy(FILE, &format!("{POLICY}{dead}"))
            .expect("written");
        let _agent = start(sandbox);
        let kept = shop
            .checkout
            .dial(to_vip().times(7).then(After::Keep))
            .expect("outcomes");
        let sockets: Vec<_> = kept.iter().filter_map(|outcome| outcome.socket).collect();
        assert_eq!(sockets.len(), 7);
        let closed = shop.checkout.dial(to_vip().times(23).then(After::Close));
        assert!(
            closed
                .expect("outcomes")
                .iter()
                .all(|outcome| outcome.failure.is_none())
        );
        let denied = shop.intruder.dial(to_vip().times(11)).expect("outcomes");
        assert!(
            denied
                .iter()
                .all(|outcome| outcome.errno() == Some("EPERM"))
        );
        let dead = Dial::tcp("10.96.0.11:80".parse().expect("an address")).times(5);
        let refused = shop.checkout.dial(dead).expect("outcomes");
        assert!(
            refused
                .iter()
                .all(|outcome| outcome.errno() == Some("ECONNREFUSED"))
        );

        is(sandbox, OPENED, &CHECKOUT, 30);
        is(sandbox, CLOSED, &CHECKOUT, 23);
        is(sandbox, OPEN, &CHECKOUT, 7);
        is(
            sandbox,
            FAILED,
            &[
                ("response_flags", "CONNECT"),
                ("destination_service", "shop/dead"),
            ],
            5,
        );
        is(
            sandbox,
            FAILED,
            &[
                ("response_flags", "DENY"),
                ("source_service", "dev/intruder"),
            ],
            11,
        );
        is(sandbox, FAILED, &[], 16);
        is(sandbox, OPENED, &[], 30);
        is(sandbox, "mesh_denials_total", &[], 11);
        let decisions = "mesh_authorization_decisions_total";
        is(
            sandbox,
            decisions,
            &[("rule", "checkout-pays"), ("verdict", "allowed")],
            30,
        );
        is(
            sandbox,
            decisions,
            &[("rule", "default"), ("verdict", "denied")],
            11,
        );
        let connects = "mesh_tcp_connect_duration_seconds";
        is(sandbox, &format!("{connects}_count"), &CHECKOUT, 30);
        let all = [CHECKOUT.as_slice(), &[("le", "+Inf")]].concat();
        is(sandbox, &format!("{connects}_bucket"), &all, 30);
        let sum = metric(sandbox, &format!("{connects}_sum"), &CHECKOUT).expect("metrics");
        assert!(sum > 0.0 && sum < 5.0, "{sum}");

        let () = shop.checkout.ask(&Request::Close(sockets)).expect("closed");
        is(sandbox, OPEN, &CHECKOUT, 0);
        is(sandbox, CLOSED, &CHECKOUT, 30);
        // Every connection said `x` and a line's end, and was answered `v1 x` and one.
        is(sandbox, SENT, &CHECKOUT, 30 * 2);
        is(sandbox, RECEIVED, &CHECKOUT, 30 * 5);
    });
}

/// How a connection ends, for both ends: `up` bytes to the server, `down` bytes back.
type Scripts = fn(up: u64, down: u64) -> (Vec<Step>, Vec<Step>);

const ENDS: [(&str, Scripts); 6] = [
    ("the client closes first", |up, down| {
        let client = vec![Step::Send(up), Step::Receive(down)];
        (
            client,
            vec![Step::Receive(up), Step::Send(down), Step::Drain],
        )
    }),
    ("the server closes first", |up, down| {
        let client = vec![Step::Send(up), Step::Drain];
        (client, vec![Step::Receive(up), Step::Send(down)])
    }),
    ("the client finishes and reads on", |up, down| {
        let client = vec![Step::Send(up), Step::Finish, Step::Drain];
        (client, vec![Step::Drain, Step::Send(down)])
    }),
    ("the server finishes and reads on", |up, down| {
        let client = vec![Step::Drain, Step::Send(up)];
        (client, vec![Step::Send(down), Step::Finish, Step::Drain])
    }),
    ("the client aborts", |up, down| {
        let client = vec![
            Step::Send(up),
            Step::Receive(down),
            Step::Pause(60),
            Step::Abort,
        ];
        (
            client,
            vec![Step::Receive(up), Step::Send(down), Step::Drain],
        )
    }),
    ("the server aborts", |up, down| {
        let client = vec![Step::Send(up), Step::Receive(down), Step::Drain];
        let server = vec![
            Step::Receive(up),
            Step::Send(down),
            Step::Pause(60),
            Step::Abort,
        ];
        (client, server)
    }),
];

const SIZES: [(u64, u64); 7] = [
    (0, 0),
    (1, 0),
    (0, 1),
    (1, 1),
    (65_536, 1),
    (1, 1_048_576),
    (1_048_576, 65_536),
];

#[test]
fn bytes_are_exact_however_a_connection_ends() {
    host::run("bytes", |sandbox| {
        sandbox.write_policy(FILE, POLICY).expect("written");
        let listener = TcpListener::bind(ENDPOINT).expect("bound");
        let mut client =
            Peer::spawn(&sandbox.cgroup, "system.slice/checkout.service").expect("a peer");
        let _agent = start(sandbox);
        let (mut count, mut sent, mut received) = (0, 0, 0);
        for (end, scripts) in ENDS {
            for (up, down) in SIZES {
                let (of_client, of_server) = scripts(up, down);
                let played: Played = thread::scope(|scope| {
                    let server = scope.spawn(|| {
                        let (stream, _) = listener.accept().expect("accepted");
                        play(stream, &of_server)
                    });
                    let played = client.play(VIP, &of_client).expect("played");
                    let served = server.join().expect("no panic");
                    assert_eq!(
                        (served.sent, served.received),
                        (down, up),
                        "{end}: {served:?}"
                    );
                    played
                });
                assert_eq!(
                    (played.sent, played.received),
                    (up, down),
                    "{end}: {played:?}"
                );
                count += 1;
                sent += up;
                received += down;
                eprintln!("{end}, {up} up, {down} down");
                is(sandbox, CLOSED, &CHECKOUT, count);
                is(sandbox, SENT, &CHECKOUT, sent);
                is(sandbox, RECEIVED, &CHECKOUT, received);
            }
        }
        is(sandbox, OPENED, &CHECKOUT, count);
        is(sandbox, OPEN, &CHECKOUT, 0);
        is(sandbox, FAILED, &[], 0);
    });
}

#[test]
fn udp_flows_and_datagrams_are_counted() {
    host::run("udp", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let text = POLICY.replace(r#"listen = 80 }"#, r#"listen = 80, protocol = "udp" }"#);
        sandbox.write_policy(FILE, &text).expect("written");
        shop.payments.serve_udp(ENDPOINT, "v1").expect("served");
        let _agent = start(sandbox);
        let flows = "mesh_udp_flows_total";
        let datagrams = "mesh_udp_datagrams_total";

        let socket = shop
            .checkout
            .open(Kind {
                udp: true,
                ..Kind::default()
            })
            .expect("made");
        for _ in 0..13 {
            let sent = shop.checkout.send_to(socket, VIP, "x").expect("an outcome");
            assert_eq!(sent.failure, None);
            let answer = shop.checkout.receive(socket).expect("an outcome");
            assert_eq!(answer.answered(), "v1");
        }
        is(sandbox, flows, &CHECKOUT, 1);
        is(sandbox, datagrams, &CHECKOUT, 13);
        // A connected socket is a flow.
        let connected = Dial::udp(VIP.parse().expect("an address")).times(4);
        let outcomes = shop.checkout.dial(connected.clone()).expect("outcomes");
        assert!(outcomes.iter().all(|outcome| outcome.answered() == "v1"));
        is(sandbox, flows, &CHECKOUT, 5);
        let denied = shop.intruder.dial(connected).expect("outcomes");
        assert!(
            denied
                .iter()
                .all(|outcome| outcome.errno() == Some("EPERM"))
        );
        is(sandbox, FAILED, &[("response_flags", "DENY")], 4);
        is(sandbox, OPENED, &[], 0);
    });
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
        is(sandbox, OPENED, &CHECKOUT, 1);

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

    fn label(&self, path: &str) -> Value {
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
        let targets = prometheus.label("/api/v1/targets");
        let target = &targets["data"]["activeTargets"][0];
        assert_eq!(target["lastError"], "", "{target:#}");
        assert_eq!(target["health"], "up");
    });
}
