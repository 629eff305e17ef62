//! Requests of HTTP/2 and gRPC, as the mesh counts them, against what clients and servers did.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mesh_tests::cgroup::in_cgroup;
use mesh_tests::names::{CHECKOUT, PAYMENTS, address};
use mesh_tests::nodes::{ENDPOINT, NODES, Nodes, SERVICES, policy};
use mesh_tests::observe::until;
use mesh_tests::patience::scaled;
use mesh_tests::web::{self, Load, Nginx};
use mesh_tests::{Mesh, Sandbox, agent, host};
use nix::sys::signal::Signal;

/// Debian's, which is the one that Debian's packages are for.
const PYTHON: &str = "/usr/bin/python3";
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
ports = [{ name = "http", listen = 80, protocol = "PROTOCOL" }]
workload = { systemd = "payments.service" }
endpoints = [{ address = "127.0.0.1:8081", version = "v1" }]

[[allow]]
name = "checkout-pays"
from = ["shop/checkout"]
to = ["shop/*"]
"#;

const LISTEN: &str = "127.0.0.1:8081";
const VIP: &str = "10.96.0.10:80";

/// A process; it is ended when this is dropped.
struct Running(Child);

impl Running {
    /// Starts one that says `serving` once it does.
    fn server(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("it can be started");
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        said.read_line(&mut line).expect("a line");
        assert_eq!(line, "serving\n");
        Self(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn h2(cgroup: &Path, arguments: &[&str]) -> Command {
    let mut command = in_cgroup(cgroup, env!("CARGO_BIN_EXE_mesh-h2"));
    command.args(arguments);
    command
}

/// Runs a client to its end.
#[track_caller]
fn done(mut command: Command) {
    let status = command.status().expect("it can be started");
    assert!(status.success(), "{status}");
}

/// Requests by method, code and, of gRPC, status.
type Counts = BTreeMap<String, u64>;

fn family(sandbox: &Sandbox, name: &str, wanted: &[&str]) -> Counts {
    let series = agent::series(sandbox, name).expect("metrics");
    let of_series = |(labels, value): (BTreeMap<String, String>, f64)| {
        let labels = wanted.iter().map(|label| labels[*label].clone());
        (labels.collect::<Vec<_>>().join(" "), value as u64)
    };
    series.into_iter().map(of_series).collect()
}

const REQUEST: [&str; 5] = [
    "reporter",
    "source_service",
    "protocol",
    "method",
    "response_code",
];

/// Waits until exactly these requests are counted.
#[track_caller]
fn expect(sandbox: &Sandbox, name: &str, labels: &[&str], expected: &[(&str, u64)]) {
    let expected: Counts = expected
        .iter()
        .map(|(labels, count)| ((*labels).into(), *count))
        .collect();
    let deadline = Instant::now() + scaled(Duration::from_secs(4));
    loop {
        let counts = family(sandbox, name, labels);
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

fn unparsed(sandbox: &Sandbox) -> Counts {
    family(sandbox, "mesh_http_unparsed_total", &["reason"])
}

const REQUESTS: &str = "mesh_http_requests_total";
const GRPC: &str = "mesh_grpc_requests_total";

struct Stage<'s> {
    mesh: Mesh<'s>,
    payments: PathBuf,
    checkout: PathBuf,
}

impl<'s> Stage<'s> {
    fn new(sandbox: &'s Sandbox, protocol: &str) -> Self {
        let mesh = Mesh::start(sandbox, &SHOP.replace("PROTOCOL", protocol));
        let payments = sandbox.cgroup.child(PAYMENTS).expect("a cgroup");
        let checkout = sandbox.cgroup.child(CHECKOUT).expect("a cgroup");
        mesh.expect_metric("mesh_http_cgroups", &[("state", "read")], 1.0);
        Self {
            mesh,
            payments,
            checkout,
        }
    }
}

#[test]
fn streams_of_http2_are_counted_as_they_went() {
    host::run_for(Duration::from_secs(90), "grpc-h2", |sandbox| {
        let stage = Stage::new(sandbox, "http");
        let _server = Running::server(h2(&stage.payments, &["serve", LISTEN]));
        let call = |arguments: &[&str]| {
            let arguments = [&["call", VIP], arguments].concat();
            done(h2(&stage.checkout, &arguments));
        };
        call(&[
            "50",
            "/status/200*2000",
            "/status/500*30",
            "/body/60000*20",
            "/reset/0*10",
            "/half/201*5",
            "/bye/202",
        ]);
        call(&["1", "/status/204*100", "/big/404*5", "/leave/0"]);
        let of = |code: u16| format!("destination shop/checkout http POST {code}");
        let expected = [
            (of(0), 11),
            (of(200), 2020),
            (of(201), 5),
            (of(202), 1),
            (of(204), 100),
            (of(404), 5),
            (of(500), 30),
        ];
        let expected = expected.each_ref().map(|(labels, n)| (&**labels, *n));
        expect(sandbox, REQUESTS, &REQUEST, &expected);
        assert_eq!(unparsed(sandbox), Counts::new());
        let timed = stage
            .mesh
            .metric("mesh_http_request_duration_seconds_count", &[]);
        assert_eq!(timed, 2161.0, "those that were answered");
        assert_eq!(family(sandbox, GRPC, &["grpc_status"]), Counts::new());
    });
}

/// More than the ring holds comes while nobody reads it: what is not known is not counted, and
/// that is told.
#[test]
fn what_is_lost_is_told_and_nothing_is_made_up() {
    host::run("grpc-lost", |sandbox| {
        let stage = Stage::new(sandbox, "http");
        let _server = Running::server(h2(&stage.payments, &["serve", LISTEN]));
        let agent = stage.mesh.agent.as_ref().expect("an agent");
        agent.signal(Signal::SIGSTOP).expect("stopped");
        done(h2(&stage.checkout, &["call", VIP, "20", "/big/404*60"]));
        agent.signal(Signal::SIGCONT).expect("it goes on");
        let lost = [("lost", 1)];
        expect(sandbox, "mesh_http_unparsed_total", &["reason"], &lost);
        let counted = family(sandbox, REQUESTS, &["response_code"]);
        assert!(counted.keys().all(|code| code == "404"), "{counted:?}");
        assert!(counted.values().sum::<u64>() < 60, "{counted:?}");
        // The next connection is another matter.
        done(h2(&stage.checkout, &["call", VIP, "1", "/status/418*10"]));
        until(Duration::from_secs(4), "the next ones are counted", || {
            family(sandbox, REQUESTS, &["response_code"]).get("418") == Some(&10)
        });
    });
}

#[test]
fn grpc_tells_its_status() {
    host::run("grpc-status", |sandbox| {
        let stage = Stage::new(sandbox, "grpc");
        let _server = Running::server(h2(&stage.payments, &["serve", LISTEN]));
        let calls = ["/grpc/0*500", "/grpc/14*20", "/only/5*30", "/status/503"];
        let arguments = [&["call", VIP, "20"], &calls[..]].concat();
        done(h2(&stage.checkout, &arguments));
        expect(
            sandbox,
            GRPC,
            &["source_service", "grpc_status"],
            &[
                ("shop/checkout 0", 500),
                ("shop/checkout 14", 20),
                ("shop/checkout 5", 30),
                ("shop/checkout unknown", 1),
            ],
        );
        expect(
            sandbox,
            REQUESTS,
            &REQUEST,
            &[
                ("destination shop/checkout grpc POST 200", 550),
                ("destination shop/checkout grpc POST 503", 1),
            ],
        );
        assert_eq!(unparsed(sandbox), Counts::new());
    });
}

/// By the library that most services use, whose server speaks first.
#[test]
fn grpcs_own_library_is_understood() {
    host::run_for(Duration::from_secs(60), "grpc-python", |sandbox| {
        let has_it = Command::new(PYTHON).args(["-c", "import grpc"]).output();
        if !has_it.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: needs gRPC for Python (Debian package python3-grpcio)");
            return;
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/grpc_peer.py");
        let python = |cgroup: &Path, arguments: &[&str]| {
            let mut command = in_cgroup(cgroup, PYTHON);
            command.arg(script).args(arguments);
            command
        };
        let stage = Stage::new(sandbox, "grpc");
        let _server = Running::server(python(&stage.payments, &["serve", LISTEN]));
        done(python(&stage.checkout, &["call", VIP, "50"]));
        expect(
            sandbox,
            GRPC,
            &["grpc_status"],
            &[("0", 150), ("12", 1), ("16", 50), ("5", 50), ("unknown", 1)],
        );
        assert_eq!(unparsed(sandbox), Counts::new());
    });
}

/// What curl is told to ask for.
const CURLS: [(&str, &str); 5] = [
    ("GET", "/"),
    ("GET", "/again"),
    ("DELETE", "/"),
    ("PUT", "/no"),
    ("GET", "/empty"),
];

#[test]
fn nginx_and_curl_are_understood() {
    host::run("grpc-nginx", |sandbox| {
        let stage = Stage::new(sandbox, "http");
        let listen = "listen 127.0.0.1:8081 http2; location / { return 200 \"hello\"; } \
                      location /no { return 503; } location /empty { return 204; }";
        let nowhere: [&str; 0] = [];
        let _nginx = Nginx::start(&stage.payments, &sandbox.path("nginx"), &nowhere, listen);
        let _nginx = _nginx.expect("nginx");
        for (method, path) in CURLS {
            // One connection each: this curl cannot use one again.
            let mut curl = in_cgroup(&stage.checkout, "curl");
            curl.args(["-s", "-o", "/dev/null", "--http2-prior-knowledge"]);
            curl.args(["-X", method, &format!("http://{VIP}{path}")]);
            done(curl);
        }
        let of =
            |method: &str, code: u16| format!("destination shop/checkout http {method} {code}");
        let expected = [
            (of("DELETE", 200), 1),
            (of("GET", 200), 2),
            (of("GET", 204), 1),
            (of("PUT", 503), 1),
        ];
        let expected = expected.each_ref().map(|(labels, n)| (&**labels, *n));
        expect(sandbox, REQUESTS, &REQUEST, &expected);
        assert_eq!(unparsed(sandbox), Counts::new());
    });
}

#[test]
fn what_a_port_does_not_speak_is_counted_as_that() {
    host::run("grpc-other", |sandbox| {
        let stage = Stage::new(sandbox, "grpc");
        let location = "location / { return 200 \"hello\"; }";
        let directory = sandbox.path("nginx");
        let _nginx =
            Nginx::start(&stage.payments, &directory, &[address(LISTEN)], location).expect("nginx");
        let mut curl = in_cgroup(&stage.checkout, "curl");
        curl.args(["-s", "-o", "/dev/null", &format!("http://{VIP}/")]);
        done(curl);
        expect(
            sandbox,
            "mesh_http_unparsed_total",
            &["destination_service", "reason"],
            &[("shop/payments not-http", 1)],
        );
        assert_eq!(family(sandbox, REQUESTS, &["method"]), Counts::new());
    });
}

/// Two nodes whose port 80 speaks `protocol`.
fn nodes(protocol: &str) -> Nodes {
    let ports = format!("ports = [{{ name = \"http\", listen = 80, protocol = \"{protocol}\" }}]");
    let plain = "ports = [{ name = \"http\", listen = 80 }]";
    assert!(SERVICES.contains(plain) && !NODES.contains(plain));
    let policy = policy().replace(plain, &ports);
    Nodes::with(&policy, &policy)
}

#[test]
fn calls_to_another_node_are_counted_on_both() {
    for (protocol, calls) in [
        (
            "http",
            &["/status/200*300", "/status/500*7", "/reset/0*3"][..],
        ),
        ("grpc", &["/grpc/0*300", "/only/7*7", "/reset/0*3"]),
    ] {
        host::run_for(Duration::from_secs(90), "grpc-nodes", move |_| {
            let mut nodes = nodes(protocol);
            let (payments, checkout) = places(&nodes);
            // The one that is there speaks neither.
            drop(std::mem::replace(
                &mut nodes.payments,
                nodes.there.peer(PAYMENTS),
            ));
            let serve = || Ok(Running::server(h2(&payments, &["serve", ENDPOINT])));
            let _server = nodes.there.namespace.run(serve).expect("a server");
            let read = [("state", "read")];
            nodes.there.counts("mesh_http_cgroups", &read, |n| n == 1.0);
            let call = || {
                let arguments = [&["call", VIP, "20"], calls].concat();
                done(h2(&checkout, &arguments));
                Ok(())
            };
            nodes.here.namespace.run(call).expect("called");
            for (host, reporter) in [(&nodes.here, "source"), (&nodes.there, "destination")] {
                let labels = |rest: &str| format!("{reporter} shop/checkout {protocol} {rest}");
                let expected = match protocol {
                    "http" => vec![
                        (labels("POST 0"), 3),
                        (labels("POST 200"), 300),
                        (labels("POST 500"), 7),
                    ],
                    _ => vec![(labels("POST 0"), 3), (labels("POST 200"), 307)],
                };
                let expected: Vec<_> = expected.iter().map(|(l, n)| (&**l, *n)).collect();
                let check = || {
                    expect(&host.sandbox, REQUESTS, &REQUEST, &expected);
                    if protocol == "grpc" {
                        let expected = [("0", 300), ("7", 7), ("unknown", 3)];
                        expect(&host.sandbox, GRPC, &["grpc_status"], &expected);
                    }
                    Ok(())
                };
                host.namespace.run(check).expect("counted");
            }
        });
    }
}

#[test]
fn http1_to_another_node_is_counted_on_both() {
    host::run_for(Duration::from_secs(60), "grpc-http1", |_| {
        if let Some(missing) = web::missing() {
            eprintln!("SKIPPED: {missing}");
            return;
        }
        let mut nodes = nodes("http");
        let (payments, checkout) = places(&nodes);
        drop(std::mem::replace(
            &mut nodes.payments,
            nodes.there.peer(PAYMENTS),
        ));
        let read = [("state", "read")];
        nodes.there.counts("mesh_http_cgroups", &read, |n| n == 1.0);
        let serve = || {
            let location = "location / { return 200 \"hello\"; }";
            let directory = nodes.there.sandbox.path("nginx");
            Ok(Nginx::start(
                &payments,
                &directory,
                &[address(ENDPOINT)],
                location,
            )?)
        };
        let _nginx = nodes.there.namespace.run(serve).expect("nginx");
        let load = Load {
            to: address(VIP),
            path: "/".into(),
            connections: 4,
            requests: 5_000,
            fail_every: 0,
        };
        let call = || Ok(load.run(&checkout, &nodes.here.sandbox.path("wrk"))?);
        let seen = nodes.here.namespace.run(call).expect("wrk");
        assert_eq!((seen.requests, seen.errors, seen.failures), (20_000, 0, 0));
        for (host, reporter) in [(&nodes.here, "source"), (&nodes.there, "destination")] {
            let labels = format!("{reporter} shop/checkout http GET 200");
            let check = || {
                expect(&host.sandbox, REQUESTS, &REQUEST, &[(&labels, 20_000)]);
                Ok(())
            };
            host.namespace.run(check).expect("counted");
        }
    });
}

/// The cgroups of payments and checkout.
fn places(nodes: &Nodes) -> (PathBuf, PathBuf) {
    let payments = nodes.there.sandbox.cgroup.child(PAYMENTS);
    let checkout = nodes.here.sandbox.cgroup.child(CHECKOUT);
    (payments.expect("a cgroup"), checkout.expect("a cgroup"))
}
