//! Established flows under a new policy: cut where it denies them, untouched where it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use mesh_tests::agent::{self, AgentProcess};
use mesh_tests::host::sh;
use mesh_tests::mesh::{Call, Decision};
use mesh_tests::names::{CHECKOUT, INTRUDER, PAYMENTS, VIP, VIP_UDP, address, tcp};
use mesh_tests::observe::{counts, until};
use mesh_tests::patience::scaled;
use mesh_tests::peer::{After, Dial, Kind, Options, Outcome, Peer, Request, Socket};
use mesh_tests::{Cgroup, Mesh, Sandbox, host, netns};

/// How long a flow may outlive the policy that allowed it.
const AT_MOST: Duration = Duration::from_secs(1);
/// How often the load is denied.
const DENIALS: usize = 8;
const TCP: &str = "127.0.0.1:8081";
const UDP: &str = "127.0.0.1:8053";

/// Services and nobody who may call; rules follow.
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
workload = { systemd = "payments.service" }
endpoints = [
  { address = "127.0.0.1:8081", port = "tcp", version = "v1" },
  { address = "127.0.0.1:8053", port = "udp", version = "v1" },
]

[[allow]]
name = "checkout-pays"
from = ["shop/checkout"]
to = ["shop/payments"]
"#;

/// Lets intruder in too.
const OPEN: &str = r#"
[[allow]]
name = "intruder-too"
from = ["dev/intruder"]
to = ["shop/payments"]
"#;

/// Beats it.
const CLOSE: &str = r#"
[[deny]]
name = "no-intruder"
from = ["dev/*"]
to = ["shop/*"]
"#;

fn open() -> String {
    format!("{SHOP}{OPEN}")
}

fn closed() -> String {
    format!("{SHOP}{OPEN}{CLOSE}")
}

fn server(mesh_root: &Cgroup) -> Peer {
    let mut server = Peer::spawn(mesh_root, PAYMENTS).expect("a peer");
    server.serve_tcp(TCP, "v1").expect("a server");
    server.serve_udp(UDP, "v1").expect("a server");
    server
}

/// A flow that is kept.
fn keep(peer: &mut Peer, dial: Dial) -> Socket {
    let outcome = peer.dial_once(dial.then(After::Keep)).expect("an outcome");
    assert_eq!(outcome.failure, None, "{outcome:?}");
    outcome.socket.expect("kept")
}

fn udp(to: &str) -> Dial {
    Dial::udp(address(to))
}

fn say(peer: &mut Peer, socket: Socket) -> Outcome {
    let said = peer.exchange(&[socket], "y").expect("an outcome");
    said.into_iter().next().expect("one")
}

#[track_caller]
fn is_cut(peer: &mut Peer, socket: Socket) {
    let outcome = say(peer, socket);
    let error = outcome.errno().unwrap_or_default();
    let expected = [
        "ECONNABORTED",
        "ECONNRESET",
        "EPIPE",
        "EDESTADDRREQ",
        "ENOTCONN",
    ];
    assert!(expected.contains(&error), "{outcome:?}");
}

#[track_caller]
fn goes_on(peer: &mut Peer, socket: Socket) {
    let outcome = say(peer, socket);
    assert_eq!(outcome.failure, None);
    assert!(!outcome.answered().is_empty(), "{outcome:?}");
}

fn late(rule: &str, source: &str) -> Decision {
    Decision {
        reason: "late-denial".into(),
        ..Decision::of_rule("denied", rule, source, "shop/payments")
    }
}

fn allowed(rule: &str, source: &str) -> Decision {
    Decision::of_rule("allowed", rule, source, "shop/payments")
}

#[test]
fn what_a_new_rule_denies_is_cut_at_both_ends_and_recorded() {
    host::run("live", |sandbox| {
        let mut mesh = Mesh::start(sandbox, &open());
        let mut payments = server(&sandbox.cgroup);
        payments.serve_tcp("127.9.9.9:8081", "v1").expect("served");
        let (mut checkout, mut intruder) = (mesh.peer(CHECKOUT), mesh.peer(INTRUDER));
        let good = [
            keep(&mut checkout, tcp(VIP)),
            keep(&mut checkout, tcp(TCP)),
            keep(&mut checkout, udp(VIP_UDP)),
        ];
        mesh.enter(allowed("checkout-pays", "shop/checkout"), 3);
        let mut bad = vec![
            (keep(&mut intruder, tcp(VIP)), Call::tcp(VIP)),
            (keep(&mut intruder, tcp(TCP)), Call::tcp(TCP)),
            (
                keep(&mut intruder, tcp("127.9.9.9:8081")),
                Call::tcp("127.9.9.9:8081"),
            ),
            // What was dialled is not told of UDP sockets.
            (keep(&mut intruder, udp(VIP_UDP)), Call::udp(UDP)),
            (keep(&mut intruder, udp(UDP)), Call::udp(UDP)),
        ];
        if host::has_ipv6() {
            let mapped = keep(&mut intruder, tcp("[::ffff:10.96.0.10]:80"));
            bad.push((mapped, Call::tcp(VIP)));
        }
        mesh.enter(allowed("intruder-too", "dev/intruder"), bad.len() as u64);
        let cut = bad.len() as f64;
        let served = payments.served().expect("a count");
        mesh.reload(&closed());
        // Idle until it is too late; then one byte.
        sleep(scaled(AT_MOST));
        for (socket, call) in bad {
            is_cut(&mut intruder, socket);
            let call = call.at("sweep").from_cgroup(INTRUDER);
            mesh.expect_record(late("no-intruder", "dev/intruder"), call);
        }
        assert_eq!(
            payments.aborted().expect("a count"),
            3 + u64::from(host::has_ipv6()),
            "resets at the server"
        );
        assert_eq!(
            payments.served().expect("a count"),
            served,
            "nothing arrived"
        );
        for socket in good {
            goes_on(&mut checkout, socket);
        }
        mesh.settle();
        mesh.expect_metric("mesh_late_denials_total", &[], cut);
        mesh.expect_metric("mesh_denials_total", &[], cut);
        mesh.expect_metric("mesh_tcp_connections_failed_total", &[], 0.0);
        let labels = [("source_service", "dev/intruder")];
        mesh.expect_metric("mesh_tcp_connections_open", &labels, 0.0);
        assert!(agent::log(sandbox).contains("rule=\"no-intruder\" at=\"10-test.toml:"));
        assert_eq!(mesh.status().problems, [""; 0]);

        // Counted once, also after the agent is gone.
        mesh.agent.take().expect("an agent").kill().expect("killed");
        mesh.agent = Some(AgentProcess::start(sandbox).expect("the agent starts"));
        mesh.expect_metric("mesh_late_denials_total", &[], cut);
        sleep(scaled(AT_MOST));
        mesh.expect_metric("mesh_late_denials_total", &[], cut);
        for socket in good {
            goes_on(&mut checkout, socket);
        }
    });
}

#[test]
fn a_rule_that_is_gone_and_a_new_default_cut_too() {
    host::run("rulegone", |sandbox| {
        let mut mesh = Mesh::start(sandbox, &open());
        let _payments = server(&sandbox.cgroup);
        let mut intruder = mesh.peer(INTRUDER);
        let socket = keep(&mut intruder, tcp(VIP));
        mesh.enter(allowed("intruder-too", "dev/intruder"), 1);
        mesh.reload(SHOP);
        sleep(scaled(AT_MOST));
        is_cut(&mut intruder, socket);
        let call = Call::tcp(VIP).at("sweep").from_cgroup(INTRUDER);
        mesh.expect_record(late("default", "dev/intruder"), call);
        mesh.settle();

        let lenient = SHOP.replace("default = \"deny\"", "default = \"allow\"");
        mesh.reload(&lenient);
        let socket = keep(&mut intruder, tcp(VIP));
        let would = Decision::of_rule("would-deny", "default", "dev/intruder", "shop/payments");
        mesh.enter(would, 1);
        mesh.reload(SHOP);
        sleep(scaled(AT_MOST));
        is_cut(&mut intruder, socket);
        let call = Call::tcp(VIP).at("sweep").from_cgroup(INTRUDER);
        mesh.expect_record(late("default", "dev/intruder"), call);
        mesh.settle();
    });
}

#[test]
fn what_is_older_than_the_agent_is_cut_if_it_is_protected() {
    host::run("older", |sandbox| {
        let mut payments = server(&sandbox.cgroup);
        payments
            .serve_tcp("127.0.0.1:9000", "other")
            .expect("served");
        let peer = |name| Peer::spawn(&sandbox.cgroup, name).expect("a peer");
        let mut all = [peer(CHECKOUT), peer(INTRUDER), peer("user.slice/x.scope")];
        // Somebody the mesh is not about: it is limited to the sandbox's cgroup.
        let elsewhere = Cgroup::new("elsewhere").expect("a cgroup");
        let mut outsider = Peer::spawn(&elsewhere, "x").expect("a peer");
        let flows = |peer: &mut Peer| {
            [
                keep(peer, tcp(TCP)),
                keep(peer, udp(UDP)),
                keep(peer, tcp("127.0.0.1:9000")),
            ]
        };
        let sockets = all.each_mut().map(flows);
        let others = flows(&mut outsider);
        let mesh = Mesh::start(sandbox, SHOP);
        sleep(scaled(AT_MOST));
        let [checkout, intruder, anybody] = &mut all;
        for (peer, sockets) in [(intruder, sockets[1]), (anybody, sockets[2])] {
            is_cut(peer, sockets[0]);
            is_cut(peer, sockets[1]);
            goes_on(peer, sockets[2]);
        }
        for (peer, sockets) in [(checkout, sockets[0]), (&mut outsider, others)] {
            goes_on(peer, sockets[0]);
            // Its datagrams are dropped, because nobody saw it connect, but it is not cut.
            let outcome = say(peer, sockets[1]);
            assert_eq!(outcome.errno(), Some("EAGAIN"), "{outcome:?}");
            goes_on(peer, sockets[2]);
        }
        for source in ["dev/intruder", "host"] {
            let labels = [("source_service", source), ("reason", "late-denial")];
            mesh.expect_metric("mesh_authorization_decisions_total", &labels, 2.0);
        }
        mesh.expect_metric("mesh_late_denials_total", &[], 4.0);
    });
}

#[test]
fn a_service_that_becomes_protected_cuts_what_was_none_of_its_business() {
    host::run("becomes", |sandbox| {
        let none = SHOP.replace("127.0.0.1:8081", "127.0.0.1:8080");
        let mut mesh = Mesh::start(sandbox, &none);
        let _payments = server(&sandbox.cgroup);
        let (mut checkout, mut intruder) = (mesh.peer(CHECKOUT), mesh.peer(INTRUDER));
        let (good, bad) = (keep(&mut checkout, tcp(TCP)), keep(&mut intruder, tcp(TCP)));
        mesh.settle();
        mesh.reload(SHOP);
        sleep(scaled(AT_MOST));
        is_cut(&mut intruder, bad);
        goes_on(&mut checkout, good);
        let call = Call::tcp(TCP).at("sweep").from_cgroup(INTRUDER);
        mesh.expect_record(late("default", "dev/intruder"), call);
        mesh.settle();
    });
}

#[test]
fn half_closed_flows_are_cut() {
    use mesh_tests::peer::Step;
    host::run("halfclosed", |sandbox| {
        let mut mesh = Mesh::start(sandbox, &open());
        let _payments = server(&sandbox.cgroup);
        // Accepts, sends a little all the time and never ends by itself.
        let listener = std::net::TcpListener::bind("127.0.0.1:8083").expect("bound");
        thread::spawn(move || {
            use std::io::Write as _;
            let (mut stream, _) = listener.accept().expect("accepted");
            while stream.write_all(b"x").is_ok() {
                sleep(Duration::from_millis(20));
            }
        });
        let half = |text: &str| text.replace("127.0.0.1:8081", "127.0.0.1:8083");
        mesh.reload(&half(&open()));
        let mut intruder = mesh.peer(INTRUDER);
        let played = thread::spawn(move || {
            let steps = [Step::Finish, Step::Drain];
            (intruder.play(VIP, &steps).expect("played"), Instant::now())
        });
        sleep(Duration::from_millis(300));
        mesh.reload(&half(&closed()));
        let denied = Instant::now();
        let (played, end) = played.join().expect("a peer");
        assert_eq!(played.error.as_deref(), Some("ConnectionAborted"));
        assert!(played.received > 0, "it was established");
        assert!(end.saturating_duration_since(denied) < scaled(AT_MOST));
        mesh.expect_metric("mesh_late_denials_total", &[], 1.0);
    });
}

#[test]
fn a_connection_that_is_being_opened_is_cut() {
    host::run("synsent", |sandbox| {
        // What is sent to 10.88.0.2 comes back and is nobody's.
        sh("ip link add silent type veth peer name back && ip link set back up");
        sh("ip address add 10.88.0.1/24 dev silent && ip link set silent up");
        sh("ip neighbour add 10.88.0.2 lladdr 02:00:00:00:00:02 dev silent");
        let silent = |text: &str| text.replace("127.0.0.1:8081", "10.88.0.2:8081");
        let mut mesh = Mesh::start(sandbox, &silent(&open()));
        let mut intruder = mesh.peer(INTRUDER);
        let dialled = thread::spawn(move || {
            let outcome = intruder.dial_once(tcp(VIP)).expect("an outcome");
            (outcome, Instant::now())
        });
        sleep(Duration::from_millis(300));
        mesh.reload(&silent(&closed()));
        let denied = Instant::now();
        let (outcome, end) = dialled.join().expect("a peer");
        assert_eq!(outcome.errno(), Some("ECONNABORTED"), "{outcome:?}");
        assert!(end.saturating_duration_since(denied) < scaled(AT_MOST));
        mesh.enter(allowed("intruder-too", "dev/intruder"), 1);
        let call = Call::tcp(VIP).at("sweep").from_cgroup(INTRUDER);
        mesh.expect_record(late("no-intruder", "dev/intruder"), call);
        mesh.settle();
    });
}

#[test]
fn connections_opened_during_the_change_do_not_slip_through() {
    host::run("during", |sandbox| {
        let mut mesh = Mesh::start(sandbox, &open());
        let _payments = server(&sandbox.cgroup);
        for round in 0..5 {
            let mut intruder = mesh.peer(INTRUDER);
            let dialling = thread::spawn(move || {
                let mut sockets = Vec::new();
                for _ in 0..600 {
                    sleep(Duration::from_millis(10));
                    let outcomes = intruder
                        .dial(tcp(VIP).then(After::Keep).times(20))
                        .expect("outcomes");
                    let refused = outcomes.iter().any(|o| o.errno() == Some("EPERM"));
                    sockets.extend(outcomes.into_iter().filter_map(|outcome| outcome.socket));
                    if refused {
                        return (intruder, sockets, Instant::now());
                    }
                }
                panic!("never refused");
            });
            sleep(Duration::from_millis(100));
            mesh.reload(&format!("{}# {round}\n", closed()));
            let (mut intruder, sockets, refused) = dialling.join().expect("a peer");
            sleep(scaled(AT_MOST).saturating_sub(refused.elapsed()));
            assert!(sockets.len() > 20, "{} flows", sockets.len());
            for outcome in intruder.exchange(&sockets, "y").expect("outcomes") {
                assert!(outcome.failure.is_some(), "{outcome:?}");
            }
            mesh.reload(&format!("{}# {round}\n", open()));
        }
    });
}

#[test]
fn what_stays_allowed_survives_a_hundred_reloads() {
    host::run_for(Duration::from_secs(120), "hundred", |sandbox| {
        let mut mesh = Mesh::start(sandbox, SHOP);
        let _payments = server(&sandbox.cgroup);
        let mut checkout = mesh.peer(CHECKOUT);
        let mut sockets = Vec::new();
        for dial in [tcp(VIP), tcp(TCP), udp(VIP_UDP), udp(UDP)] {
            sockets.extend((0..10).map(|_| keep(&mut checkout, dial.clone())));
        }
        // A flow that nobody reads from, one of a service that is none of the mesh's.
        for number in 0..100 {
            let extra = ["", OPEN][number % 2];
            mesh.reload(&format!("{SHOP}{extra}# {number}\n"));
            if number % 10 == 0 {
                sockets.iter().for_each(|s| goes_on(&mut checkout, *s));
            }
        }
        sleep(Duration::from_secs(3));
        sockets.iter().for_each(|s| goes_on(&mut checkout, *s));
        mesh.expect_metric("mesh_late_denials_total", &[], 0.0);
        assert_eq!(mesh.status().problems, [""; 0]);
    });
}

#[test]
fn what_is_only_audited_or_not_protected_is_never_cut() {
    host::run("audit", |sandbox| {
        let lenient = SHOP.replace("default = \"deny\"", "default = \"allow\"");
        let mut mesh = Mesh::start(sandbox, &lenient);
        let mut payments = server(&sandbox.cgroup);
        payments
            .serve_tcp("127.0.0.1:9000", "other")
            .expect("served");
        let mut intruder = mesh.peer(INTRUDER);
        let sockets = [tcp(VIP), tcp(TCP), udp(VIP_UDP), tcp("127.0.0.1:9000")];
        let sockets = sockets.map(|dial| keep(&mut intruder, dial));
        let audit = format!("{CLOSE}mode = \"audit\"\n");
        let allow =
            "[[allow]]\nname = \"try\"\nfrom = [\"*\"]\nto = [\"shop/*\"]\nmode = \"audit\"\n";
        for policy in [
            format!("{lenient}{audit}"),
            format!("{SHOP}{OPEN}{audit}"),
            format!("{SHOP}{allow}"),
        ] {
            mesh.reload(&policy);
            sleep(scaled(AT_MOST));
            sockets.iter().for_each(|s| goes_on(&mut intruder, *s));
        }
        mesh.expect_metric("mesh_late_denials_total", &[], 0.0);
        // A service that is no more leaves its flows alone.
        let (before, _) = SHOP
            .split_once("[[service]]\nname = \"payments\"")
            .expect("found");
        mesh.reload(before);
        sleep(scaled(AT_MOST));
        sockets.iter().for_each(|s| goes_on(&mut intruder, *s));
        mesh.expect_metric("mesh_late_denials_total", &[], 0.0);
    });
}

/// Connects `peer`, which has a network namespace of its own, with the test's: 10.99.0.1 here,
/// 10.99.0.2 there.
fn wire(peer: &Peer) {
    let pid = peer.pid();
    sh("ip link add here type veth peer name there");
    sh(&format!("ip link set there netns {pid}"));
    sh("ip address add 10.99.0.1/24 dev here && ip link set here up");
    let inside = format!("nsenter -t {pid} -n");
    sh(&format!("{inside} ip address add 10.99.0.2/24 dev there"));
    sh(&format!("{inside} ip link set there up"));
    sh(&format!("{inside} ip route add default via 10.99.0.1"));
}

#[test]
fn flows_of_other_network_namespaces_are_cut() {
    host::run("netns", |sandbox| {
        let veth = |text: &str| text.replace("127.0.0.1:80", "10.99.0.1:80");
        let node = "[[node]]\nname = \"edge-1\"\naddress = \"10.99.0.1\"\n";
        // Datagrams from other namespaces are let in by address.
        let near = "[[allow]]\nname = \"near\"\nfrom = [{ cidr = \"10.99.0.0/24\" }]\nto = [\"shop/payments\"]\nports = [\"udp\"]\n";
        let policy = |text: &str| format!("{}{node}{near}", veth(text));
        let path = sandbox.cgroup.child(INTRUDER).expect("a cgroup");
        let apart = Options {
            own_netns: true,
            ..Options::default()
        };
        let mut intruder = Peer::spawn_at(&path, apart).expect("a peer");
        wire(&intruder);
        let mut payments = Peer::spawn(&sandbox.cgroup, PAYMENTS).expect("a peer");
        payments.serve_tcp("10.99.0.1:8081", "v1").expect("served");
        payments.serve_udp("10.99.0.1:8053", "v1").expect("served");
        // Its own loopback is none of the mesh's business, whatever the port.
        intruder.serve_tcp(TCP, "own").expect("served");
        let older = [
            keep(&mut intruder, tcp("10.99.0.1:8081")),
            keep(&mut intruder, tcp(TCP)),
        ];
        let mut mesh = Mesh::start(sandbox, &policy(SHOP));
        sleep(scaled(AT_MOST));
        is_cut(&mut intruder, older[0]);
        goes_on(&mut intruder, older[1]);
        mesh.reload(&policy(&open()));
        let flows = [tcp(VIP), udp(VIP_UDP)].map(|dial| keep(&mut intruder, dial));
        // Its server has no rule for the address, but its client is on this host.
        mesh.reload(&policy(&format!("{}# again\n", open())));
        sleep(scaled(AT_MOST));
        flows.iter().for_each(|s| goes_on(&mut intruder, *s));
        mesh.reload(&policy(&closed()));
        sleep(scaled(AT_MOST));
        flows.iter().for_each(|s| is_cut(&mut intruder, *s));
        goes_on(&mut intruder, older[1]);
        mesh.expect_metric("mesh_late_denials_total", &[], 3.0);
        assert_eq!(mesh.status().problems, [""; 0]);
    });
}

#[test]
fn flows_from_other_hosts_are_cut_by_address() {
    host::run("farlive", |sandbox| {
        let near = "\n[[allow]]\nname = \"near\"\nfrom = [{ cidr = \"10.88.0.0/24\" }]\nto = [\"shop/payments\"]\n";
        let never = "\n[[deny]]\nname = \"not-them\"\nfrom = [{ cidr = \"10.88.0.2/32\" }]\nto = [\"shop/*\"]\n";
        let (let_in, shut_out) = (format!("{SHOP}{near}"), format!("{SHOP}{near}{never}"));
        let apart = Options {
            own_netns: true,
            ..Options::default()
        };
        // Another host: no program of the mesh acts on its cgroup.
        let outside = Cgroup::new("farlive-outside").expect("a cgroup");
        let far = outside.child("far").expect("a cgroup");
        let mut far = Peer::spawn_at(&far, apart).expect("a peer");
        netns::join(far.pid());
        let mut payments = Peer::spawn(&sandbox.cgroup, PAYMENTS).expect("a peer");
        payments.serve_tcp("0.0.0.0:8081", "v1").expect("served");
        let (here, to) = ("10.88.0.1:8081", "10.88.0.1:8081");
        let older = keep(&mut far, tcp(here));
        let mut mesh = Mesh::start(sandbox, SHOP);
        sleep(scaled(AT_MOST));
        is_cut(&mut far, older);
        let expect = |mesh: &mut Mesh<'_>, rule: &str| {
            mesh.expect_record(late(rule, "outside"), Call::tcp(to).at("sweep"));
        };
        expect(&mut mesh, "-");

        mesh.reload(&let_in);
        let flow = keep(&mut far, tcp(here));
        mesh.enter(allowed("near", "outside"), 1);
        mesh.reload(&format!("{let_in}# again\n"));
        sleep(scaled(AT_MOST));
        goes_on(&mut far, flow);
        mesh.reload(&shut_out);
        sleep(scaled(AT_MOST));
        is_cut(&mut far, flow);
        expect(&mut mesh, "not-them");
        assert_eq!(payments.aborted().expect("a count"), 2);
        mesh.settle();
    });
}

#[test]
fn who_made_the_socket_must_still_be_allowed() {
    host::run("maker", |sandbox| {
        let mut mesh = Mesh::start(sandbox, &open());
        let _payments = server(&sandbox.cgroup);
        let (mut checkout, mut intruder) = (mesh.peer(CHECKOUT), mesh.peer(INTRUDER));
        let inbox = sandbox.path("run").join("inbox");
        checkout
            .ask::<()>(&Request::Inbox(inbox.clone()))
            .expect("an inbox");
        let socket = intruder.open(Kind::default()).expect("a socket");
        intruder
            .ask::<()>(&Request::Pass { socket, inbox })
            .expect("passed");
        let passed: Socket = checkout.ask(&Request::Take).expect("taken");
        let outcome = checkout.connect(passed, VIP, "x").expect("an outcome");
        assert_eq!(outcome.answered(), "v1", "{outcome:?}");
        let own = keep(&mut checkout, tcp(VIP));
        mesh.enter(allowed("checkout-pays", "shop/checkout"), 2);
        mesh.reload(&closed());
        sleep(scaled(AT_MOST));
        is_cut(&mut checkout, passed);
        goes_on(&mut checkout, own);
        mesh.enter(
            Decision {
                rule: "-".into(),
                ..late("-", "shop/checkout")
            },
            1,
        );
        mesh.settle();
    });
}

#[test]
fn what_leaves_the_mesh_is_cut_where_that_is_denied() {
    host::run("egress", |sandbox| {
        sh("ip address add 10.77.0.1/32 dev lo");
        let guarded = |net: &str| {
            let egress = "workload = { systemd = \"payments.service\" }\negress = \"deny\"";
            let text = SHOP.replace("workload = { systemd = \"payments.service\" }", egress);
            format!(
                "{text}\n[[allow]]\nname = \"out\"\nfrom = [\"shop/payments\"]\nto = [{{ cidr = \"{net}\" }}]\n"
            )
        };
        let mut outside = Peer::spawn(&sandbox.cgroup, "user.slice/out.scope").expect("a peer");
        outside.serve_tcp("10.77.0.1:9000", "out").expect("served");
        let mut mesh = Mesh::start(sandbox, &guarded("10.77.0.0/24"));
        let mut payments = server(&sandbox.cgroup);
        let mut checkout = mesh.peer(CHECKOUT);
        let (out, in_) = (
            keep(&mut payments, tcp("10.77.0.1:9000")),
            keep(&mut checkout, tcp(VIP)),
        );
        mesh.reload(&guarded("10.78.0.0/24"));
        sleep(scaled(AT_MOST));
        is_cut(&mut payments, out);
        // The other way round it is a client's business, also after the agent starts anew.
        goes_on(&mut checkout, in_);
        mesh.agent.take().expect("an agent").kill().expect("killed");
        mesh.agent = Some(AgentProcess::start(sandbox).expect("the agent starts"));
        sleep(scaled(AT_MOST));
        goes_on(&mut checkout, in_);
        let labels = [
            ("reason", "late-denial"),
            ("source_service", "shop/payments"),
        ];
        mesh.expect_metric("mesh_authorization_decisions_total", &labels, 1.0);
        mesh.expect_metric("mesh_late_denials_total", &[], 1.0);
    });
}

/// When a peer's exchanges succeeded. Ends for itself if nobody stops it.
fn talk(mut peer: Peer, stop: &AtomicBool) -> Vec<Instant> {
    let mut successes = Vec::new();
    let mut sockets: Vec<Socket> = Vec::new();
    let end = Instant::now() + scaled(Duration::from_secs(60));
    while !stop.load(Ordering::Relaxed) && Instant::now() < end {
        if sockets.len() < 20 {
            let dial = tcp(VIP).then(After::Keep).times(20);
            let outcomes = peer.dial(dial).expect("outcomes");
            sockets.extend(outcomes.into_iter().filter_map(|outcome| outcome.socket));
        }
        let began = Instant::now();
        let outcomes = peer.exchange(&sockets, "y").expect("outcomes");
        let failed = outcomes.iter().map(|outcome| outcome.failure.is_some());
        let (dead, alive): (Vec<_>, Vec<_>) = sockets
            .iter()
            .copied()
            .zip(failed)
            .partition(|(_, failed)| *failed);
        if !alive.is_empty() {
            successes.push(began);
        }
        let dead: Vec<Socket> = dead.into_iter().map(|(socket, _)| socket).collect();
        sockets = alive.into_iter().map(|(socket, _)| socket).collect();
        if !dead.is_empty() {
            peer.ask::<()>(&Request::Close(dead)).expect("closed");
        }
    }
    successes
}

#[test]
fn under_load_nothing_succeeds_a_second_after_any_denial() {
    host::run_for(Duration::from_secs(120), "storm", |sandbox| {
        let mut mesh = Mesh::start(sandbox, &open());
        let _payments = server(&sandbox.cgroup);
        let stop = Arc::new(AtomicBool::new(false));
        let talkers: Vec<_> = (0..3)
            .map(|_| (mesh.peer(INTRUDER), Arc::clone(&stop)))
            .map(|(peer, stop)| thread::spawn(move || talk(peer, &stop)))
            .collect();
        let mut denied = Vec::new();
        for _ in 0..DENIALS {
            mesh.reload(&closed());
            let from = Instant::now() + scaled(AT_MOST);
            let to = from + Duration::from_millis(500);
            // More changes that still deny.
            for number in 0.. {
                if Instant::now() > to {
                    break;
                }
                mesh.reload(&format!("{}# {number}\n", closed()));
                sleep(Duration::from_millis(250));
            }
            denied.push((from, Instant::now()));
            mesh.reload(&open());
            sleep(Duration::from_millis(500));
        }
        stop.store(true, Ordering::Relaxed);
        let successes: Vec<Instant> = talkers
            .into_iter()
            .flat_map(|talker| talker.join().expect("a talker"))
            .collect();
        assert!(successes.len() > 50, "{} exchanges", successes.len());
        let late = successes
            .iter()
            .filter(|at| denied.iter().any(|(from, to)| *at > from && *at < to));
        assert_eq!(late.count(), 0, "exchanges later than a second");
        counts(sandbox, "mesh_late_denials_total", &[], |cut| cut >= 60.0);
    });
}

#[test]
fn an_agent_that_was_down_cuts_what_was_missed() {
    host::run("down", |sandbox: &Sandbox| {
        let mut mesh = Mesh::start(sandbox, &open());
        let _payments = server(&sandbox.cgroup);
        let mut intruder = mesh.peer(INTRUDER);
        let socket = keep(&mut intruder, tcp(VIP));
        mesh.agent.take().expect("an agent").kill().expect("killed");
        sandbox
            .write_policy("10-test.toml", &closed())
            .expect("written");
        goes_on(&mut intruder, socket);
        mesh.agent = Some(AgentProcess::start(sandbox).expect("the agent starts"));
        until(AT_MOST, "the flow is cut", || {
            say(&mut intruder, socket).failure.is_some()
        });
        mesh.expect_metric("mesh_late_denials_total", &[], 1.0);
    });
}
