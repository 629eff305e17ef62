//! What somebody with root's rights removes is put back within five seconds, and said.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use mesh_common::Active;
use mesh_sys::{AttachType, detach_link, open_pin};
use mesh_tests::agent::{AgentProcess, log, metric};
use mesh_tests::observe::{status, until};
use mesh_tests::shop::Shop;
use mesh_tests::{Sandbox, host, kernel};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

/// How long the mesh may take to find out and put things back.
const REPAIRED: Duration = Duration::from_secs(5);

fn start(sandbox: &Sandbox) -> AgentProcess {
    AgentProcess::start(sandbox).expect("the agent starts")
}

/// Waits until something was put back and holds again.
fn repaired(sandbox: &Sandbox, what: &str, holds: impl Fn() -> bool) {
    until(REPAIRED, what, || {
        metric(sandbox, "mesh_enforcement_repairs_total", &[]).is_ok_and(|count| count >= 1.0)
            && holds()
    });
    assert!(log(sandbox).contains("CRITICAL"), "{}", log(sandbox));
    let (code, document) = status(sandbox).expect("status");
    assert_eq!(code, Some(0), "{document:#}");
    let said = document["health"]["last_repair"]["what"].as_str();
    assert!(said.is_some_and(|said| said.contains(what)), "{said:?}");
}

fn pins(sandbox: &Sandbox) -> usize {
    let entries = |path: &Path| fs::read_dir(path).map_or(0, Iterator::count);
    let links = sandbox.link_pins();
    entries(&links) + entries(&links.with_file_name("maps"))
}

#[test]
fn pins_that_are_removed_come_back_and_nothing_was_out_of_force() {
    host::run("pins", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let before = (pins(sandbox), kernel::links(sandbox).expect("links"));
        assert!(before.0 > 30);
        fs::remove_dir_all(sandbox.path("bpf/mesh")).expect("removed");
        for _ in 0..50 {
            assert!(kernel::enforces(sandbox).expect("the kernel answers"));
            shop.is_guarded();
        }
        repaired(sandbox, "the pin directory", || pins(sandbox) == before.0);
        assert_eq!(kernel::links(sandbox).expect("links"), before.1);
        // They are good for the next agent.
        agent.kill().expect("killed");
        shop.is_guarded();
        let _next = start(sandbox);
        shop.is_guarded();
    });
}

#[test]
fn a_bpf_file_system_that_is_unmounted_is_mounted_again() {
    host::run("unmounted", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let before = pins(sandbox);
        umount2(&sandbox.path("bpf"), MntFlags::MNT_DETACH).expect("unmounted");
        shop.is_guarded();
        repaired(sandbox, "the pin directory", || pins(sandbox) == before);
        agent.kill().expect("killed");
        shop.is_guarded();
    });
}

#[test]
fn a_link_that_is_detached_is_attached_again() {
    host::run("detached", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        let programs = || {
            let hook = AttachType::BPF_CGROUP_INET4_CONNECT;
            kernel::programs(sandbox, hook)
                .expect("the kernel answers")
                .len()
        };
        for name in ["mesh_connect4", "mesh_ingress"] {
            let link = open_pin(&sandbox.link_pins().join(name)).expect("a link");
            detach_link(link.as_fd()).expect("detached");
        }
        repaired(sandbox, "the program of ingress", || programs() == 1);
        shop.is_guarded();
    });
}

#[test]
fn a_cgroup_that_is_made_again_is_guarded_again() {
    host::run("again", |sandbox| {
        let shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        drop(shop);
        let root = sandbox.cgroup.path().to_owned();
        until(REPAIRED, "the cgroups are empty", || remove_tree(&root));
        sleep(Duration::from_millis(300));
        fs::create_dir(&root).expect("made again");
        let enforces = || kernel::enforces(sandbox).is_ok_and(|enforces| enforces);
        repaired(sandbox, "the program of connect4", enforces);
        let mut shop = Shop::open(sandbox).expect("a shop");
        shop.is_guarded();
    });
}

/// Removes a cgroup and all below it; whether it is gone.
fn remove_tree(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok()
}

#[test]
fn a_policy_that_is_taken_out_of_force_comes_back_and_the_canary_says_so() {
    host::run("canary", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        // Where the agent is as a unit: below the mesh's root.
        let cgroup = sandbox.cgroup.child("system.slice/mesh-agent.service");
        let procs = cgroup.expect("a cgroup").join("cgroup.procs");
        fs::write(procs, agent.pid().to_string()).expect("moved");
        let canary = |expected: &str| {
            let (_, document) = status(sandbox).expect("status");
            document["health"]["canary"] == expected
        };
        until(REPAIRED, "the canary is refused", || canary("refused"));
        let active = MapData::from_pin(sandbox.map_pin("ACTIVE")).expect("a map");
        let mut active: Array<_, Active> = Map::Array(active).try_into().expect("an array");
        active.set(0, Active::default(), 0).expect("written");
        until(REPAIRED, "the canary has failed", || {
            metric(sandbox, "mesh_canary_failures_total", &[]).is_ok_and(|count| count >= 1.0)
        });
        until(REPAIRED, "the canary is refused again", || {
            canary("refused")
        });
        assert!(log(sandbox).contains("CRITICAL"), "{}", log(sandbox));
        shop.is_guarded();
    });
}

#[test]
fn a_stopped_agent_changes_no_verdict() {
    host::run("stopped", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        agent.signal(Signal::SIGSTOP).expect("stopped");
        for _ in 0..200 {
            shop.is_guarded();
        }
        let mut fresh =
            mesh_tests::peer::Peer::spawn(&sandbox.cgroup, "system.slice/intruder.service/new")
                .expect("a peer");
        assert_eq!(mesh_tests::shop::dial(&mut fresh), Err("EPERM".into()));
        agent.signal(Signal::SIGCONT).expect("continued");
        let answers = || status(sandbox).is_ok_and(|(code, _)| code == Some(0));
        until(REPAIRED, "the agent answers", answers);
        shop.is_guarded();
    });
}
