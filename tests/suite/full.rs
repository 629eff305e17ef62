//! Full maps: the protected is denied, everything else goes on, and what was lost is counted.

use std::fs;
use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use aya::Pod;
use aya::maps::{MapData, MapError, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use mesh_common::{
    Address, AffinityKey, AffinityValue, CgroupIdentity, DecisionKey, EndpointEntry, FlowKey,
    FlowStats, IPPROTO_TCP, SplitKey,
};
use mesh_tests::agent::{AgentProcess, log, metric};
use mesh_tests::observe::{NOTICE, counts, status, until};
use mesh_tests::peer::{Dial, Kind, Peer};
use mesh_tests::shop::{FILE, POLICY, Shop, VIP, dial, to_vip};
use mesh_tests::{Sandbox, host, kernel};
use nix::sys::signal::Signal;

/// An address that is nothing of the mesh's.
const OUTSIDE: &str = "127.0.0.1:9999";
/// No id is as high.
const NOBODY: u32 = 1 << 30;

fn start(sandbox: &Sandbox) -> AgentProcess {
    AgentProcess::start(sandbox).expect("the agent starts")
}

/// Inserts one number after the other until there is no room; how many there was room for. These
/// maps allocate as they grow, from a reserve the kernel refills behind: for a moment it can be
/// empty (ENOMEM) while the map has room.
fn until_full(mut insert: impl FnMut(u32) -> Result<(), MapError>) -> u32 {
    let (mut number, mut attempts) = (0, 0);
    loop {
        match insert(number) {
            Ok(()) => (number, attempts) = (number + 1, 0),
            Err(MapError::SyscallError(error)) if is_full(&error.io_error) => return number,
            Err(error) => {
                assert!(attempts < 1000, "{number} inserted: {error}");
                attempts += 1;
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ArgumentListTooLong
}

/// Fills a map with keys that nothing has; how many there was room for.
fn fill<K: Pod + Eq + Hash, V: Pod>(
    sandbox: &Sandbox,
    map: &str,
    value: V,
    key: impl Fn(u32) -> K,
) -> u32 {
    let mut map = kernel::hash::<K, V>(sandbox, map).expect("the map");
    until_full(|number| map.insert(key(number), value, 0))
}

fn fill_per_cpu<K: Pod, V: Pod>(sandbox: &Sandbox, map: &str, value: V, key: impl Fn(u32) -> K) {
    let mut map: PerCpuHashMap<MapData, K, V> =
        kernel::per_cpu_hash(sandbox, map).expect("the map");
    let cpus = nr_cpus().expect("cpus");
    until_full(|number| {
        let values = PerCpuValues::try_from(vec![value; cpus]).expect("a value for each");
        map.insert(key(number), values, 0)
    });
}

fn outside() -> SocketAddr {
    OUTSIDE.parse().expect("an address")
}

#[test]
fn a_cgroup_that_is_not_remembered_reaches_nothing_protected() {
    host::run("cgroups", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        shop.payments.serve_tcp(OUTSIDE, "outside").expect("served");
        let agent = start(sandbox);
        // It would make room.
        agent.signal(Signal::SIGSTOP).expect("signalled");
        let nobody = CgroupIdentity { subject: [1, 1] };
        let filled = fill(sandbox, "CGROUPS", nobody, |number| {
            (1u64 << 40) + u64::from(number)
        });
        assert!(filled > 10_000, "{filled}");
        let mut new = Peer::spawn(&sandbox.cgroup, "system.slice/new.service").expect("a peer");
        for _ in 0..10 {
            assert_eq!(dial(&mut new), Err("EPERM".into()));
        }
        let around = new.dial_once(Dial::tcp("127.0.0.1:8081".parse().expect("an address")));
        assert_eq!(around.expect("an outcome").errno(), Some("EPERM"));
        let open = new.dial_once(Dial::tcp(outside())).expect("an outcome");
        assert_eq!(open.answered(), "outside", "{open:?}");
        shop.is_guarded();
        // Below a service's cgroup one need not be remembered.
        let mut below =
            Peer::spawn(&sandbox.cgroup, "system.slice/checkout.service/job").expect("a peer");
        assert_eq!(dial(&mut below), Ok("v1".into()));
        agent.signal(Signal::SIGCONT).expect("signalled");
        let unknown = [("reason", "unknown-caller"), ("verdict", "denied")];
        let decisions = "mesh_authorization_decisions_total";
        counts(sandbox, decisions, &unknown, |value| value == 11.0);
        let dropped = [("resource", "cgroup")];
        counts(
            sandbox,
            "mesh_resource_shortages_total",
            &dropped,
            |value| value >= 2.0,
        );
        until(NOTICE, "the kernel programs' own log arrives", || {
            log(sandbox).contains("no room to remember cgroup")
        });
    });
}

#[test]
fn a_full_map_of_cgroups_does_not_keep_a_policy_out() {
    host::run("policyin", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let nobody = CgroupIdentity { subject: [1, 1] };
        fill(sandbox, "CGROUPS", nobody, |number| {
            (1u64 << 40) + u64::from(number)
        });
        sandbox
            .cgroup
            .child("system.slice/later.service")
            .expect("made");
        // Other selectors: every cgroup is attributed anew.
        let text = POLICY.replace("intruder.service", "other.service");
        sandbox.write_policy(FILE, &text).expect("written");
        agent.signal(Signal::SIGHUP).expect("signalled");
        until(NOTICE, "the policy is in force", || {
            kernel::policy(sandbox).is_ok_and(|header| header.is_some_and(|h| h.revision == 2))
        });
        shop.is_guarded();
        assert!(
            log(sandbox).contains("cannot be remembered"),
            "{}",
            log(sandbox)
        );
    });
}

/// The shop with two versions, and endpoints for both.
fn two_versions(sandbox: &Sandbox, more: &str) -> Shop {
    let mut shop = Shop::open(sandbox).expect("a shop");
    let (one, two) = (
        r#"{ address = "127.0.0.1:8081", version = "v1" }"#,
        r#"{ address = "127.0.0.1:8082", version = "v2" }"#,
    );
    let text = POLICY.replace(&format!("[{one}]"), &format!("[{one}, {two}]\n{more}"));
    sandbox.write_policy(FILE, &text).expect("written");
    shop.payments
        .serve_tcp("127.0.0.1:8082", "v2")
        .expect("served");
    shop
}

#[test]
fn without_a_counter_of_its_own_a_caller_still_gets_endpoints_in_turn() {
    host::run("counters", |sandbox| {
        let mut shop = two_versions(sandbox, "");
        let _agent = start(sandbox);
        let filled = fill(sandbox, "SPLIT_COUNTERS", 0u64, |number| SplitKey {
            subject: NOBODY + number,
            frontend: NOBODY,
        });
        assert!(filled > 1000, "{filled}");
        let outcomes = shop.checkout.dial(to_vip().times(100)).expect("outcomes");
        let of = |label: &str| outcomes.iter().filter(|it| it.answered() == label).count();
        assert_eq!((of("v1"), of("v2")), (50, 50));
        shop.is_guarded();
        let shared = [("resource", "split-counter")];
        counts(sandbox, "mesh_resource_shortages_total", &shared, |value| {
            value >= 100.0
        });
    });
}

#[test]
fn without_room_for_affinity_calls_go_on() {
    host::run("affinity", |sandbox| {
        let mut shop = two_versions(sandbox, "affinity = \"client\"\n");
        let _agent = start(sandbox);
        let kept = AffinityValue {
            expires_ns: u64::MAX,
            endpoint: EndpointEntry {
                address: Address::LOCAL,
                ..EndpointEntry::default()
            },
            ..AffinityValue::default()
        };
        let filled = fill(sandbox, "AFFINITY", kept, |number| AffinityKey {
            cgroup: u64::from(number),
            frontend: NOBODY,
            uid: 0,
        });
        assert!(filled > 1000, "{filled}");
        let outcomes = shop.checkout.dial(to_vip().times(20)).expect("outcomes");
        assert!(
            outcomes.iter().all(|outcome| outcome.failure.is_none()),
            "{outcomes:?}"
        );
        assert_eq!(dial(&mut shop.intruder), Err("EPERM".into()));
        let dropped = [("resource", "affinity")];
        counts(
            sandbox,
            "mesh_resource_shortages_total",
            &dropped,
            |value| value == 20.0,
        );
    });
}

#[test]
fn without_room_for_series_verdicts_stay_and_the_loss_is_counted() {
    host::run("series", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        fill_per_cpu(sandbox, "FLOWS", FlowStats::default(), |number| FlowKey {
            source: NOBODY + number,
            service: NOBODY,
            version: 0,
            protocol: u32::from(IPPROTO_TCP),
        });
        fill_per_cpu(sandbox, "DECISIONS", [0u64; 2], |number| DecisionKey {
            source: NOBODY + number,
            ..DecisionKey::default()
        });
        for _ in 0..10 {
            shop.is_guarded();
        }
        counts(sandbox, "mesh_denials_total", &[], |value| value == 10.0);
        let dropped = "mesh_metrics_series_dropped_total";
        let kernel = |kind| [("kind", kind), ("stage", "kernel")];
        // Opened and closed; allowed and denied.
        counts(sandbox, dropped, &kernel("flow"), |value| value == 20.0);
        counts(sandbox, dropped, &kernel("decision"), |value| value == 20.0);
        let (code, document) = status(sandbox).expect("status");
        assert_eq!(code, Some(5), "{document:#}");
    });
}

#[test]
fn a_flood_of_denials_loses_records_and_no_count() {
    host::run("flood", |sandbox| {
        const DENIALS: f64 = 10_000.0;
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        agent.signal(Signal::SIGSTOP).expect("signalled");
        let silent = to_vip().saying("");
        let outcomes = shop
            .intruder
            .dial(silent.times(DENIALS as u32))
            .expect("outcomes");
        assert!(
            outcomes
                .iter()
                .all(|outcome| outcome.errno() == Some("EPERM"))
        );
        agent.signal(Signal::SIGCONT).expect("signalled");
        counts(sandbox, "mesh_denials_total", &[], |value| value == DENIALS);
        let denied = [("verdict", "denied"), ("source_service", "dev/intruder")];
        let decisions = "mesh_authorization_decisions_total";
        counts(sandbox, decisions, &denied, |value| value == DENIALS);
        let lost = metric(
            sandbox,
            "mesh_events_lost_total",
            &[("kind", "denial"), ("cause", "buffer-full")],
        );
        let lost = lost.expect("a metric");
        assert!(lost > 0.9 * DENIALS - 1000.0 && lost < DENIALS, "{lost}");
        // What was kept is told: once in the log, and how often in the latest denials.
        let kept = DENIALS - lost;
        until(NOTICE, "the records that were kept arrive", || {
            let (_, document) = status(sandbox).expect("status");
            document["denials"][0]["count"].as_f64() == Some(kept)
        });
        let lines = log(sandbox);
        let lines = lines.lines().filter(|line| line.contains("WARN denied"));
        assert_eq!(lines.count(), 1);
    });
}

#[test]
fn without_socket_storage_the_protected_is_denied() {
    host::run("storage", |sandbox| {
        const LIMIT: &str = "/proc/sys/net/core/optmem_max";
        if !Path::new(LIMIT).exists() {
            // Before Linux 6.8 it is one for all network namespaces, and not ours to change.
            use std::io::Write as _;
            let _ = writeln!(io::stderr(), "SKIPPED (optional): one optmem_max for all");
            return;
        }
        let mut shop = Shop::open(sandbox).expect("a shop");
        shop.payments.serve_tcp(OUTSIDE, "outside").expect("served");
        let text = POLICY.replace("\"shop/checkout\"]", "\"shop/checkout\", \"host\"]");
        sandbox.write_policy(FILE, &text).expect("written");
        let mut anybody = Peer::spawn(&sandbox.cgroup, "system.slice/x.service").expect("a peer");
        let _agent = start(sandbox);
        let made = shop.checkout.open(Kind::default()).expect("a socket");
        let before = fs::read_to_string(LIMIT).expect("readable");
        fs::write(LIMIT, "1").expect("writable");
        for _ in 0..5 {
            assert_eq!(dial(&mut shop.checkout), Err("EPERM".into()));
            assert_eq!(dial(&mut anybody), Err("EPERM".into()));
        }
        for peer in [&mut shop.checkout, &mut anybody] {
            let open = peer.dial_once(Dial::tcp(outside())).expect("an outcome");
            assert_eq!(open.answered(), "outside", "{open:?}");
        }
        // A socket that has its storage needs no other.
        let old = shop.checkout.connect(made, VIP, "x").expect("an outcome");
        assert_eq!(old.answered(), "v1", "{old:?}");
        fs::write(LIMIT, before).expect("writable");
        shop.is_guarded();
        assert_eq!(dial(&mut anybody), Ok("v1".into()));
        let decisions = "mesh_authorization_decisions_total";
        let labels = [("reason", "no-socket-storage"), ("verdict", "denied")];
        counts(sandbox, decisions, &labels, |value| value == 10.0);
        let failed = [("resource", "socket-storage")];
        counts(sandbox, "mesh_resource_shortages_total", &failed, |value| {
            value >= 10.0
        });
    });
}
