//! The agent is restarted: new calls wait for the next one, whose listening sockets the service
//! manager has kept.

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use mesh_tests::hosts::Host;
use mesh_tests::manager::Manager;
use mesh_tests::names::{CHECKOUT, VIP, address};
use mesh_tests::nodes::*;
use mesh_tests::observe::until;
use mesh_tests::patience::scaled;
use mesh_tests::peer::{Dial, Kind, Outcome, Peer, Socket};
use mesh_tests::{AgentProcess, host};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How long there is no agent.
const AWAY: Duration = Duration::from_millis(700);
/// How long a call may wait for the next one.
const PATIENCE: Duration = Duration::from_secs(20);
/// Calls that wait: enough for each listener to have some.
const MANY: usize = 24;

/// Two nodes, and a service manager for one of them.
fn managed(which: fn(&mut Nodes) -> &mut Host) -> (Nodes, Manager) {
    let mut mesh = Nodes::start();
    let host = which(&mut mesh);
    let manager = Manager::new(host.sandbox.path("notify")).expect("a manager");
    drop(host.agent.take());
    start(host, &manager);
    until(Duration::from_secs(10), "calls are taken", || {
        call(&mut mesh.checkout) == Ok("v2".into())
    });
    (mesh, manager)
}

fn here(mesh: &mut Nodes) -> &mut Host {
    &mut mesh.here
}

fn there(mesh: &mut Nodes) -> &mut Host {
    &mut mesh.there
}

fn start(host: &mut Host, manager: &Manager) {
    let agent = host
        .namespace
        .run(|| Ok(manager.start(&host.sandbox)?))
        .expect("the agent starts");
    host.agent = Some(agent);
}

fn agent(host: &mut Host) -> AgentProcess {
    host.agent.take().expect("an agent")
}

fn terminate(host: &mut Host) {
    let agent = agent(host);
    agent.signal(Signal::SIGTERM).expect("signalled");
    assert_eq!(agent.wait().expect("ended"), Some(0));
}

/// A caller that dials again and again: when, how long it took, and what came of it.
struct Caller {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<(Instant, Duration, Outcome)>>,
}

impl Caller {
    fn start(mut peer: Peer) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut calls = Vec::new();
            while !told.load(Ordering::Relaxed) {
                let began = Instant::now();
                let outcome = peer.dial_once(patient()).expect("an outcome");
                calls.push((began, began.elapsed(), outcome));
            }
            calls
        });
        Self { stop, thread }
    }

    fn stop(self) -> Vec<(Instant, Duration, Outcome)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("calls")
    }
}

fn patient() -> Dial {
    Dial {
        patience: scaled(PATIENCE),
        ..Dial::tcp(address(VIP))
    }
}

/// Connections that are made and say nothing yet.
fn connect(peer: &mut Peer, count: usize) -> Vec<Socket> {
    let one = |_| {
        let socket = peer.open(Kind::default()).expect("a socket");
        let outcome = peer.connect(socket, VIP, "").expect("an outcome");
        assert_eq!(outcome.failure, None, "a call waits: {outcome:?}");
        socket
    };
    (0..count).map(one).collect()
}

/// Panics unless each connection is answered.
#[track_caller]
fn are_answered(peer: &mut Peer, sockets: &[Socket], log: &str) {
    let outcomes = peer.exchange(sockets, "x").expect("outcomes");
    assert_eq!(outcomes.len(), sockets.len());
    for outcome in &outcomes {
        assert_eq!(outcome.answered(), "v2", "{outcome:?}\n{log}");
    }
}

fn calls_outlast_a_restart(which: fn(&mut Nodes) -> &mut Host) {
    let (mut mesh, manager) = managed(which);
    let caller = Caller::start(mesh.here.peer(CHECKOUT));
    sleep(Duration::from_millis(300));
    terminate(which(&mut mesh));
    let gone = Instant::now();
    sleep(AWAY);
    start(which(&mut mesh), &manager);
    sleep(Duration::from_millis(300));
    let calls = caller.stop();
    let log = [mesh.here.log(), mesh.there.log()].concat();
    for (_, took, outcome) in &calls {
        assert_eq!(outcome.answered(), "v2", "{took:?} {outcome:?}\n{log}");
        assert_eq!(outcome.failure, None, "{took:?}\n{log}");
    }
    assert!(calls.iter().any(|(began, ..)| *began < gone));
    let waited = |(_, took, _): &&(Instant, Duration, Outcome)| *took >= AWAY;
    assert_eq!(calls.iter().filter(waited).count(), 1, "{calls:?}");
}

#[test]
fn calls_to_other_nodes_wait_for_the_next_agent() {
    host::run("restart-calls", |_| calls_outlast_a_restart(here));
}

#[test]
fn calls_of_other_nodes_wait_for_the_next_agent() {
    host::run("restart-peers", |_| calls_outlast_a_restart(there));
}

#[test]
fn all_that_waits_is_served_by_the_next_agent_with_more_or_fewer_workers() {
    host::run("restart-workers", |_| {
        let (mut mesh, manager) = managed(here);
        let all = sched_getaffinity(Pid::from_raw(0)).expect("cores");
        let mut first = CpuSet::new();
        let cores = (0..CpuSet::count()).filter(|core| all.is_set(*core).unwrap_or(false));
        let core = cores.take(1).next().expect("a core");
        first.set(core).expect("a core");
        let before = manager.names();
        for cores in [&first, &all, &all] {
            terminate(&mut mesh.here);
            let waiting = connect(&mut mesh.checkout, MANY);
            let pinned = mesh.here.namespace.run(|| {
                sched_setaffinity(Pid::from_raw(0), cores)?;
                Ok(manager.start(&mesh.here.sandbox)?)
            });
            mesh.here.agent = Some(pinned.expect("the agent starts"));
            are_answered(&mut mesh.checkout, &waiting, &mesh.here.log());
            let close: () = mesh
                .checkout
                .ask(&mesh_tests::peer::Request::Close(waiting))
                .expect("closed");
            let () = close;
            mesh.is_open();
        }
        assert_eq!(manager.names(), before, "none too many and none lost");
    });
}

#[test]
fn new_calls_wait_for_the_next_agent_when_one_is_killed_and_flows_end() {
    host::run("restart-kill", |_| {
        let (mut mesh, manager) = managed(here);
        let flow = keep(&mut mesh.checkout);
        agent(&mut mesh.here).kill().expect("killed");
        assert!(!is_alive(&mut mesh.checkout, flow), "it went through it");
        let waiting = connect(&mut mesh.checkout, MANY);
        let caller = Caller::start(mesh.here.peer(CHECKOUT));
        sleep(AWAY);
        start(&mut mesh.here, &manager);
        are_answered(&mut mesh.checkout, &waiting, &mesh.here.log());
        for (_, took, outcome) in caller.stop() {
            assert_eq!(outcome.answered(), "v2", "{took:?} {outcome:?}");
        }
    });
}

#[test]
fn listeners_of_a_namespace_that_is_gone_are_kept_no_longer() {
    host::run("restart-namespaces", |_| {
        let (mut mesh, manager) = managed(here);
        let before = manager.names();
        let container = |mesh: &Nodes| {
            let mut container = mesh.here.container("system.slice/checkout.service/payload");
            let limit = Duration::from_secs(15);
            until(limit, "a listener in the container", || {
                call(&mut container) == Ok("v2".into())
            });
            assert!(manager.names().len() > before.len());
            container
        };
        drop(container(&mesh));
        until(Duration::from_secs(15), "forgotten by the agent", || {
            manager.names() == before
        });
        let gone_meanwhile = container(&mesh);
        terminate(&mut mesh.here);
        drop(gone_meanwhile);
        start(&mut mesh.here, &manager);
        until(Duration::from_secs(15), "forgotten by the next", || {
            manager.names() == before
        });
        mesh.is_open();
    });
}

#[test]
fn strange_descriptors_do_no_harm() {
    host::run("restart-strange", |_| {
        let (mut mesh, manager) = managed(here);
        let before = manager.names();
        terminate(&mut mesh.here);
        let calls = before.iter().find(|name| name.starts_with("mesh-calls-"));
        let calls = calls.expect("a listener").clone();
        let (stem, _) = calls.rsplit_once('-').expect("a name");
        let file = || File::open("/dev/null").expect("a file").into();
        let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let inside = || {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            Ok((listener, UdpSocket::bind("127.0.0.1:0")?))
        };
        let (lying, datagrams) = mesh.here.namespace.run(inside).expect("sockets");
        let port = lying.local_addr().expect("an address").port();
        manager.plant("stored", file());
        manager.plant(&format!("{stem}-70"), file());
        manager.plant(&format!("{stem}-71"), elsewhere.into());
        manager.plant(&format!("{stem}-72"), lying.into());
        manager.plant(&format!("{stem}-73"), datagrams.into());
        // Its name is that of a listener, which must not be lost with it.
        manager.plant(&calls, file());
        let waiting = connect(&mut mesh.checkout, MANY);
        start(&mut mesh.here, &manager);
        are_answered(&mut mesh.checkout, &waiting, &mesh.here.log());
        until(Duration::from_secs(5), "only what is ours", || {
            manager.names() == before
        });
        let refused = call_to(&mut mesh.checkout, &format!("127.0.0.1:{port}"));
        assert_eq!(refused, Err("ECONNREFUSED".into()), "it is closed");
        // And once more: what was sent again is what it says.
        terminate(&mut mesh.here);
        let waiting = connect(&mut mesh.checkout, MANY);
        start(&mut mesh.here, &manager);
        are_answered(&mut mesh.checkout, &waiting, &mesh.here.log());
        assert_eq!(manager.names(), before);
    });
}

#[test]
fn what_no_policy_wants_any_more_is_kept_no_longer() {
    host::run("restart-unwanted", |_| {
        let (mut mesh, manager) = managed(here);
        assert!(!manager.names().is_empty());
        terminate(&mut mesh.here);
        mesh.here.write_policy(NODES).expect("a policy");
        start(&mut mesh.here, &manager);
        until(Duration::from_secs(5), "nothing is kept", || {
            manager.names().is_empty()
        });
    });
}

#[test]
fn flows_have_as_long_as_the_settings_say() {
    host::run("restart-drain", |_| {
        let (mut mesh, manager) = managed(here);
        let settings = mesh.here.sandbox.agent_toml();
        let text = fs::read_to_string(&settings).expect("settings");
        for (drain, shortest, longest) in [("0s", 0, 2), ("3s", 3, 5)] {
            let drain = format!("[tunnel]\ndrain = \"{drain}\"\n");
            fs::write(&settings, text.replace("[tunnel]\n", &drain)).expect("settings");
            drop(mesh.here.agent.take());
            start(&mut mesh.here, &manager);
            let flow = keep(&mut mesh.checkout);
            let since = Instant::now();
            terminate(&mut mesh.here);
            let took = since.elapsed();
            assert!(took >= Duration::from_secs(shortest), "{drain}: {took:?}");
            assert!(took < scaled(Duration::from_secs(longest)), "{took:?}");
            assert!(!is_alive(&mut mesh.checkout, flow));
        }
    });
}
