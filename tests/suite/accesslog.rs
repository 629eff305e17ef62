//! The access log: what it has, for whom, and what it says of what it has not.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use mesh_tests::agent::{self, AgentProcess, metric};
use mesh_tests::observe::{counts, until};
use mesh_tests::shop::{Shop, to_vip};
use mesh_tests::{Sandbox, host};
use nix::sys::signal::Signal;
use serde_json::Value;

/// How long records may take to be written.
const WRITTEN: Duration = Duration::from_secs(5);
const RECORDS: &str = "mesh_access_log_records_total";

fn start(sandbox: &Sandbox, settings: &str) -> AgentProcess {
    let file = OpenOptions::new().append(true).open(sandbox.agent_toml());
    let file = file.and_then(|mut file| write!(file, "[access_log]\n{settings}\n"));
    file.expect("settings");
    AgentProcess::start(sandbox).expect("the agent starts")
}

fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let record = |line: &str| serde_json::from_str(line).expect("JSON");
    text.lines().map(record).collect()
}

fn of(records: &[Value], event: &str) -> usize {
    records
        .iter()
        .filter(|record| record["event"] == event)
        .count()
}

#[test]
fn every_flow_and_denial_is_a_line_and_rotation_loses_none() {
    host::run("accesslog", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let (path, old) = (sandbox.path("access.jsonl"), sandbox.path("access.jsonl.1"));
        let agent = start(sandbox, &format!("file = {path:?}"));
        let mut call = |times| {
            let outcomes = shop.checkout.dial(to_vip().times(times)).expect("outcomes");
            assert!(outcomes.iter().all(|outcome| outcome.failure.is_none()));
            let denied = shop.intruder.dial_once(to_vip()).expect("an outcome");
            assert_eq!(denied.errno(), Some("EPERM"));
        };
        call(3);
        let all = |path: &Path, calls: usize| {
            let records = records(path);
            let count = |event| of(&records, event);
            (count("open"), count("close"), count("denied")) == (calls, calls, 1)
        };
        until(WRITTEN, "every record", || all(&path, 3));
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o640 & !0o022, "{mode:o}");
        let denied = records(&path)
            .into_iter()
            .find(|record| record["event"] == "denied");
        let denied = denied.expect("a denial");
        assert_eq!(denied["source_service"], "dev/intruder");

        fs::rename(&path, &old).expect("rotated");
        agent.signal(Signal::SIGHUP).expect("signalled");
        until(WRITTEN, "the file is there again", || {
            call_one(&mut shop);
            path.exists()
        });
        let before = records(&old).len();
        call_one(&mut shop);
        until(WRITTEN, "a record in the new file", || {
            of(&records(&path), "close") >= 2
        });
        assert_eq!(records(&old).len(), before);
        let written = metric(sandbox, RECORDS, &[("outcome", "written")]).expect("metrics");
        assert!(written >= (before + 2) as f64, "{written}");
        assert_eq!(
            metric(sandbox, RECORDS, &[("outcome", "suppressed")]).expect("metrics"),
            0.0
        );
    });
}

fn call_one(shop: &mut Shop) {
    let outcome = shop.checkout.dial_once(to_vip()).expect("an outcome");
    assert_eq!(outcome.failure, None);
}

#[test]
fn too_many_are_left_out_counted_and_said() {
    const CALLS: u32 = 300;
    host::run("accesslog-rate", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let path = sandbox.path("access.jsonl");
        let agent = start(sandbox, &format!("file = {path:?}\nrate = 10"));
        let outcomes = shop.checkout.dial(to_vip().times(CALLS)).expect("outcomes");
        assert!(outcomes.iter().all(|outcome| outcome.failure.is_none()));
        let closed = [("source_service", "shop/checkout")];
        let calls = f64::from(CALLS);
        counts(
            sandbox,
            "mesh_tcp_connections_closed_total",
            &closed,
            |value| value == calls,
        );
        let count = |outcome| {
            let labels = [("outcome", outcome)];
            metric(sandbox, RECORDS, &labels).expect("metrics")
        };
        // An opening and a close of each.
        until(WRITTEN, "all is accounted for", || {
            count("written") + count("suppressed") == 2.0 * calls
        });
        let suppressed = count("suppressed");
        assert!(suppressed > calls, "{suppressed}");
        agent.signal(Signal::SIGTERM).expect("signalled");
        assert_eq!(agent.wait().expect("ended"), Some(0));
        let records = records(&path);
        let notes = records
            .iter()
            .filter(|record| record["event"] == "suppressed");
        let said: f64 = notes.filter_map(|note| note["suppressed"].as_f64()).sum();
        assert_eq!(said, suppressed);
    });
}

#[test]
fn a_link_is_not_followed_and_the_mesh_works_without_its_log() {
    host::run("accesslog-link", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let (path, victim) = (sandbox.path("access.jsonl"), sandbox.path("victim"));
        fs::write(&victim, "untouched").expect("written");
        symlink(&victim, &path).expect("linked");
        let _agent = start(sandbox, &format!("file = {path:?}"));
        shop.is_guarded();
        counts(sandbox, RECORDS, &[("outcome", "failed")], |value| {
            value >= 2.0
        });
        assert_eq!(fs::read_to_string(&victim).expect("a file"), "untouched");
        let log = agent::log(sandbox);
        assert!(log.contains("the access log cannot be written"), "{log}");
    });
}
