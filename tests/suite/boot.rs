//! A machine with the package is booted again: nobody gets in whom the policy denies, from the first
//! process on.
//!
//! Only in a guest of `cargo xtask vm --systemd`, which boots the same machine twice.

use mesh_tests::guest;
use mesh_tests::names::tcp;
use mesh_tests::package::Package;
use mesh_tests::shop::{ENDPOINT, FILE, POLICY, VIP};
use mesh_tests::systemd::{Unit, probed, prober, property, run, server, wait_until};

/// Calls after the boot of each kind.
const CALLS: u64 = 200;

/// The machine gets the package, the policy and units that start with it.
fn first_boot() {
    let package = Package::keep();
    package.write_policy(FILE, POLICY);
    let intruder = Unit::caller("intruder.service", &tcp(VIP), "");
    wait_until("enforced", || intruder.call() == "EPERM");
    drop(intruder);
    let normal = "[Unit]\nAfter=payments.service\n[Install]\nWantedBy=multi-user.target";
    Unit::install(
        "payments.service",
        &server(
            ENDPOINT,
            "v1",
            &normal.replace("After=payments.service", ""),
        ),
    );
    let checkout = prober("checkout.service", &tcp(VIP), normal);
    Unit::install("checkout.service", &checkout);
    let intruder = prober("intruder.service", &tcp(ENDPOINT), normal);
    Unit::install("intruder.service", &intruder);
    // Waits for nothing at all.
    let early = "[Unit]\nDefaultDependencies=no\n[Install]\nWantedBy=sysinit.target";
    let early = prober("intruder-early.service", &tcp(ENDPOINT), early);
    Unit::install("intruder-early.service", &early);
}

fn second_boot() {
    let package = Package::keep();
    package.is_running();
    let calls = |unit| probed(unit).values().sum::<u64>();
    for unit in [
        "checkout.service",
        "intruder.service",
        "intruder-early.service",
    ] {
        wait_until("called often", || calls(unit) > CALLS);
        println!("{unit}: {:?}", probed(unit));
    }
    let kinds = |unit| probed(unit).into_keys().collect::<Vec<_>>();
    assert_eq!(kinds("checkout.service"), ["v1"]);
    assert_eq!(kinds("intruder.service"), ["EPERM"]);
    // Before the policy is there, nobody is there who answers.
    assert!(!kinds("intruder-early.service").contains(&"v1".to_owned()));
    let since = |unit| -> u64 {
        let since = property(unit, "ActiveEnterTimestampMonotonic");
        since.parse().expect("a time")
    };
    let loaded = since("mesh-load.service");
    assert!(loaded < since("payments.service"));
    assert!(loaded < since("dbus.service"), "ordered before services");
    run("systemctl", &["is-system-running", "--wait"]);
}

#[test]
#[ignore = "needs a machine that is booted twice: only for cargo xtask vm --systemd"]
fn after_a_boot_nobody_gets_in_whom_the_policy_denies() {
    guest::systemd_required().expect("a guest");
    if Package::is_installed() {
        second_boot();
    } else {
        first_boot();
    }
}
