//! The running agent has given up what it does not need, and still does its work.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use mesh_tests::agent::AgentProcess;
use mesh_tests::host;
use mesh_tests::manager::Manager;
use mesh_tests::observe::{status, until};
use mesh_tests::shop::Shop;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Bits of capabilities (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const DAC_READ_SEARCH: u64 = 1 << 2;
const BPF: u64 = 1 << 39;

/// What the kernel says of a process or thread.
fn told(path: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{path}/status")).expect("it runs");
    let fields = text.lines().filter_map(|line| line.split_once(":\t"));
    fields
        .map(|(name, value)| (name.into(), value.trim().into()))
        .collect()
}

fn set(told: &BTreeMap<String, String>, name: &str) -> u64 {
    u64::from_str_radix(&told[name], 16).expect("a set of capabilities")
}

/// Whether a process or thread is confined to these capabilities.
#[track_caller]
fn is_confined(path: &str, capabilities: u64) {
    let told = told(path);
    assert_eq!(told["NoNewPrivs"], "1", "{path}");
    assert_eq!(told["Seccomp"], "2", "{path}");
    for name in ["CapInh", "CapAmb"] {
        assert_eq!(set(&told, name), 0, "{path} {name}");
    }
    for name in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(set(&told, name), capabilities, "{path} {name}");
    }
}

/// The only child of a process.
fn child(pid: u32) -> u32 {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(path).expect("it runs");
    children.trim().parse().expect("one child")
}

fn threads(pid: u32) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let names = threads.flatten().map(|entry| entry.file_name());
    names.map(|name| name.to_string_lossy().into()).collect()
}

#[test]
fn every_thread_keeps_two_capabilities_and_the_usher_four() {
    host::run("confined", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = AgentProcess::start(sandbox).expect("the agent starts");
        shop.is_guarded();
        let pid = agent.pid();
        let all = threads(pid);
        assert!(all.len() > 4, "{all:?}");
        for thread in all {
            is_confined(&format!("{pid}/task/{thread}"), BPF | NET_ADMIN);
        }
        let usher = child(pid);
        is_confined(
            &usher.to_string(),
            SYS_ADMIN | SYS_PTRACE | DAC_READ_SEARCH | NET_ADMIN,
        );
        let (code, document) = status(sandbox).expect("status");
        assert_eq!(code, Some(0), "{document:#}");
        let said = &document["sandbox"];
        assert_eq!(said["system_calls"], true, "{said}");
        assert_eq!(
            said["capabilities"],
            serde_json::json!(["CAP_BPF", "CAP_NET_ADMIN"])
        );
        // What it takes counts against the ceiling.
        let counted = document["memory"]["usher_bytes"].as_u64();
        let own = &told(&usher.to_string())["RssAnon"];
        let own: u64 = own.trim_end_matches(" kB").parse().expect("a number");
        let counted = counted.expect("a number");
        assert!(
            counted > 0 && counted.abs_diff(own << 10) <= 256 << 10,
            "{counted}, {own} kB"
        );
        // Neither outlives the agent.
        agent.kill().expect("killed");
        until(Duration::from_secs(5), "the usher ends", || {
            fs::metadata(format!("/proc/{usher}")).is_err()
        });
    });
}

#[test]
fn an_agent_is_not_killed_with_its_usher_and_says_what_it_lacks() {
    host::run("usherless", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = AgentProcess::start(sandbox).expect("the agent starts");
        let usher = Pid::from_raw(child(agent.pid()) as i32);
        nix::sys::signal::kill(usher, Signal::SIGKILL).expect("killed");
        sandbox
            .write_policy("99-more.toml", "# nothing")
            .expect("written");
        until(Duration::from_secs(10), "it is said", || {
            status(sandbox).is_ok_and(|(_, document)| document["live"]["netns_unreached"] != 0)
        });
        shop.is_guarded();
    });
}

/// How often the watchdog has been fed.
fn fed(manager: &Manager) -> usize {
    manager.said("WATCHDOG=1")
}

#[test]
fn the_watchdog_is_fed_while_every_thread_that_carries_calls_answers() {
    host::run("watchdog", |sandbox| {
        let manager = Manager::new(sandbox.path("notify")).expect("a manager");
        let agent = manager.start(sandbox).expect("the agent starts");
        until(Duration::from_secs(10), "it is fed", || fed(&manager) > 1);
        let pid = agent.pid();
        let named = |name: &str| {
            let is_it = |thread: &String| {
                let path = format!("/proc/{pid}/task/{thread}/comm");
                fs::read_to_string(path).is_ok_and(|found| found.trim() == name)
            };
            let thread = threads(pid).into_iter().find(is_it).expect("a thread");
            Pid::from_raw(thread.parse().expect("an id"))
        };
        let worker = named("tunnel-0");
        ptrace::seize(worker, ptrace::Options::empty()).expect("seized");
        ptrace::interrupt(worker).expect("interrupted");
        waitpid(worker, Some(WaitPidFlag::__WALL)).expect("stopped");
        // One may be on its way.
        sleep(Duration::from_secs(4));
        let before = fed(&manager);
        sleep(Duration::from_secs(6));
        assert_eq!(fed(&manager), before, "fed although a worker stands still");
        let (code, _) = status(sandbox).expect("the rest of it runs");
        assert_eq!(code, Some(0));
        ptrace::detach(worker, None).expect("let go");
        until(Duration::from_secs(10), "it is fed again", || {
            fed(&manager) > before
        });
    });
}
