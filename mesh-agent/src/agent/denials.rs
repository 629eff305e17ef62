//! Denials from record to log line: named, deduplicated, bounded.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_common::{DenialRecord, Hook, Reason, Verdict};

use super::flows::Flows;
use super::names::Names;
use super::paths::CgroupPaths;
use super::{wall_time, words};
use crate::dataplane::Hierarchy;
use crate::telemetry::denials::{DenialView, Recent};
use crate::telemetry::time::unix_seconds;

/// How often one denial that goes on is logged.
const LOG_AGAIN: Duration = Duration::from_secs(60);
/// Most denials whose last log line is remembered.
const REMEMBERED: usize = 1024;

/// Denials of one caller, service, rule, reason and detail are logged as one.
type Logged = [String; 5];

/// The latest denials.
pub(super) struct Denials {
    pub(super) recent: Recent,
    pub(super) suppressed: u64,
    pub(super) malformed: u64,
    paths: CgroupPaths,
    flows: Arc<Flows>,
    logged: HashMap<Logged, Instant>,
}

impl Denials {
    pub(super) fn new(hierarchy: Hierarchy, flows: Arc<Flows>) -> Self {
        Self {
            recent: Recent::default(),
            suppressed: 0,
            malformed: 0,
            paths: CgroupPaths::new(hierarchy),
            flows,
            logged: HashMap::new(),
        }
    }

    /// Remembers a record and logs it, unless the same was logged just before.
    pub(super) fn take(&mut self, record: &DenialRecord, names: &Names) {
        let view = self.view(record, names);
        self.note(view);
    }

    /// The same for what the agent itself refused.
    pub(super) fn note(&mut self, view: DenialView) {
        let key = [
            view.source_service.clone(),
            view.destination_service.clone(),
            view.rule.clone(),
            view.reason.clone(),
            view.detail.clone().unwrap_or_default(),
        ];
        let now = Instant::now();
        let again = self
            .logged
            .get(&key)
            .is_some_and(|last| now - *last < LOG_AGAIN);
        if again {
            self.suppressed += 1;
        } else {
            log(&view);
            if self.logged.len() >= REMEMBERED {
                self.logged.clear();
            }
            self.logged.insert(key, now);
        }
        self.flows.denied(&view);
        self.recent.record(view);
    }

    fn view(&mut self, record: &DenialRecord, names: &Names) -> DenialView {
        let place = names.place(record.rule);
        DenialView {
            time_unix_seconds: unix_seconds(wall_time(record.time_ns)),
            verdict: Verdict(record.verdict).name().into(),
            reason: Reason(record.reason).name().into(),
            rule: names.rule(record.rule).to_string(),
            file: place.map(|place| place.file.to_string()),
            line: place.map(|place| place.line),
            source_service: names.subject(record.source).to_string(),
            destination_service: names.service(record.service).to_string(),
            dialled: words::dialled(record),
            protocol: words::protocol(record),
            peer: words::peer(record),
            pid: record.pid,
            uid: record.uid,
            comm: words::comm(record),
            cgroup: self.paths.get(record.cgroup).map(|path| path.to_string()),
            hook: Hook(record.hook).name().into(),
            detail: None,
            count: 1,
        }
    }
}

fn log(view: &DenialView) {
    let place = match (&view.file, view.line) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        _ => "-".into(),
    };
    tracing::warn!(
        source = view.source_service,
        destination = view.destination_service,
        dialled = view.dialled,
        protocol = view.protocol,
        peer = view.peer.as_deref().unwrap_or("-"),
        reason = view.reason,
        rule = view.rule,
        at = place,
        pid = view.pid,
        uid = view.uid,
        comm = view.comm,
        cgroup = view.cgroup.as_deref().unwrap_or("-"),
        hook = view.hook,
        detail = view.detail.as_deref().unwrap_or("-"),
        "{}",
        view.verdict
    );
}
