//! The Debian package: installed, upgraded, downgraded, removed, purged, on a machine with systemd.
//!
//! Only in a guest of `cargo xtask vm --systemd`, where nobody else is.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use mesh_sys::effective_programs;
use mesh_tests::names::tcp;
use mesh_tests::package::{CURRENT, NEWER, Package, apt, inventory};
use mesh_tests::patience::scaled;
use mesh_tests::shop::{ENDPOINT, FILE, POLICY, VIP};
use mesh_tests::systemd::{Unit, attempt, probed, property, run};
use mesh_tests::{cgroup, guest, kernel};
use serde_json::Value;

/// The least number of calls that tell something about an upgrade.
const CALLS: u64 = 100;

fn policy() -> String {
    format!("[mesh]\ndefault = \"deny\"\n{POLICY}")
}

/// Whether programs of whomever act on the whole machine.
fn is_enforced() -> bool {
    let root = File::open(cgroup::mount_point().expect("cgroup2")).expect("the root");
    let programs = |hook| effective_programs(root.as_fd(), hook).expect("the kernel answers");
    kernel::DECIDING
        .into_iter()
        .any(|hook| !programs(hook).is_empty())
}

/// Waits until a call fails with EPERM: for a second, or what that is here.
#[track_caller]
fn denied_soon(caller: &Unit) {
    let limit = scaled(Duration::from_secs(1));
    let started = Instant::now();
    while caller.call() != "EPERM" {
        assert!(started.elapsed() < limit, "not enforced within {limit:?}");
    }
    println!("enforced after {:?}", started.elapsed());
}

#[test]
#[ignore = "installs the package: only for cargo xtask vm --systemd"]
fn a_clean_machine_gets_it_and_is_clean_again_after_a_purge() {
    guest::systemd_required().expect("a guest");
    let before = inventory();
    let package = Package::install();
    doctor_is_green();
    let _payments = Unit::server("payments.service", ENDPOINT, "v1");
    let intruder = Unit::caller("intruder.service", &tcp(ENDPOINT), "");
    let checkout = Unit::caller("checkout.service", &tcp(VIP), "");
    assert_eq!(intruder.call(), "v1", "nothing is declared yet");
    package.write_policy(FILE, &policy());
    denied_soon(&intruder);
    assert_eq!(checkout.call(), "v1");
    is_recorded(&package);
    package.is_running();

    let said = apt("remove", "mesh-agent");
    let warns = |line: &str| line.starts_with("mesh-agent:") && line.contains("enforcement");
    assert!(said.lines().any(warns), "{said}");
    assert!(!is_enforced());
    assert_eq!(intruder.call(), "v1");
    assert_eq!(attempt("pidof", &["mesh-agent"]).1, "");
    // What the administrator wrote outlives the package.
    assert!(Path::new("/etc/mesh/conf.d").join(FILE).exists());

    drop((_payments, intruder, checkout, package));
    let after = inventory();
    assert_eq!(
        after.difference(&before).collect::<Vec<_>>(),
        [""; 0],
        "left behind"
    );
    let units = run(
        "systemctl",
        &["list-units", "--all", "--no-legend", "mesh-*"],
    );
    assert_eq!(units, "");
}

fn doctor_is_green() {
    let (good, said) = attempt("mesh-agent", &["doctor", "-o", "json"]);
    let doctor: Value = serde_json::from_str(&said).expect("a document");
    let checks = doctor["checks"].as_array().expect("checks").iter();
    let bad = checks.filter(|check| check["outcome"] != "ok" && check["outcome"] != "info");
    assert_eq!(bad.collect::<Vec<_>>(), [&Value::Null; 0]);
    assert!(good && doctor["ok"] == true, "{said}");
}

/// Panics unless the latest denial tells who was denied and by what.
fn is_recorded(package: &Package) {
    let records = package.denials("dev/intruder");
    let record = records.last().expect("a record of the denial");
    assert_eq!(record["rule"], "default");
    assert_eq!(record["file"], FILE);
    assert_eq!(record["line"], 2);
    assert_eq!(record["cgroup"], "/system.slice/intruder.service");
}

#[test]
#[ignore = "installs the package: only for cargo xtask vm --systemd"]
fn upgrade_and_downgrade_keep_enforcement_on_throughout() {
    guest::systemd_required().expect("a guest");
    let package = Package::keep();
    package.write_policy(FILE, &policy());
    let _payments = Unit::server("payments.service", ENDPOINT, "v1");
    let first = Unit::caller("intruder.service", &tcp(VIP), "");
    denied_soon(&first);
    drop(first);
    let probers = [
        Unit::prober("checkout.service", &tcp(VIP)),
        Unit::prober("intruder.service", &tcp(ENDPOINT)),
    ];
    let old = package.version();
    for (file, newer) in [(NEWER, true), (CURRENT, false)] {
        let calls = || ["checkout.service", "intruder.service"].map(calls_of);
        let before = calls();
        let agent = property("mesh-agent.service", "MainPID");
        apt("install", file);
        package.is_running();
        assert_eq!(package.version() != old, newer, "after {old}");
        let now = property("mesh-agent.service", "MainPID");
        assert_ne!(now, agent, "the old agent runs on");
        for (calls, before) in calls().into_iter().zip(before) {
            assert!(calls - before >= CALLS, "{} calls", calls - before);
        }
    }
    for (unit, only) in [("checkout.service", "v1"), ("intruder.service", "EPERM")] {
        let seen = probed(unit);
        println!("{unit}: {seen:?}");
        assert_eq!(seen.keys().collect::<Vec<_>>(), [only], "{unit}: {seen:?}");
    }
    drop(probers);
}

fn calls_of(unit: &str) -> u64 {
    probed(unit).values().sum()
}
