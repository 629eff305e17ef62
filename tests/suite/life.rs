//! The life of the data plane: it outlives the agent, and only `unload` ends it.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use mesh_tests::agent::{AgentProcess, binary, command, get, log};
use mesh_tests::observe::{NOTICE, status, until};
use mesh_tests::peer::{After, Dial, Peer};
use mesh_tests::shop::{self, FILE, OPEN, POLICY, Shop, dial, to_vip};
use mesh_tests::{Sandbox, host, kernel};
use nix::sys::signal::Signal;

fn start(sandbox: &Sandbox) -> AgentProcess {
    AgentProcess::start(sandbox).expect("the agent starts")
}

/// Starts the agent and waits until it enforces: without a policy of its own it is never ready.
fn spawn(sandbox: &Sandbox) -> AgentProcess {
    let agent = AgentProcess::spawn(sandbox).expect("the agent starts");
    until(NOTICE, "the agent answers", || {
        get(sandbox, "/healthz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    agent
}

#[test]
fn a_second_agent_refuses_to_start_and_disturbs_nobody() {
    host::run("second", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let first = start(sandbox);
        let links = kernel::links(sandbox).expect("links");
        let second = command(sandbox, &["run"]).expect("it runs");
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        assert_eq!(second.status.code(), Some(1), "{said}");
        assert!(said.contains("another agent"), "{said}");
        assert!(said.contains("change") || said.contains("stop"), "{said}");

        // With an admin address and a directory of its own only the pins are contended.
        let settings = fs::read_to_string(sandbox.agent_toml()).expect("settings");
        let other = sandbox.path("other.toml");
        let port = sandbox.admin().port().to_string();
        let settings = settings
            .replace(&format!(":{port}"), ":0")
            .replace("/run\"", "/other-run\"");
        fs::write(&other, settings).expect("written");
        let second = Command::new(binary())
            .args(["run", "--config"])
            .arg(&other)
            .env("NO_COLOR", "1")
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        assert_eq!(second.status.code(), Some(1), "{said}");
        assert!(said.contains("stop it first"), "{said}");

        assert_eq!(
            status(sandbox).expect("status").0,
            Some(0),
            "the first still answers"
        );
        assert_eq!(kernel::links(sandbox).expect("links"), links);
        shop.is_guarded();
        drop(first);
    });
}

/// Dials in batches until `attempts` are made; how many were not as `right` says.
fn wrong(
    mut peer: Peer,
    attempts: &AtomicU64,
    at_least: u64,
    more: &AtomicBool,
    right: Result<&str, &str>,
) -> u64 {
    const BATCH: u32 = 500;
    let (mut made, mut wrong) = (0, 0);
    while made < at_least || more.load(Ordering::Relaxed) {
        let mut batch = to_vip().times(BATCH);
        if right.is_err() {
            batch.payload.clear();
        }
        for outcome in peer.dial(batch).expect("outcomes") {
            let was = match outcome.errno() {
                Some(errno) => Err(errno),
                None => Ok(outcome.answered()),
            };
            if was != right {
                wrong += 1;
                eprintln!("{was:?} instead of {right:?}: {outcome:?}");
            }
        }
        made += u64::from(BATCH);
        attempts.fetch_add(u64::from(BATCH), Ordering::Relaxed);
    }
    wrong
}

#[test]
fn killed_under_load_it_changes_no_verdict_and_cuts_nothing() {
    host::run_for(Duration::from_secs(150), "killed", |sandbox| {
        const DENIED: u64 = 70_000;
        const ALLOWED: u64 = 30_000;
        let mut shop = Shop::open(sandbox).expect("a shop");
        let mut agent = Some(start(sandbox));
        let held = shop
            .checkout
            .dial(to_vip().times(50).then(After::Keep))
            .expect("connections");
        let sockets: Vec<_> = held.iter().filter_map(|outcome| outcome.socket).collect();
        assert_eq!(sockets.len(), 50);
        let peer = |unit: &str| Peer::spawn(&sandbox.cgroup, unit).expect("a peer");
        let (denied, allowed) = (
            peer("system.slice/intruder.service"),
            peer("system.slice/checkout.service"),
        );
        let (attempts, more) = (AtomicU64::new(0), AtomicBool::new(true));
        let (attempts, more) = (&attempts, &more);
        let counts = thread::scope(|scope| {
            let denied = scope.spawn(move || wrong(denied, attempts, DENIED, more, Err("EPERM")));
            let allowed = scope.spawn(move || wrong(allowed, attempts, ALLOWED, more, Ok("v1")));
            for _ in 0..4 {
                sleep(Duration::from_millis(700));
                agent.take().expect("running").kill().expect("killed");
                sleep(Duration::from_millis(700));
                agent = Some(start(sandbox));
            }
            more.store(false, Ordering::Relaxed);
            [denied, allowed].map(|thread| thread.join().expect("no panic"))
        });
        assert_eq!(counts, [0, 0], "wrong among the denied and the allowed");
        let attempts = attempts.load(Ordering::Relaxed);
        assert!(attempts >= DENIED + ALLOWED, "{attempts} attempts");
        let answers = shop
            .checkout
            .exchange(&sockets, "still here")
            .expect("answers");
        assert!(
            answers.iter().all(|answer| answer.answered() == "v1"),
            "{answers:?}"
        );
    });
}

#[test]
fn restarts_leave_no_instant_without_enforcement() {
    host::run("restart", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let mut agent = Some(start(sandbox));
        let intruder =
            Peer::spawn(&sandbox.cgroup, "system.slice/intruder.service").expect("a peer");
        let (attempts, more) = (AtomicU64::new(0), AtomicBool::new(true));
        let (attempts, more) = (&attempts, &more);
        let (polls, gaps, wrong) = thread::scope(|scope| {
            let denied = scope.spawn(move || wrong(intruder, attempts, 0, more, Err("EPERM")));
            let polled = scope.spawn(move || {
                let (mut polls, mut gaps) = (0u64, 0u64);
                while more.load(Ordering::Relaxed) {
                    polls += 1;
                    gaps += u64::from(!kernel::enforces(sandbox).expect("the kernel answers"));
                    sleep(Duration::from_micros(200));
                }
                (polls, gaps)
            });
            for signal in [
                Signal::SIGTERM,
                Signal::SIGKILL,
                Signal::SIGTERM,
                Signal::SIGKILL,
            ] {
                let running = agent.take().expect("running");
                running.signal(signal).expect("signalled");
                running.wait().expect("ended");
                agent = Some(start(sandbox));
            }
            more.store(false, Ordering::Relaxed);
            let (polls, gaps) = polled.join().expect("no panic");
            (polls, gaps, denied.join().expect("no panic"))
        });
        assert_eq!((gaps, wrong), (0, 0), "in {polls} looks");
        assert!(polls > 200, "{polls} looks");
        shop.is_guarded();
    });
}

#[test]
fn sigterm_ends_the_agent_and_not_the_enforcement() {
    host::run("sigterm", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let held = shop
            .checkout
            .dial(to_vip().then(After::Keep))
            .expect("held");
        let links = kernel::links(sandbox).expect("links");
        agent.signal(Signal::SIGTERM).expect("signalled");
        let asked = Instant::now();
        assert_eq!(agent.wait().expect("ended"), Some(0));
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "{:?}",
            asked.elapsed()
        );
        assert_eq!(kernel::links(sandbox).expect("links"), links);
        shop.is_guarded();
        let socket = held[0].socket.expect("held");
        let answers = shop
            .checkout
            .exchange(&[socket], "still here")
            .expect("answers");
        assert_eq!(answers[0].answered(), "v1");
        assert_eq!(
            status(sandbox).expect("status").0,
            Some(4),
            "nobody answers"
        );
    });
}

#[test]
fn unload_removes_everything_and_only_without_an_agent() {
    host::run("unload", |sandbox| {
        let nothing = command(sandbox, &["unload"]).expect("it runs");
        assert_eq!(
            nothing.status.code(),
            Some(0),
            "nothing to unload is no error"
        );

        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let refused = command(sandbox, &["unload"]).expect("it runs");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("stop it first"), "{said}");
        shop.is_guarded();

        let around = Dial::tcp(shop::ENDPOINT.parse().expect("an address"));
        let denied = shop.intruder.dial_once(around.clone()).expect("an outcome");
        assert_eq!(denied.errno(), Some("EPERM"));
        agent.signal(Signal::SIGTERM).expect("signalled");
        agent.wait().expect("ended");
        let unloaded = command(sandbox, &["unload"]).expect("it runs");
        assert_eq!(unloaded.status.code(), Some(0));
        assert!(!sandbox.path("bpf/mesh").exists(), "no pin is left");
        assert!(!kernel::enforces(sandbox).expect("the kernel answers"));
        let open = shop.intruder.dial_once(around).expect("an outcome");
        assert_eq!(open.answered(), "v1", "{open:?}");
        let again = command(sandbox, &["unload"]).expect("it runs");
        assert_eq!(again.status.code(), Some(0));
    });
}

#[test]
fn enforcement_can_be_ended_when_the_settings_are_broken() {
    host::run("unloadbad", |sandbox| {
        let _shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        agent.signal(Signal::SIGTERM).expect("signalled");
        agent.wait().expect("ended");
        let settings = fs::read_to_string(sandbox.agent_toml()).expect("settings");
        for broken in ["[flows]\nupdates = \"lots\"\n", "[flows]\nupdates = \n"] {
            fs::write(sandbox.agent_toml(), format!("{settings}{broken}")).expect("written");
            let loaded = command(sandbox, &["load"]).expect("it runs");
            assert_eq!(loaded.status.code(), Some(3), "nothing is enforced by it");
        }
        assert!(kernel::enforces(sandbox).expect("the kernel answers"));
        let unloaded = command(sandbox, &["unload"]).expect("it runs");
        let said = String::from_utf8_lossy(&unloaded.stderr).into_owned();
        assert_eq!(unloaded.status.code(), Some(0), "{said}");
        assert!(said.contains("agent.toml"), "{said}");
        assert!(!kernel::enforces(sandbox).expect("the kernel answers"));
        // What is there may be elsewhere.
        let nothing = command(sandbox, &["unload"]).expect("it runs");
        let said = String::from_utf8_lossy(&nothing.stderr).into_owned();
        assert_eq!(nothing.status.code(), Some(1), "{said}");
        assert!(said.contains("mend them"), "{said}");
    });
}

#[test]
fn with_broken_files_the_last_good_policy_is_enforced() {
    host::run("lastgood", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        agent.signal(Signal::SIGTERM).expect("signalled");
        agent.wait().expect("ended");
        // A boot: nothing is left in the kernel.
        command(sandbox, &["unload"]).expect("it runs");
        sandbox.write_policy(FILE, "[[service]\n").expect("written");
        let _agent = start(sandbox);
        shop.is_guarded();
        let (code, document) = status(sandbox).expect("status");
        assert_eq!(code, Some(5), "{document:#}");
        let metrics = get(sandbox, "/metrics").expect("metrics");
        assert!(
            metrics.contains("\nmesh_policy_last_reload_successful 0\n"),
            "{metrics}"
        );
        sandbox
            .write_policy(FILE, &format!("{POLICY}{OPEN}"))
            .expect("written");
        until(NOTICE, "the mended files are applied", || {
            dial(&mut shop.intruder).is_ok()
        });
        assert_eq!(status(sandbox).expect("status").0, Some(0));
    });
}

#[test]
fn at_boot_the_policy_is_there_before_the_agent() {
    host::run("boot", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let refused = command(sandbox, &["load"]).expect("it runs");
        assert_eq!(refused.status.code(), Some(1), "there is an agent");
        agent.signal(Signal::SIGTERM).expect("signalled");
        agent.wait().expect("ended");
        // A boot: nothing is left in the kernel, and somebody has broken the files.
        command(sandbox, &["unload"]).expect("it runs");
        assert!(!kernel::enforces(sandbox).expect("the kernel answers"));
        sandbox.write_policy(FILE, "[[service]\n").expect("written");
        let loaded = command(sandbox, &["load"]).expect("it runs");
        let said = String::from_utf8_lossy(&loaded.stderr).into_owned();
        assert_eq!(loaded.status.code(), Some(0), "{said}");
        shop.is_guarded();
        let unit = "system.slice/checkout.service/later";
        let mut later = Peer::spawn(&sandbox.cgroup, unit).expect("a peer");
        assert_eq!(dial(&mut later), Ok("v1".into()));
        // The agent goes on with what is there.
        let names = |sandbox| kernel::links(sandbox).expect("links").into_keys();
        let before: Vec<_> = names(sandbox).collect();
        sandbox.write_policy(FILE, POLICY).expect("written");
        let _agent = start(sandbox);
        assert_eq!(names(sandbox).collect::<Vec<_>>(), before);
        shop.is_guarded();
    });
}

#[test]
fn with_broken_files_and_nothing_else_it_does_not_start() {
    host::run("nothing", |sandbox| {
        sandbox
            .write_policy(FILE, "[mesh]\ndefault = deny\n")
            .expect("written");
        let refused = command(sandbox, &["run"]).expect("it runs");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(3), "{said}");
        assert!(said.contains("10-shop.toml:2"), "{said}");
        assert!(!kernel::enforces(sandbox).expect("the kernel answers"));
        let cgroup_hooks = kernel::links(sandbox).expect("links");
        let hooked: Vec<_> = cgroup_hooks
            .keys()
            .filter(|name| !name.starts_with("mesh_cgroup_"))
            .collect();
        assert_eq!(hooked, [""; 0], "nothing is attached");
    });
}

#[test]
fn with_broken_files_and_pins_only_the_verdicts_stay() {
    host::run("pinsonly", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        start(sandbox).kill().expect("killed");
        fs::remove_dir_all(sandbox.path("state")).expect("removed");
        sandbox.write_policy(FILE, "[[service]\n").expect("written");
        let before = kernel::policy(sandbox).expect("a header");
        let _agent = spawn(sandbox);
        shop.is_guarded();
        assert_eq!(kernel::policy(sandbox).expect("a header"), before);
        assert!(log(sandbox).contains("policy an earlier agent put in force stays"));
        assert_eq!(status(sandbox).expect("status").0, Some(5));

        // A new cgroup of a known service is known, of a policy this agent has never read.
        let unit = "system.slice/checkout.service/later";
        let mut later = Peer::spawn(&sandbox.cgroup, unit).expect("a peer");
        assert_eq!(dial(&mut later), Ok("v1".into()));

        sandbox.write_policy(FILE, POLICY).expect("written");
        until(NOTICE, "the mended files are applied", || {
            status(sandbox).is_ok_and(|(code, _)| code == Some(0))
        });
        shop.is_guarded();
    });
}

#[test]
fn an_upgrade_swaps_the_programs_of_the_same_links() {
    host::run("upgrade", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let old = kernel::links(sandbox).expect("links");
        assert!(old.len() >= 10, "{old:?}");
        agent.signal(Signal::SIGTERM).expect("signalled");
        agent.wait().expect("ended");
        let _agent = start(sandbox);
        let new = kernel::links(sandbox).expect("links");
        assert!(old.keys().eq(new.keys()), "{old:?} {new:?}");
        for (name, old) in &old {
            let new = new[name];
            assert_ne!(old.program, new.program, "{name} runs a new program");
            // Links of tracepoints cannot be updated: a new one takes the old one's place.
            if !name.starts_with("mesh_cgroup_") {
                assert_eq!(old.link, new.link, "{name} keeps its link");
            }
        }
        for hook in kernel::DECIDING {
            assert_eq!(kernel::programs(sandbox, hook).expect("programs").len(), 1);
        }
        shop.is_guarded();
    });
}
