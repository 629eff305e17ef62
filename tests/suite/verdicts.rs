//! Who may call what: every way to dial, every kind of rule.

use std::fs;
use std::net::SocketAddr;

use mesh_tests::mesh::{Call, Decision};
use mesh_tests::names::{CHECKOUT, HOST, INTRUDER, address};
use mesh_tests::peer::{Dial, Options, Outcome, Peer, Request, Way};
use mesh_tests::{Mesh, host};

/// One service with a TCP and a UDP port, over IPv4 and IPv6, and two callers.
const SHOP: &str = r#"
[mesh]
default = "deny"

[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout.service" }

[[service]]
name = "intruder"
namespace = "dev"
workload = { systemd = "intruder.service" }

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "tcp", listen = 80 }, { name = "udp", listen = 53, protocol = "udp" }]
endpoints = [
  { address = "127.0.0.1:8081", port = "tcp", version = "v1" },
  { address = "127.0.0.1:8053", port = "udp", version = "v1" },
]

[[service]]
name = "six"
namespace = "shop"
vip = "fd00:96::10"
ports = [{ name = "tcp", listen = 80 }, { name = "udp", listen = 53, protocol = "udp" }]
endpoints = [
  { address = "[::1]:8082", port = "tcp", version = "v1" },
  { address = "[::1]:8054", port = "udp", version = "v1" },
]

[[allow]]
name = "checkout-pays"
from = ["shop/checkout"]
to = ["shop/payments", "shop/six"]
"#;

const PAYMENTS_TCP: &[&str] = &[
    "10.96.0.10:80",
    "127.0.0.1:8081",
    "127.9.9.9:8081",
    "0.0.0.0:8081",
    "10.77.0.1:8081",
    "[::ffff:10.96.0.10]:80",
    "[::ffff:127.0.0.1]:8081",
    "[::ffff:127.9.9.9]:8081",
    "[::ffff:10.77.0.1]:8081",
    "[::ffff:0.0.0.0]:8081",
    "[::]:8081",
    "[::1]:8081",
    "[fd77::1]:8081",
];

const PAYMENTS_UDP: &[&str] = &[
    "10.96.0.10:53",
    "127.0.0.1:8053",
    "127.9.9.9:8053",
    "0.0.0.0:8053",
    "10.77.0.1:8053",
    "[::ffff:10.96.0.10]:53",
    "[::ffff:127.0.0.1]:8053",
    "[::ffff:10.77.0.1]:8053",
    "[::]:8053",
    "[::1]:8053",
    "[fd77::1]:8053",
];

/// Addresses of this host that are not loopback's.
fn add_addresses() {
    for address in ["10.77.0.1", "fd77::1"] {
        host::add_address(address.parse().expect("an address"));
    }
}

/// A server of every endpoint of [`SHOP`] at every address of the host.
fn serve_shop(mesh: &Mesh<'_>) -> Peer {
    let mut server = mesh.peer("system.slice/payments.service");
    for port in [8081, 8082] {
        let address = host::anywhere(port);
        server.serve_tcp(&address, "v1").expect("a server");
    }
    for port in [8053, 8054] {
        let address = host::anywhere(port);
        server.serve_udp(&address, "v1").expect("a server");
    }
    server
}

/// The hook that a dial is judged at.
fn hook(dial: &Dial) -> &'static str {
    let SocketAddr::V6(to) = dial.to else {
        let unconnected = matches!(dial.way, Way::SendTo | Way::UringSendTo);
        return if unconnected { "sendmsg4" } else { "connect4" };
    };
    let mapped = to.ip().to_ipv4_mapped().is_some();
    match dial.way {
        Way::SendTo | Way::UringSendTo if mapped => "sendmsg4",
        Way::SendTo | Way::UringSendTo => "sendmsg6",
        _ => "connect6",
    }
}

/// How the record of a denied dial describes it.
fn call(dial: &Dial, cgroup: &str) -> Call {
    let ip = dial.to.ip().to_canonical();
    let dialled = SocketAddr::new(ip, dial.to.port()).to_string();
    let call = if dial.kind.udp {
        Call::udp(&dialled)
    } else {
        Call::tcp(&dialled)
    };
    call.at(hook(dial)).from_cgroup(cgroup)
}

/// Connections begun and datagrams sent in this network namespace.
fn packets() -> (u64, u64) {
    let snmp = |file: &str, key: &str| {
        let path = format!("/proc/thread-self/net/{file}");
        let is_there = file == "snmp" || host::has_ipv6();
        let text = is_there.then(|| fs::read_to_string(path).expect("readable"));
        let text = text.unwrap_or_default();
        let mut lines = text.lines().filter(|line| line.starts_with(key));
        let (names, values) = (lines.next(), lines.next());
        (
            names.unwrap_or_default().to_owned(),
            values.map(str::to_owned),
        )
    };
    let field = |names: &str, values: &str, name: &str| {
        let at = names.split_whitespace().position(|found| found == name);
        let value = at.and_then(|at| values.split_whitespace().nth(at));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    let (names, values) = snmp("snmp", "Tcp:");
    let opens = field(&names, &values.unwrap_or_default(), "ActiveOpens");
    let (names, values) = snmp("snmp", "Udp:");
    let datagrams = field(&names, &values.unwrap_or_default(), "OutDatagrams");
    let (line, _) = snmp("snmp6", "Udp6OutDatagrams");
    let six: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|value| value.parse().ok())
        .unwrap_or(0);
    (opens, datagrams + six)
}

fn allowed_by(rule: &str, source: &str, destination: &str) -> Decision {
    Decision::of_rule("allowed", rule, source, destination)
}

fn denied_by(rule: &str, source: &str, destination: &str) -> Decision {
    Decision::of_rule("denied", rule, source, destination)
}

/// What the three callers get from each dial: checkout is let through, the others are not and
/// send nothing.
fn check_all(mesh: &mut Mesh<'_>, destination: &str, dials: &[Dial]) {
    let mut checkout = mesh.peer(CHECKOUT);
    let mut intruder = mesh.peer(INTRUDER);
    let mut stranger = mesh.peer(HOST);
    for dial in dials.iter().filter(|dial| host::can_dial(&dial.to)) {
        let outcome = checkout.dial_once(dial.clone()).expect("an outcome");
        let decision = allowed_by("checkout-pays", "shop/checkout", destination);
        assert_eq!(outcome.failure, None, "{dial:?}");
        mesh.expect_allowed(&outcome, "v1", decision);
        for (peer, name, cgroup) in [
            (&mut intruder, "dev/intruder", INTRUDER),
            (&mut stranger, "host", HOST),
        ] {
            let before = packets();
            let outcome = peer.dial_once(dial.clone()).expect("an outcome");
            assert_eq!(packets(), before, "sent something: {name} {dial:?}");
            let decision = denied_by("default", name, destination);
            assert_eq!(outcome.errno(), Some("EPERM"), "{name}: {dial:?}");
            mesh.expect_denied(&outcome, decision, call(dial, cgroup));
        }
    }
    mesh.settle();
}

#[test]
fn tcp_at_every_address_of_a_service() {
    host::run("tcp", |sandbox| {
        add_addresses();
        let mut mesh = Mesh::start(sandbox, SHOP);
        let _server = serve_shop(&mesh);
        let dials: Vec<Dial> = PAYMENTS_TCP
            .iter()
            .map(|to| Dial::tcp(address(to)))
            .collect();
        check_all(&mut mesh, "shop/payments", &dials);
        let dials = ["[fd00:96::10]:80", "[::1]:8082", "[fd77::1]:8082"];
        let dials: Vec<Dial> = dials.iter().map(|to| Dial::tcp(address(to))).collect();
        check_all(&mut mesh, "shop/six", &dials);
    });
}

#[test]
fn udp_at_every_address_of_a_service() {
    host::run("udp", |sandbox| {
        add_addresses();
        let mut mesh = Mesh::start(sandbox, SHOP);
        let _server = serve_shop(&mesh);
        for way in [Way::Connect, Way::SendTo, Way::UringSendTo] {
            let dial = |to: &&str| Dial::udp(address(to)).by(way);
            // A server at any address answers from 127.0.0.1, which a socket that is connected
            // to 127.9.9.9 does not take.
            let unheard = |to: &&&str| way != Way::Connect || **to != "127.9.9.9:8053";
            let heard = PAYMENTS_UDP.iter().filter(unheard);
            let dials: Vec<Dial> = heard.map(dial).collect();
            check_all(&mut mesh, "shop/payments", &dials);
            let dials = ["[fd00:96::10]:53", "[::1]:8054", "[fd77::1]:8054"];
            let dials: Vec<Dial> = dials.iter().map(dial).collect();
            check_all(&mut mesh, "shop/six", &dials);
        }
    });
}

#[test]
fn every_system_call_that_connects() {
    host::run("calls", |sandbox| {
        host::sh("echo 1543 > /proc/sys/net/ipv4/tcp_fastopen");
        let mut mesh = Mesh::start(sandbox, SHOP);
        let _server = serve_shop(&mesh);
        let ways = [
            Way::NonBlocking,
            Way::FastOpen,
            Way::FastOpenConnect,
            Way::Uring,
            Way::UringAsync,
            Way::UringPolled,
        ];
        let addresses = ["10.96.0.10:80", "127.0.0.1:8081", "[::ffff:10.96.0.10]:80"];
        let dials: Vec<Dial> = addresses
            .iter()
            .flat_map(|to| ways.map(|way| Dial::tcp(address(to)).by(way)))
            .collect();
        check_all(&mut mesh, "shop/payments", &dials);
    });
}

#[test]
fn children_are_who_their_parents_are() {
    host::run("children", |sandbox| {
        let mut mesh = Mesh::start(sandbox, SHOP);
        let _server = serve_shop(&mesh);
        let dial = Dial::tcp(address("10.96.0.10:80"));
        let by_child = |name: &str| -> Outcome {
            let request = Request::DialFromChild(dial.clone());
            let outcomes: Vec<Outcome> = mesh.peer(name).ask(&request).expect("outcomes");
            outcomes.into_iter().next().expect("one")
        };
        let (allowed, denied) = (by_child(CHECKOUT), by_child(INTRUDER));
        let decision = allowed_by("checkout-pays", "shop/checkout", "shop/payments");
        mesh.expect_allowed(&allowed, "v1", decision);
        let decision = denied_by("default", "dev/intruder", "shop/payments");
        mesh.expect_denied(&denied, decision, call(&dial, INTRUDER));
        mesh.settle();
    });
}

#[test]
fn an_ipv4_address_on_an_ipv6_udp_socket() {
    host::run_with_ipv6("mixed", |sandbox| {
        let mut mesh = Mesh::start(sandbox, SHOP);
        let _server = serve_shop(&mesh);
        let dials: Vec<Dial> = [Way::Connect, Way::SendTo]
            .iter()
            .map(|way| Dial::udp(address("10.96.0.10:53")).from_ipv6().by(*way))
            .collect();
        check_all(&mut mesh, "shop/payments", &dials);
    });
}

#[test]
fn a_vip_has_the_declared_ports_only() {
    host::run("ports", |sandbox| {
        let mut mesh = Mesh::start(sandbox, SHOP);
        let _server = serve_shop(&mesh);
        for (cgroup, name) in [
            (CHECKOUT, "shop/checkout"),
            (INTRUDER, "dev/intruder"),
            (HOST, "host"),
        ] {
            let mut peer = mesh.peer(cgroup);
            for dial in [
                Dial::tcp(address("10.96.0.10:81")),
                Dial::tcp(address("10.96.0.10:53")),
                Dial::tcp(address("[::ffff:10.96.0.10]:81")),
                Dial::tcp(address("[fd00:96::10]:81")),
                Dial::udp(address("10.96.0.10:80")),
                Dial::udp(address("10.96.0.10:80")).by(Way::SendTo),
            ] {
                if !host::can_dial(&dial.to) {
                    continue;
                }
                let outcome = peer.dial_once(dial.clone()).expect("an outcome");
                let destination = if dial.to.ip() == address("[fd00:96::10]:1").ip() {
                    "shop/six"
                } else {
                    "shop/payments"
                };
                let decision = Decision::of_reason("no-such-port", name, destination);
                mesh.expect_denied(&outcome, decision, call(&dial, cgroup));
            }
        }
        mesh.settle();
    });
}

/// Nobody is denied by a rule here, and still nothing is sent to another node in clear.
#[test]
fn another_nodes_endpoint_is_never_called_in_clear() {
    const POLICY: &str = r#"
[mesh]
default = "allow"
[[node]]
name = "edge-1"
address = "10.77.0.1"
[[node]]
name = "edge-2"
address = "10.77.0.2"
[[service]]
name = "far"
namespace = "shop"
vip = "10.96.0.20"
ports = [{ name = "http", listen = 80 }]
endpoints = [{ address = "10.77.0.2:8080", node = "edge-2" }]
"#;
    host::run("far", |sandbox| {
        let mesh = Mesh::start(sandbox, POLICY);
        let mut peer = mesh.peer(HOST);
        for dial in [
            Dial::tcp(address("10.96.0.20:80")),
            Dial::tcp(address("10.77.0.2:8080")),
        ] {
            let outcome = peer.dial_once(dial).expect("an outcome");
            assert_eq!(outcome.label, None, "{outcome:?}");
            let errno = outcome.failure.map(|failure| failure.errno);
            // Denied until the agent listens for such calls, and reset by it from then on: it has
            // no certificates.
            let is_refused = matches!(errno.as_deref(), Some("EPERM" | "ECONNRESET"));
            assert!(is_refused, "{errno:?}");
        }
    });
}

#[test]
fn what_is_not_of_the_mesh_is_untouched() {
    host::run("untouched", |sandbox| {
        add_addresses();
        let mesh = Mesh::start(sandbox, SHOP);
        let mut server = mesh.peer("system.slice/other.service");
        server
            .serve_tcp(&host::anywhere(9000), "other")
            .expect("a server");
        server
            .serve_udp(&host::anywhere(9053), "other")
            .expect("a server");
        let cgroups = [CHECKOUT, INTRUDER, HOST, "", "new.slice/new.service"];
        for cgroup in cgroups {
            let mut peer = mesh.peer(cgroup);
            for ip in ["127.0.0.1", "10.77.0.1", "0.0.0.0", "[::1]", "[fd77::1]"] {
                for dial in [
                    Dial::tcp(address(&format!("{ip}:9000"))),
                    Dial::udp(address(&format!("{ip}:9053"))),
                    Dial::udp(address(&format!("{ip}:9053"))).by(Way::SendTo),
                    Dial::tcp(address(&format!("{ip}:9000"))).by(Way::Uring),
                ] {
                    if !host::can_dial(&dial.to) {
                        continue;
                    }
                    let outcome = peer.dial_once(dial.clone()).expect("an outcome");
                    assert_eq!(outcome.answered(), "other", "{cgroup} {dial:?}");
                    if !dial.to.ip().is_unspecified() {
                        assert_eq!(outcome.peer, Some(dial.to), "{cgroup}");
                    }
                }
            }
            let refused = peer.dial_once(Dial::tcp(address("127.0.0.1:9001")));
            assert_eq!(refused.expect("an outcome").errno(), Some("ECONNREFUSED"));
        }
        // Nothing was decided.
        mesh.settle();
    });
}

#[test]
fn another_network_namespaces_loopback_is_untouched() {
    host::run("netns", |sandbox| {
        let mesh = Mesh::start(sandbox, SHOP);
        let _server = serve_shop(&mesh);
        let options = Options {
            own_netns: true,
            ..Options::default()
        };
        let cgroup = sandbox.cgroup.child(HOST).expect("a cgroup");
        let mut peer = Peer::spawn_at(&cgroup, options).expect("a peer");
        peer.serve_tcp("127.0.0.1:8081", "own").expect("a server");
        let addresses = ["127.0.0.1:8081", "[::ffff:127.0.0.1]:8081", "0.0.0.0:8081"];
        for to in addresses
            .map(address)
            .iter()
            .filter(|to| host::can_dial(to))
        {
            let outcome = peer.dial_once(Dial::tcp(*to)).expect("an outcome");
            assert_eq!(outcome.answered(), "own", "{to}");
        }
        mesh.settle();
    });
}

/// A target for each kind of rule: `a` to `k`, at VIPs 10.96.0.1 to .11, each with ports `one`
/// (80) and `two` (81).
fn targets(rules: &str, default: &str) -> String {
    let mut policy = format!("[mesh]\ndefault = \"{default}\"\n");
    for (namespace, name) in [("shop", "checkout"), ("dev", "intruder"), ("dev", "tester")] {
        policy += &format!(
            "[[service]]\nname = \"{name}\"\nnamespace = \"{namespace}\"\n\
             workload = {{ systemd = \"{name}.service\" }}\n"
        );
    }
    for (index, name) in TARGETS.iter().enumerate() {
        let number = index + 1;
        policy += &format!(
            "[[service]]\nname = \"{name}\"\nnamespace = \"t\"\nvip = \"10.96.0.{number}\"\n\
             ports = [{{ name = \"one\", listen = 80 }}, {{ name = \"two\", listen = 81 }}]\n\
             endpoints = [\n\
             {{ address = \"127.0.0.1:{}\", port = \"one\", version = \"v1\" }},\n\
             {{ address = \"127.0.0.1:{}\", port = \"two\", version = \"v1\" }},\n]\n",
            8000 + number,
            8100 + number
        );
    }
    policy + rules
}

const TARGETS: [&str; 11] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];

const RULES: &str = r#"
[[allow]]
name = "a-all"
from = ["*"]
to = ["t/a"]

[[deny]]
name = "a-not-dev"
from = ["dev/*"]
to = ["t/a"]

[[allow]]
name = "b-dev"
from = ["dev/*"]
to = ["t/b"]

[[allow]]
name = "c-host"
from = ["host"]
to = ["t/c"]

[[allow]]
name = "d-by-name"
from = ["*"]
to = ["t/d"]
ports = ["one"]

[[allow]]
name = "e-by-number"
from = ["*"]
to = ["t/e"]
ports = [81]

[[allow]]
name = "f-audited"
from = ["*"]
to = ["t/f"]
mode = "audit"

[[allow]]
name = "g-all"
from = ["*"]
to = ["t/g"]

[[deny]]
name = "g-audited"
from = ["dev/*"]
to = ["t/g"]
mode = "audit"

[[deny]]
name = "h-audited"
from = ["*"]
to = ["t/h"]
mode = "audit"

[[allow]]
name = "i-one"
from = ["dev/intruder"]
to = ["t/i"]

[[deny]]
name = "i-not-all"
from = ["*"]
to = ["t/i"]

[[allow]]
name = "j-here"
from = ["shop/checkout", "host"]
to = ["t/j"]
"#;

/// Caller, target, port, verdict and rule.
type Row = (&'static str, &'static str, u16, &'static str, &'static str);

const VERDICTS: &[Row] = &[
    ("checkout", "a", 80, "allowed", "a-all"),
    ("host", "a", 81, "allowed", "a-all"),
    ("intruder", "a", 80, "denied", "a-not-dev"),
    ("tester", "a", 81, "denied", "a-not-dev"),
    ("intruder", "b", 80, "allowed", "b-dev"),
    ("tester", "b", 81, "allowed", "b-dev"),
    ("checkout", "b", 80, "denied", "default"),
    ("host", "b", 80, "denied", "default"),
    ("host", "c", 80, "allowed", "c-host"),
    ("checkout", "c", 80, "denied", "default"),
    ("intruder", "c", 81, "denied", "default"),
    ("checkout", "d", 80, "allowed", "d-by-name"),
    ("checkout", "d", 81, "denied", "default"),
    ("host", "e", 80, "denied", "default"),
    ("host", "e", 81, "allowed", "e-by-number"),
    ("checkout", "f", 80, "would-deny", "f-audited"),
    ("host", "f", 81, "would-deny", "f-audited"),
    ("checkout", "g", 80, "allowed", "g-all"),
    ("intruder", "g", 80, "would-deny", "g-audited"),
    ("checkout", "h", 80, "denied", "default"),
    ("host", "h", 81, "denied", "default"),
    ("intruder", "i", 80, "denied", "i-not-all"),
    ("host", "i", 81, "denied", "i-not-all"),
    ("checkout", "j", 80, "allowed", "j-here"),
    ("host", "j", 80, "allowed", "j-here"),
    ("intruder", "j", 80, "denied", "default"),
    ("checkout", "k", 80, "denied", "default"),
];

/// The same rules while migrating, where these rows differ.
const MIGRATING: &[Row] = &[
    ("checkout", "a", 80, "allowed", "a-all"),
    ("intruder", "a", 80, "denied", "a-not-dev"),
    ("checkout", "b", 80, "would-deny", "default"),
    ("host", "b", 81, "would-deny", "default"),
    ("intruder", "b", 81, "allowed", "b-dev"),
    ("checkout", "d", 81, "would-deny", "default"),
    ("checkout", "f", 80, "would-deny", "f-audited"),
    ("intruder", "g", 80, "would-deny", "g-audited"),
    ("checkout", "h", 80, "would-deny", "h-audited"),
    ("intruder", "i", 80, "denied", "i-not-all"),
    ("checkout", "k", 80, "would-deny", "default"),
    ("host", "k", 81, "would-deny", "default"),
];

fn check_rows(mesh: &mut Mesh<'_>, rows: &[Row]) {
    let mut server = mesh.peer("system.slice/targets.service");
    for number in 1..=TARGETS.len() {
        for base in [8000, 8100] {
            let address = format!("127.0.0.1:{}", base + number);
            server.serve_tcp(&address, "v1").expect("a server");
        }
    }
    let callers = [
        ("checkout", "shop/checkout", CHECKOUT),
        ("intruder", "dev/intruder", INTRUDER),
        ("tester", "dev/tester", "system.slice/tester.service"),
        ("host", "host", HOST),
    ];
    let mut peers: Vec<Peer> = callers.iter().map(|caller| mesh.peer(caller.2)).collect();
    for row @ (caller, target, port, verdict, rule) in rows {
        let who = callers.iter().position(|it| it.0 == *caller).expect("one");
        let number = TARGETS.iter().position(|it| it == target).expect("one") + 1;
        let dial = Dial::tcp(address(&format!("10.96.0.{number}:{port}")));
        let outcome = peers[who].dial_once(dial.clone()).expect("an outcome");
        let (_, name, cgroup) = callers[who];
        let decision = Decision::of_rule(verdict, rule, name, &format!("t/{target}"));
        let label = if *verdict == "denied" { "" } else { "v1" };
        assert_eq!(outcome.answered(), label, "{row:?}: {outcome:?}");
        match *verdict {
            "allowed" => mesh.expect_allowed(&outcome, "v1", decision),
            "denied" => mesh.expect_denied(&outcome, decision, call(&dial, cgroup)),
            _ => mesh.expect_record(decision, call(&dial, cgroup)),
        }
    }
    mesh.settle();
}

#[test]
fn rules_decide_by_caller_target_and_port() {
    host::run("rules", |sandbox| {
        let mut mesh = Mesh::start(sandbox, &targets(RULES, "deny"));
        check_rows(&mut mesh, VERDICTS);
    });
}

#[test]
fn with_default_allow_only_a_deny_denies() {
    host::run("migrating", |sandbox| {
        let mut mesh = Mesh::start(sandbox, &targets(RULES, "allow"));
        check_rows(&mut mesh, MIGRATING);
    });
}

const EGRESS: &str = r#"
[mesh]
default = "deny"

[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout.service" }
egress = "deny"

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "http", listen = 80 }]
endpoints = [{ address = "127.0.0.1:8081", version = "v1" }]

[[allow]]
name = "pays"
from = ["shop/checkout"]
to = ["shop/payments"]

[[allow]]
name = "to-the-branch"
from = ["shop/checkout"]
to = [{ cidr = "10.77.0.0/24" }, { cidr = "fd77::/64" }]

[[deny]]
name = "not-the-printer"
from = ["shop/checkout"]
to = [{ cidr = "10.77.0.9/32" }]

[[allow]]
name = "to-the-clock"
from = ["shop/checkout"]
to = [{ cidr = "10.78.0.1/32" }]
ports = [9053]
"#;

#[test]
fn a_service_may_be_kept_from_leaving_the_mesh() {
    host::run("egress", |sandbox| {
        for address in ["10.77.0.1", "10.77.0.9", "10.78.0.1", "fd77::1", "fd78::1"] {
            host::add_address(address.parse().expect("an address"));
        }
        let mut mesh = Mesh::start(sandbox, EGRESS);
        let mut server = mesh.peer("system.slice/other.service");
        server
            .serve_tcp(&host::anywhere(9000), "out")
            .expect("a server");
        server
            .serve_udp(&host::anywhere(9053), "out")
            .expect("a server");
        server.serve_tcp("127.0.0.1:8081", "v1").expect("a server");
        let mut peer = mesh.peer(CHECKOUT);
        let allowed = |rule: &str| allowed_by(rule, "shop/checkout", "-");
        let outcome = peer.dial_once(Dial::tcp(address("10.96.0.10:80")));
        let decision = allowed_by("pays", "shop/checkout", "shop/payments");
        mesh.expect_allowed(&outcome.expect("an outcome"), "v1", decision);
        for (dial, rule) in [
            (Dial::tcp(address("10.77.0.1:9000")), "to-the-branch"),
            (
                Dial::tcp(address("[::ffff:10.77.0.1]:9000")),
                "to-the-branch",
            ),
            (Dial::udp(address("10.77.0.1:9053")), "to-the-branch"),
            (Dial::tcp(address("[fd77::1]:9000")), "to-the-branch"),
            (Dial::udp(address("10.78.0.1:9053")), "to-the-clock"),
            (
                Dial::udp(address("10.78.0.1:9053")).by(Way::SendTo),
                "to-the-clock",
            ),
        ] {
            if !host::can_dial(&dial.to) {
                continue;
            }
            let outcome = peer.dial_once(dial).expect("an outcome");
            mesh.expect_allowed(&outcome, "out", allowed(rule));
        }
        for dial in [
            Dial::tcp(address("10.77.0.9:9000")),
            Dial::udp(address("10.77.0.9:9053")).by(Way::SendTo),
        ] {
            let outcome = peer.dial_once(dial.clone()).expect("an outcome");
            let decision = denied_by("not-the-printer", "shop/checkout", "-");
            mesh.expect_denied(&outcome, decision, call(&dial, CHECKOUT));
        }
        for dial in [
            Dial::tcp(address("10.78.0.1:9000")),
            Dial::tcp(address("[fd78::1]:9000")),
            Dial::tcp(address("127.0.0.1:9000")),
            Dial::udp(address("[fd78::1]:9053")).by(Way::SendTo),
        ] {
            if !host::can_dial(&dial.to) {
                continue;
            }
            let outcome = peer.dial_once(dial.clone()).expect("an outcome");
            let decision = Decision::of_reason("egress", "shop/checkout", "-");
            mesh.expect_denied(&outcome, decision, call(&dial, CHECKOUT));
        }
        let mut stranger = mesh.peer(HOST);
        for to in ["10.78.0.1:9000", "10.77.0.9:9000"] {
            let outcome = stranger.dial_once(Dial::tcp(address(to)));
            assert_eq!(outcome.expect("an outcome").answered(), "out");
        }
        mesh.settle();
    });
}

const BY_USER: &str = r#"
[mesh]
default = "deny"

[[service]]
name = "by-user"
namespace = "shop"
workload = { uid = 61001 }

[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout.service" }

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "http", listen = 80 }]
endpoints = [{ address = "127.0.0.1:8081", version = "v1" }]

[[allow]]
name = "user-pays"
from = ["shop/by-user"]
to = ["shop/payments"]
"#;

#[test]
fn a_user_is_a_service_where_no_cgroup_says_otherwise() {
    host::run("uid", |sandbox| {
        let mut mesh = Mesh::start(sandbox, BY_USER);
        let mut server = mesh.peer("system.slice/payments.service");
        server.serve_tcp("127.0.0.1:8081", "v1").expect("a server");
        let dial = Dial::tcp(address("10.96.0.10:80"));
        let peer = |cgroup: &str, uid: u32| {
            let user = Some((uid, uid));
            let options = Options {
                user,
                ..Options::default()
            };
            let cgroup = sandbox.cgroup.child(cgroup).expect("a cgroup");
            Peer::spawn_at(&cgroup, options).expect("a peer")
        };
        let by = |uid: u32, cgroup: &str| Call {
            uid,
            ..call(&dial, cgroup)
        };
        let outcome = peer(HOST, 61_001).dial_once(dial.clone());
        let decision = allowed_by("user-pays", "shop/by-user", "shop/payments");
        mesh.expect_allowed(&outcome.expect("an outcome"), "v1", decision.clone());

        let outcome = peer(HOST, 61_002).dial_once(dial.clone());
        let denied = denied_by("default", "host", "shop/payments");
        mesh.expect_denied(
            &outcome.expect("an outcome"),
            denied.clone(),
            by(61_002, HOST),
        );
        // The cgroup beats the user.
        let outcome = peer(CHECKOUT, 61_001).dial_once(dial.clone());
        let of_cgroup = denied_by("default", "shop/checkout", "shop/payments");
        mesh.expect_denied(
            &outcome.expect("an outcome"),
            of_cgroup,
            by(61_001, CHECKOUT),
        );
        // A process that becomes the user is the service from then on.
        let mut changing = mesh.peer(HOST);
        let outcome = changing.dial_once(dial.clone()).expect("an outcome");
        mesh.expect_denied(&outcome, denied, by(0, HOST));
        let become_user = Request::Become {
            uid: 61_001,
            gid: 61_001,
        };
        changing.ask::<()>(&become_user).expect("another user");
        let outcome = changing.dial_once(dial.clone()).expect("an outcome");
        mesh.expect_allowed(&outcome, "v1", decision);
        mesh.settle();
    });
}
