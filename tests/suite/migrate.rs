//! Upgrades over a change of the maps' layout, and builds that do not load.

use std::fs;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use aya::maps::{MapData, hash_map::HashMap};
use mesh_common::ABI_VERSION;
use mesh_sys::pin;
use mesh_tests::agent::{AgentProcess, command, log, metric};
use mesh_tests::peer::{After, Peer};
use mesh_tests::shop::{Shop, to_vip};
use mesh_tests::{Sandbox, host, kernel};
use nix::sys::signal::Signal;

const ALLOWED: &[(&str, &str)] = &[("verdict", "allowed")];

fn start(sandbox: &Sandbox) -> AgentProcess {
    AgentProcess::start(sandbox).expect("the agent starts")
}

fn stop(agent: AgentProcess) {
    agent.signal(Signal::SIGTERM).expect("signalled");
    agent.wait().expect("ended");
}

/// Makes the pins look like those of another version.
fn as_another_version(sandbox: &Sandbox, version: &str) {
    let mesh = sandbox.path("bpf/mesh");
    fs::rename(mesh.join(ABI_VERSION.to_string()), mesh.join(version)).expect("renamed");
}

/// A map of another shape where `name` is pinned.
fn replace_pin(sandbox: &Sandbox, name: &str) {
    let path = sandbox.map_pin(name);
    let other = HashMap::<MapData, u32, [u8; 7]>::create(8, 0).expect("a map");
    fs::remove_file(&path).expect("removed");
    let data = aya::maps::IterableMap::map(&other);
    pin(data.fd().as_fd(), &path).expect("pinned");
}

/// Runs `during` under load, and looks every fifth of a millisecond whether there is a program.
fn without_a_gap(sandbox: &Sandbox, during: impl FnOnce()) {
    let peer = |unit: &str| Peer::spawn(&sandbox.cgroup, unit).expect("a peer");
    let (mut denied, mut allowed) = (
        peer("system.slice/intruder.service"),
        peer("system.slice/checkout.service"),
    );
    let more = &AtomicBool::new(true);
    thread::scope(|scope| {
        let dial = |peer: &mut Peer| peer.dial(to_vip().times(100)).expect("outcomes");
        let refused = scope.spawn(move || {
            let mut wrong = 0;
            while more.load(Ordering::Relaxed) {
                let outcomes = dial(&mut denied);
                wrong += outcomes
                    .iter()
                    .filter(|one| one.errno() != Some("EPERM"))
                    .count();
            }
            wrong
        });
        let answered = scope.spawn(move || {
            let mut wrong = Vec::new();
            while more.load(Ordering::Relaxed) {
                let outcomes = dial(&mut allowed);
                wrong.extend(outcomes.into_iter().filter(|one| one.answered() != "v1"));
            }
            wrong
        });
        let polled = scope.spawn(move || {
            let (mut looks, mut gaps) = (0u64, 0u64);
            while more.load(Ordering::Relaxed) {
                looks += 1;
                gaps += u64::from(!kernel::enforces(sandbox).expect("the kernel answers"));
                sleep(Duration::from_micros(200));
            }
            (looks, gaps)
        });
        sleep(Duration::from_millis(200));
        during();
        sleep(Duration::from_millis(200));
        more.store(false, Ordering::Relaxed);
        let (looks, gaps) = polled.join().expect("no panic");
        assert_eq!(gaps, 0, "in {looks} looks");
        assert!(looks > 200, "{looks} looks");
        assert_eq!(refused.join().expect("no panic"), 0, "wrong allows");
        assert_eq!(answered.join().expect("no panic"), [], "wrong denials");
    });
}

#[test]
fn another_version_is_taken_over_with_its_state_and_without_a_gap() {
    host::run("abi", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        stop(start(sandbox));
        let agent = start(sandbox);
        let held = shop
            .checkout
            .dial(to_vip().times(20).then(After::Keep))
            .expect("held");
        let sockets: Vec<_> = held.iter().filter_map(|outcome| outcome.socket).collect();
        let unused = shop.checkout.open(to_vip().kind).expect("a socket");
        let counted =
            metric(sandbox, "mesh_authorization_decisions_total", ALLOWED).expect("a metric");
        assert!(counted >= 20.0);
        let revision = kernel::policy(sandbox)
            .expect("maps")
            .expect("a policy")
            .revision;
        let links = kernel::links(sandbox).expect("links");
        stop(agent);
        replace_pin(sandbox, "SPLIT_COUNTERS");
        as_another_version(sandbox, "1");
        let mut agent = None;
        without_a_gap(sandbox, || agent = Some(start(sandbox)));

        let now = kernel::links(sandbox).expect("links");
        for (name, link) in &links {
            if !name.starts_with("mesh_cgroup_") {
                assert_eq!(now[name].link, link.link, "{name} keeps its link");
                assert_ne!(now[name].program, link.program, "{name} runs a new program");
            }
        }
        assert!(
            !sandbox.path("bpf/mesh/1").exists(),
            "nothing of the other version is left"
        );
        for hook in kernel::DECIDING {
            assert_eq!(kernel::programs(sandbox, hook).expect("programs").len(), 1);
        }
        let new_revision = kernel::policy(sandbox)
            .expect("maps")
            .expect("a policy")
            .revision;
        assert!(new_revision > revision, "{new_revision} after {revision}");
        let later =
            metric(sandbox, "mesh_authorization_decisions_total", ALLOWED).expect("a metric");
        assert!(later >= counted, "{later} after {counted}");
        assert!(log(sandbox).contains("another shape"), "{}", log(sandbox));

        // Connections live on, and a socket made before is still its maker's.
        let answers = shop
            .checkout
            .exchange(&sockets, "still here")
            .expect("answers");
        assert!(
            answers.iter().all(|answer| answer.answered() == "v1"),
            "{answers:?}"
        );
        let outcome = shop
            .checkout
            .connect(unused, "10.96.0.10:80", "x")
            .expect("an outcome");
        assert_eq!(outcome.answered(), "v1", "{outcome:?}");
        shop.is_guarded();
    });
}

#[test]
fn a_build_that_does_not_load_leaves_the_old_one_in_force() {
    host::run("noload", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        stop(start(sandbox));
        let before = kernel::links(sandbox).expect("links");
        // The new build's programs do not fit a map that is pinned: the verifier refuses them.
        let path = sandbox.map_pin("COUNTERS");
        let good = mesh_sys::open_pin(&path).expect("a map");
        replace_pin(sandbox, "COUNTERS");
        without_a_gap(sandbox, || {
            let refused = command(sandbox, &["run"]).expect("it runs");
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(1), "{said}");
        });
        for (name, link) in kernel::links(sandbox).expect("links") {
            if !name.starts_with("mesh_cgroup_") {
                assert_eq!(link, before[&name], "{name}");
            }
        }
        shop.is_guarded();
        fs::remove_file(&path).expect("removed");
        pin(good.as_fd(), &path).expect("pinned");
        let _agent = start(sandbox);
        shop.is_guarded();
    });
}
