//! Real units as workloads: services, scopes as container managers make them, slices of pods.
//!
//! Only in a guest of `cargo xtask vm --systemd`, where the agent guards the whole machine.

use std::collections::BTreeSet;
use std::mem::ManuallyDrop;

use mesh_tests::guest;
use mesh_tests::names::{CALLERS, tcp};
use mesh_tests::package::Package;
use mesh_tests::peer::{Outcome, binary};
use mesh_tests::shop::{FILE, VIP};
use mesh_tests::systemd::{Unit, run, server, wait_until};

/// How often a unit is restarted.
const RESTARTS: usize = 50;
const V1: &str = "127.0.0.1:8081";
const V2: &str = "127.0.0.1:8082";
/// What the demo's callers may call, as units.
const POLICY: &str = r#"
[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "http", listen = 80 }]
workload = { systemd = "payments-*.service" }
endpoints = [
  { address = "127.0.0.1:8081", version = "v1" },
  { address = "127.0.0.1:8082", version = "v2" },
]

[[split]]
service = "shop/payments"
weights = { v1 = 50, v2 = 50 }

[[allow]]
name = "checkout-pays"
from = ["shop/checkout"]
to = ["shop/payments"]
"#;
const DECISIONS: &str = "mesh_authorization_decisions_total";
/// 64 hexadecimal digits, as container managers name containers.
const ID: &str = "4f1f0f5a9d3b4c6e8f2a1b3c5d7e9f0a1b2c3d4e5f60718293a4b5c6d7e8f901";

/// The package with a policy in force, and both versions of payments.
fn shop(policy: &str) -> (ManuallyDrop<Package>, [Unit; 2]) {
    guest::systemd_required().expect("a guest");
    let package = Package::keep();
    let policy = format!("[mesh]\ndefault = \"deny\"\n\n{CALLERS}{policy}");
    package.write_policy(FILE, &policy);
    let probe = Unit::caller("nobody.service", &tcp(VIP), "");
    wait_until("the policy is in force", || probe.call() == "EPERM");
    let payments = [
        Unit::server("payments-v1.service", V1, "v1"),
        Unit::server("payments-v2.service", V2, "v2"),
    ];
    (package, payments)
}

/// How often the agent has counted a verdict on a caller, once it has counted `least`.
fn counted(package: &Package, caller: &str, verdict: &str, least: usize) -> usize {
    let labels = [("source_service", caller), ("verdict", verdict)];
    let count = || package.metric(DECISIONS, &labels) as usize;
    wait_until("the agent has counted", || count() >= least);
    count()
}

#[test]
#[ignore = "needs systemd and the package: only for cargo xtask vm --systemd"]
fn restarted_services_are_known_before_their_first_connect() {
    let (package, _payments) = shop(POLICY);
    let host = counted(&package, "host", "denied", 1);
    // Other tests have called as well.
    let before = [("shop/checkout", "allowed"), ("dev/intruder", "denied")]
        .map(|(caller, verdict)| counted(&package, caller, verdict, 0));
    let unknown = || package.metric(DECISIONS, &[("source_service", "unknown")]);
    let unknown_before = unknown();
    let checkout = Unit::caller("checkout.service", &tcp(VIP), "");
    let around = Unit::caller("intruder.service", &tcp(V1), "");
    for _ in 0..RESTARTS {
        checkout.restart();
        around.restart();
    }
    let versions = checkout.outcomes();
    assert_eq!(versions.len(), RESTARTS);
    let seen: BTreeSet<_> = versions.iter().map(String::as_str).collect();
    assert_eq!(seen, BTreeSet::from(["v1", "v2"]));
    let v1 = versions.iter().filter(|version| *version == "v1").count();
    assert_eq!(v1, RESTARTS / 2, "every second one");
    assert_eq!(around.outcomes(), ["EPERM"; RESTARTS]);
    let expected = before.map(|count| count + RESTARTS);
    let allowed = counted(&package, "shop/checkout", "allowed", expected[0]);
    let denied = counted(&package, "dev/intruder", "denied", expected[1]);
    assert_eq!([allowed, denied], expected);
    // None was taken for a process of no service, or of one that nobody knows.
    assert_eq!(counted(&package, "host", "denied", host), host);
    assert_eq!(unknown(), unknown_before);
    package.is_running();
}

#[test]
#[ignore = "needs systemd and the package: only for cargo xtask vm --systemd"]
fn a_server_that_is_restarted_stays_guarded() {
    let (package, payments) = shop(POLICY);
    let checkout = Unit::caller("checkout.service", &tcp(VIP), "");
    let intruder = Unit::caller("intruder.service", &tcp(V2), "");
    for _ in 0..5 {
        payments.iter().for_each(Unit::restart);
        assert_eq!(intruder.call(), "EPERM");
        assert!(["v1", "v2"].contains(&checkout.call().as_str()));
    }
    package.is_running();
}

#[test]
#[ignore = "needs systemd and the package: only for cargo xtask vm --systemd"]
fn units_of_every_kind_are_told_apart() {
    let scopes = [
        // Manager, slice, scope, and whether it is checkout by the globs below.
        ("Docker", "system.slice", format!("docker-{ID}.scope"), true),
        (
            "Podman",
            "machine.slice",
            format!("libpod-{ID}.scope"),
            true,
        ),
        (
            "k3s",
            "kubepods-besteffort-pod6d3f2a.slice",
            format!("cri-containerd-{ID}.scope"),
            true,
        ),
        (
            "another pod",
            "kubepods-besteffort-pod111111.slice",
            format!("cri-containerd-{ID}.scope"),
            false,
        ),
        (
            "another scope",
            "machine.slice",
            "libpod-conmon-1.scope".into(),
            false,
        ),
    ];
    let workloads = [
        "docker = /system.slice/docker-4f1f*.scope",
        "podman = /machine.slice/libpod-4f1f*.scope",
        "pod = /kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod6d3f2a.slice/*.scope",
    ];
    let services = workloads.iter().filter_map(|line| line.split_once(" = "));
    let services: String = services
        .map(|(name, glob)| {
            format!(
                "[[service]]\nname = \"{name}\"\nnamespace = \"box\"\nworkload = {{ cgroup = \"{glob}\" }}\n\
                 [[allow]]\nname = \"{name}-pays\"\nfrom = [\"box/{name}\"]\nto = [\"shop/payments\"]\n"
            )
        })
        .collect();
    let (package, _payments) = shop(&format!("{POLICY}{services}"));
    for (manager, slice, scope, known) in &scopes {
        for round in 0..3 {
            let word = in_scope(slice, scope);
            let good = if *known {
                word != "EPERM" && !word.is_empty()
            } else {
                word == "EPERM"
            };
            assert!(good, "{manager}, {round}: {word:?}");
        }
    }
    for service in ["box/docker", "box/podman", "box/pod"] {
        assert_eq!(counted(&package, service, "allowed", 3), 3, "{service}");
    }
}

/// What comes of a call from a scope, which systemd removes with its process.
fn in_scope(slice: &str, scope: &str) -> String {
    let request = serde_json::to_string(&tcp(VIP)).expect("a request");
    let peer = binary();
    let peer = peer.to_str().expect("a path");
    let said = run(
        "systemd-run",
        &[
            "--scope",
            "--quiet",
            "--collect",
            "--slice",
            slice,
            "--unit",
            scope,
            peer,
            "dial",
            &request,
        ],
    );
    let outcomes: Vec<Outcome> = serde_json::from_str(&said).expect("outcomes");
    outcomes
        .first()
        .map(|outcome| outcome.word().to_owned())
        .unwrap_or_default()
}

#[test]
#[ignore = "needs systemd and the package: only for cargo xtask vm --systemd"]
fn a_unit_with_a_network_of_its_own_is_judged_alike() {
    let (package, _payments) = shop(POLICY);
    let private = "PrivateNetwork=yes";
    let intruder = Unit::caller("intruder.service", &tcp(VIP), private);
    assert_eq!(intruder.call(), "EPERM");
    let record = package.denials("dev/intruder").pop().expect("a record");
    assert_eq!(record["rule"], "default");
    // It may, but the endpoints are on the host's loopback, where it cannot get: not to its own.
    let checkout = Unit::caller("checkout.service", &tcp(VIP), private);
    assert_eq!(checkout.call(), "EPERM");
    let record = package.denials("shop/checkout").pop().expect("a record");
    assert_eq!(record["reason"], "no-endpoint");
}

#[test]
#[ignore = "needs systemd and the package: only for cargo xtask vm --systemd"]
fn systemd_may_listen_for_a_service() {
    let policy = POLICY.replace("payments-*.service", "payments-*");
    let (_package, payments) = shop(&policy);
    drop(payments);
    let socket = format!("[Socket]\nListenStream={V1}\n");
    let socket = Unit::new("payments-v1.socket", &socket);
    let server = server("stdin", "v1", "StandardInput=socket");
    let _server = Unit::new("payments-v1.service", &server);
    socket.start();
    let checkout = Unit::caller("checkout.service", &tcp(V1), "");
    let intruder = Unit::caller("intruder.service", &tcp(V1), "");
    assert_eq!(intruder.call(), "EPERM");
    assert_eq!(checkout.call(), "v1", "it was started by this call");
}
