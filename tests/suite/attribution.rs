//! Who calls: cgroups old and new, processes that move, sockets that change hands.

use std::fs;
use std::path::Path;

use mesh_tests::mesh::{Call, Decision};
use mesh_tests::names::{CHECKOUT, HOST, INTRUDER, VIP, VIP_UDP};
use mesh_tests::peer::{Dial, Kind, Outcome, Peer, Request, Socket};
use mesh_tests::{AgentProcess, Cgroup, Mesh, host};

const POLICY: &str = r#"
[mesh]
default = "deny"

[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout.service" }

[[service]]
name = "workers"
namespace = "shop"
workload = { systemd = "worker-*.service" }

[[service]]
name = "boxes"
namespace = "shop"
workload = { cgroup = "/machine.slice/box-*.scope" }

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

[[allow]]
name = "shop-pays"
from = ["shop/*"]
to = ["shop/payments"]
"#;

/// Cgroups and who their processes are.
const WHO: &[(&str, &str)] = &[
    ("system.slice/checkout.service", "shop/checkout"),
    (
        "system.slice/system-shop.slice/checkout.service",
        "shop/checkout",
    ),
    ("checkout.service", "shop/checkout"),
    (
        "system.slice/checkout.service/inner/deeper",
        "shop/checkout",
    ),
    ("system.slice/worker-1.service", "shop/workers"),
    ("system.slice/worker-a-b.service", "shop/workers"),
    ("system.slice/worker-1.service/inner", "shop/workers"),
    ("machine.slice/box-7.scope", "shop/boxes"),
    ("machine.slice/box-7.scope/payload/init.scope", "shop/boxes"),
    ("", "host"),
    ("system.slice", "host"),
    ("system.slice/worker.service", "host"),
    ("system.slice/worker-1.service.d", "host"),
    ("system.slice/xcheckout.service", "host"),
    ("system.slice/checkout.servicex", "host"),
    ("system.slice/checkout.slice/x.service", "host"),
    ("system.slice/docker.service/checkout.service", "host"),
    (
        "user.slice/user-1000.slice/user@1000.service/app.slice/checkout.service",
        "host",
    ),
    ("user.slice/user-1000.slice/session-1.scope", "host"),
    ("machine.slice/inner/box-7.scope", "host"),
    ("machine.slice/box-7/box.scope", "host"),
    ("other/machine.slice/box-7.scope", "host"),
];

fn serve(mesh: &Mesh<'_>) -> Peer {
    let mut server = mesh.peer("system.slice/payments.service");
    server.serve_tcp("127.0.0.1:8081", "v1").expect("a server");
    server.serve_udp("127.0.0.1:8053", "v1").expect("a server");
    server
}

fn dial() -> Dial {
    Dial::tcp(VIP.parse().expect("an address"))
}

fn allowed(source: &str) -> Decision {
    Decision::of_rule("allowed", "shop-pays", source, "shop/payments")
}

fn denied(source: &str) -> Decision {
    Decision::of_rule("denied", "default", source, "shop/payments")
}

fn creator(source: &str) -> Decision {
    Decision::of_reason("socket-creator", source, "shop/payments")
}

/// Holds what a caller in `cgroup` got against what `source` must get.
fn expect(mesh: &mut Mesh<'_>, outcome: &Outcome, cgroup: &str, source: &str) {
    if source.starts_with("shop/") {
        mesh.expect_allowed(outcome, "v1", allowed(source));
    } else {
        let call = Call::tcp(VIP).from_cgroup(cgroup);
        mesh.expect_denied(outcome, denied(source), call);
    }
}

fn check_who(mesh: &mut Mesh<'_>) {
    let _server = serve(mesh);
    for (cgroup, source) in WHO {
        let outcome = mesh.peer(cgroup).dial_once(dial()).expect("an outcome");
        expect(mesh, &outcome, cgroup, source);
    }
    mesh.settle();
}

#[test]
fn cgroups_that_existed_before_the_agent() {
    host::run("before", |sandbox| {
        for (cgroup, _) in WHO {
            sandbox.cgroup.child(cgroup).expect("a cgroup");
        }
        let mut mesh = Mesh::start(sandbox, POLICY);
        check_who(&mut mesh);
    });
}

#[test]
fn cgroups_that_are_made_while_the_agent_runs() {
    host::run("after", |sandbox| {
        let mut mesh = Mesh::start(sandbox, POLICY);
        check_who(&mut mesh);
    });
}

#[test]
fn cgroups_that_are_there_when_the_policy_comes() {
    host::run("reload", |sandbox| {
        for (cgroup, _) in WHO {
            sandbox.cgroup.child(cgroup).expect("a cgroup");
        }
        let mut mesh = Mesh::start(sandbox, "[mesh]\ndefault = \"deny\"\n");
        mesh.reload(POLICY);
        check_who(&mut mesh);
    });
}

#[test]
fn the_deepest_selector_wins() {
    host::run("deepest", |sandbox| {
        let inner = "system.slice/checkout.service/sidecar";
        let policy = format!(
            "{POLICY}\n[[service]]\nname = \"sidecar\"\nnamespace = \"dev\"\n\
             workload = {{ cgroup = \"/{inner}\" }}\n"
        );
        let mut mesh = Mesh::start(sandbox, &policy);
        let _server = serve(&mesh);
        for (cgroup, source) in [
            (CHECKOUT, "shop/checkout"),
            (inner, "dev/sidecar"),
            ("system.slice/checkout.service/side", "shop/checkout"),
        ] {
            let outcome = mesh.peer(cgroup).dial_once(dial()).expect("an outcome");
            expect(&mut mesh, &outcome, cgroup, source);
        }
        mesh.settle();
    });
}

/// A path below `parent` that is too long for the programs to take in.
fn too_long(parent: &str) -> String {
    format!(
        "{parent}/{}",
        ["x".repeat(200), "y".repeat(200), "z".repeat(200)].join("/")
    )
}

#[test]
fn a_cgroup_that_was_not_seen_is_its_ancestors_service_or_nobody() {
    host::run("unseen", |sandbox| {
        // With this selector a cgroup below a service's could be another service's.
        let nesting = r#"{ cgroup = "/machine.slice/box-*.scope" }"#;
        let policy = POLICY.replace(nesting, r#"{ systemd = "box.service" }"#);
        let mut mesh = Mesh::start(sandbox, &policy);
        let _server = serve(&mesh);
        let cgroup = too_long(CHECKOUT);
        let mut peer = mesh.peer(&cgroup);
        let outcome = peer.dial_once(dial()).expect("an outcome");
        mesh.expect_allowed(&outcome, "v1", allowed("shop/checkout"));
        let cgroup = too_long("system.slice/other.service");
        let mut peer = mesh.peer(&cgroup);
        let outcome = peer.dial_once(dial()).expect("an outcome");
        let nobody = Decision::of_reason("unknown-caller", "unknown", "shop/payments");
        mesh.expect_denied(&outcome, nobody, Call::tcp(VIP).from_cgroup(&cgroup));
        mesh.settle();
    });
}

#[test]
fn not_knowing_who_calls_denies_only_what_is_protected() {
    host::run("unprotected", |sandbox| {
        let policy = POLICY.replace("default = \"deny\"", "default = \"allow\"");
        let mut mesh = Mesh::start(sandbox, &policy);
        let _server = serve(&mesh);
        let cgroup = too_long("system.slice/other.service");
        let mut peer = mesh.peer(&cgroup);
        // An endpoint is reached as if there were no mesh; a VIP leads nowhere without one.
        let endpoint = Dial::tcp("127.0.0.1:8081".parse().expect("an address"));
        let outcome = peer.dial_once(endpoint).expect("an outcome");
        let nobody = Decision::of_reason("unknown-caller", "unknown", "shop/payments");
        let anyway = Decision {
            verdict: "allowed".into(),
            ..nobody.clone()
        };
        mesh.expect_allowed(&outcome, "v1", anyway);
        let outcome = peer.dial_once(dial()).expect("an outcome");
        mesh.expect_denied(&outcome, nobody, Call::tcp(VIP).from_cgroup(&cgroup));
        mesh.settle();
    });
}

/// Moves the peer into a new cgroup, where it connects as the first thing it does, and out of
/// it, and removes the cgroup.
fn visit(peer: &mut Peer, home: &Path, cgroup: &Path) -> Outcome {
    fs::create_dir(cgroup).expect("a new cgroup");
    peer.join(cgroup).expect("in it");
    let outcome = peer.dial_once(dial()).expect("an outcome");
    peer.join(home).expect("out of it");
    fs::remove_dir(cgroup).expect("removed");
    outcome
}

/// Visits new cgroups; every other one is a service that may call. All of them are new, also
/// where the name is not, as when systemd restarts a unit.
fn visit_many(mesh: &mut Mesh<'_>, root: &Cgroup, times: usize) {
    let mut peer = mesh.peer(HOST);
    let home = root.child(HOST).expect("a cgroup");
    let slice = root.child("system.slice").expect("a cgroup");
    for _ in 0..times {
        let outcome = visit(&mut peer, &home, &slice.join("checkout.service"));
        mesh.expect_allowed(&outcome, "v1", allowed("shop/checkout"));
        let outcome = visit(&mut peer, &home, &slice.join("intruder.service"));
        mesh.expect_denied(&outcome, denied("dev/intruder"), Call::tcp(VIP));
        let outcome = visit(&mut peer, &home, &slice.join("nobody.service"));
        mesh.expect_denied(&outcome, denied("host"), Call::tcp(VIP));
    }
}

#[test]
fn a_new_cgroup_is_known_at_its_first_call() {
    host::run("new", |sandbox| {
        let mut mesh = Mesh::start(sandbox, POLICY);
        let _server = serve(&mesh);
        visit_many(&mut mesh, &sandbox.cgroup, 200);
        for _ in 0..20 {
            let outcome = mesh.peer(CHECKOUT).dial_once(dial()).expect("an outcome");
            mesh.expect_allowed(&outcome, "v1", allowed("shop/checkout"));
            let path = sandbox.cgroup.path().join(CHECKOUT);
            mesh_tests::cgroup::remove(&path).expect("removed");
        }
        mesh.settle();
    });
}

#[test]
fn also_while_the_agent_is_dead() {
    host::run("dead", |sandbox| {
        let mut mesh = Mesh::start(sandbox, POLICY);
        let _server = serve(&mesh);
        let agent = mesh.agent.take().expect("a running agent");
        agent.kill().expect("killed");
        visit_many(&mut mesh, &sandbox.cgroup, 100);
        // What was counted and recorded meanwhile is shown by the next agent.
        mesh.agent = Some(AgentProcess::start(sandbox).expect("the agent starts again"));
        visit_many(&mut mesh, &sandbox.cgroup, 10);
        mesh.settle();
    });
}

#[test]
fn a_process_is_who_it_is_when_it_calls() {
    host::run("moves", |sandbox| {
        let mut mesh = Mesh::start(sandbox, POLICY);
        let _server = serve(&mesh);
        let mut peer = mesh.peer(HOST);
        for _ in 0..20 {
            for (cgroup, source) in [
                (HOST, "host"),
                (CHECKOUT, "shop/checkout"),
                (INTRUDER, "dev/intruder"),
            ] {
                let path = sandbox.cgroup.child(cgroup).expect("a cgroup");
                peer.join(&path).expect("moved");
                let outcome = peer.dial_once(dial()).expect("an outcome");
                expect(&mut mesh, &outcome, cgroup, source);
            }
        }
        mesh.settle();
    });
}

#[test]
fn a_socket_calls_with_the_lesser_right_of_maker_and_user() {
    host::run("sockets", |sandbox| {
        let mut mesh = Mesh::start(sandbox, POLICY);
        let _server = serve(&mesh);
        let place = |name: &str| sandbox.cgroup.child(name).expect("a cgroup");
        let worker = "system.slice/worker-1.service";
        let call = || Call::tcp(VIP).from_cgroup(CHECKOUT);
        for (maker, user, verdict) in [
            (place(CHECKOUT), CHECKOUT, None),
            (place(worker), CHECKOUT, None),
            (place(CHECKOUT), worker, None),
            (
                place(HOST),
                CHECKOUT,
                Some((creator("shop/checkout"), call())),
            ),
            (
                place(INTRUDER),
                CHECKOUT,
                Some((creator("shop/checkout"), call())),
            ),
            (
                place(CHECKOUT),
                HOST,
                Some((denied("host"), Call::tcp(VIP).from_cgroup(HOST))),
            ),
        ] {
            let mut peer = Peer::spawn_at(&maker, Default::default()).expect("a peer");
            let socket = peer.open(Kind::default()).expect("a socket");
            peer.join(&place(user)).expect("moved");
            let outcome = peer.connect(socket, VIP, "x").expect("an outcome");
            match verdict {
                Some((decision, call)) => mesh.expect_denied(&outcome, decision, call),
                None if user == worker => {
                    mesh.expect_allowed(&outcome, "v1", allowed("shop/workers"));
                }
                None => mesh.expect_allowed(&outcome, "v1", allowed("shop/checkout")),
            }
        }
        mesh.settle();
    });
}

#[test]
fn a_datagram_socket_made_by_another_is_refused() {
    host::run("datagrams", |sandbox| {
        let mut mesh = Mesh::start(sandbox, POLICY);
        let _server = serve(&mesh);
        let mut peer = mesh.peer(HOST);
        let kind = Kind {
            udp: true,
            ..Kind::default()
        };
        let sockets = [(); 2].map(|()| peer.open(kind).expect("a socket"));
        let checkout = sandbox.cgroup.child(CHECKOUT).expect("a cgroup");
        peer.join(&checkout).expect("moved");
        let call = || Call::udp(VIP_UDP).from_cgroup(CHECKOUT);
        let outcome = peer.send_to(sockets[0], VIP_UDP, "x").expect("an outcome");
        mesh.expect_denied(&outcome, creator("shop/checkout"), call());
        let outcome = peer.connect(sockets[1], VIP_UDP, "x").expect("an outcome");
        mesh.expect_denied(&outcome, creator("shop/checkout"), call().at("connect4"));
        let own = peer.open(kind).expect("a socket");
        let outcome = peer.connect(own, VIP_UDP, "x").expect("an outcome");
        mesh.expect_allowed(&outcome, "v1", allowed("shop/checkout"));
        mesh.settle();
    });
}

#[test]
fn a_socket_passed_to_a_service_gains_nothing() {
    host::run("passed", |sandbox| {
        let mut mesh = Mesh::start(sandbox, POLICY);
        let _server = serve(&mesh);
        for (number, (from, to, decision)) in [
            (HOST, CHECKOUT, Some(creator("shop/checkout"))),
            (INTRUDER, CHECKOUT, Some(creator("shop/checkout"))),
            (CHECKOUT, HOST, Some(denied("host"))),
            (CHECKOUT, CHECKOUT, None),
        ]
        .into_iter()
        .enumerate()
        {
            let (mut giver, mut taker) = (mesh.peer(from), mesh.peer(to));
            let inbox = sandbox.path(&format!("inbox-{number}"));
            taker
                .ask::<()>(&Request::Inbox(inbox.clone()))
                .expect("an inbox");
            let socket = giver.open(Kind::default()).expect("a socket");
            giver
                .ask::<()>(&Request::Pass { socket, inbox })
                .expect("passed");
            let socket: Socket = taker.ask(&Request::Take).expect("a socket");
            let outcome = taker.connect(socket, VIP, "x").expect("an outcome");
            match decision {
                Some(decision) => {
                    let call = Call::tcp(VIP).from_cgroup(to);
                    mesh.expect_denied(&outcome, decision, call);
                }
                None => mesh.expect_allowed(&outcome, "v1", allowed("shop/checkout")),
            }
        }
        mesh.settle();
    });
}

#[test]
fn a_connection_that_is_passed_on_stays_its_makers() {
    host::run("passed-on", |sandbox| {
        let mut mesh = Mesh::start(sandbox, POLICY);
        let _server = serve(&mesh);
        let (mut checkout, mut stranger) = (mesh.peer(CHECKOUT), mesh.peer(HOST));
        let inbox = sandbox.path("inbox");
        stranger
            .ask::<()>(&Request::Inbox(inbox.clone()))
            .expect("an inbox");
        let socket = checkout.open(Kind::default()).expect("a socket");
        let outcome = checkout.connect(socket, VIP, "x").expect("an outcome");
        mesh.expect_allowed(&outcome, "v1", allowed("shop/checkout"));
        checkout
            .ask::<()>(&Request::Pass { socket, inbox })
            .expect("passed");
        let passed: Socket = stranger.ask(&Request::Take).expect("a socket");
        // A service that passes a connection on has delegated it: nothing is decided anew.
        let answers = stranger.exchange(&[passed], "y").expect("answers");
        assert_eq!(answers[0].answered(), "v1");
        mesh.settle();
    });
}
