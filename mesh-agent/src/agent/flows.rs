//! Flows from record to log: named, numbered, bounded.

mod name;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use mesh_common::FlowRecord;

use super::access::AccessLog;
use super::lock;
use super::names::Names;
use super::paths::CgroupPaths;
use crate::config::NodeConfig;
use crate::dataplane::Hierarchy;
use crate::identity::Identity;
use crate::policy::model::ServiceName;
use crate::telemetry::denials::DenialView;
use crate::telemetry::flows::{FlowLog, FlowQuery, FlowView, FlowsDocument};
use crate::telemetry::snapshot::AccessLogCounters;
use crate::telemetry::time::unix_seconds;

/// How long the kernel side tells of openings after somebody has asked for them.
const FOLLOWED: Duration = Duration::from_secs(10);
/// Most identities that are remembered.
const REMEMBERED: usize = 4096;

/// The flows of this node as they are told.
pub(super) struct Flows {
    log: Mutex<FlowLog>,
    naming: Mutex<Naming>,
    /// Until when openings are wanted.
    followed: Mutex<Option<Instant>>,
    access_log: Option<AccessLog>,
    /// Records that could not be decoded.
    pub(super) malformed: AtomicU64,
}

/// What naming a record needs.
struct Naming {
    paths: CgroupPaths,
    node: NodeConfig,
    /// SPIFFE ids by name.
    identities: HashMap<Arc<str>, Option<Arc<str>>>,
}

impl Flows {
    pub(super) fn new(
        hierarchy: Hierarchy,
        node: NodeConfig,
        access_log: Option<AccessLog>,
    ) -> Self {
        Self {
            log: Mutex::new(FlowLog::new(unix_seconds(SystemTime::now()))),
            naming: Mutex::new(Naming {
                paths: CgroupPaths::new(hierarchy),
                node,
                identities: HashMap::new(),
            }),
            followed: Mutex::new(None),
            access_log,
            malformed: AtomicU64::new(0),
        }
    }

    /// Begins to write the access log, if there is one.
    pub(super) fn start_access_log(&self) -> std::io::Result<()> {
        self.access_log.as_ref().map_or(Ok(()), AccessLog::start)
    }

    /// Remembers a record of the kernel's; `None` for one that cannot be decoded.
    pub(super) fn take(&self, record: Option<FlowRecord>, names: &Names) {
        match record {
            Some(record) => {
                let flow = lock(&self.naming).name(&record, names);
                self.push(flow);
            }
            None => {
                self.malformed.fetch_add(1, Relaxed);
            }
        }
    }

    /// Remembers a denial.
    pub(super) fn denied(&self, denial: &DenialView) {
        let mut flow = FlowView::of_denial(denial);
        lock(&self.naming).identify(&mut flow);
        self.push(flow);
    }

    fn push(&self, flow: FlowView) {
        let mut log = lock(&self.log);
        let Some(access_log) = &self.access_log else {
            log.push(flow);
            return;
        };
        let seq = log.push(flow.clone());
        access_log.write(FlowView { seq, ..flow });
    }

    /// What `query` asks for. One that wants openings gets those from now on.
    pub(super) fn answer(&self, query: &FlowQuery) -> FlowsDocument {
        if query.opens {
            *lock(&self.followed) = Some(Instant::now() + FOLLOWED);
        }
        lock(&self.log).answer(query)
    }

    /// Whether the kernel side is to tell of openings.
    pub(super) fn opens_are_wanted(&self) -> bool {
        self.access_log.is_some()
            || lock(&self.followed).is_some_and(|until| Instant::now() < until)
    }

    /// Remembers at most so many from now on.
    pub(super) fn keep(&self, records: usize) {
        lock(&self.log).keep(records);
    }

    /// How many records were seen, and how many of them made room for newer ones.
    pub(super) fn counts(&self) -> (u64, u64) {
        let log = lock(&self.log);
        (log.seen(), log.evicted())
    }
}

impl Flows {
    /// Opens the access log's file again.
    pub(super) fn reopen_access_log(&self) {
        if let Some(log) = &self.access_log {
            log.reopen();
        }
    }

    /// What became of records in the access log.
    pub(super) fn access_log(&self) -> Option<AccessLogCounters> {
        self.access_log.as_ref().map(AccessLog::counters)
    }
}

impl Naming {
    fn identify(&mut self, flow: &mut FlowView) {
        flow.source_identity = self.identity(&flow.source_service);
        flow.destination_identity = self.identity(&flow.destination_service);
    }

    /// The SPIFFE id of a service, a node or the processes of this host that are no service's.
    fn identity(&mut self, name: &Arc<str>) -> Option<Arc<str>> {
        if let Some(known) = self.identities.get(name) {
            return known.clone();
        }
        if self.identities.len() >= REMEMBERED {
            self.identities.clear();
        }
        let identity = identity_of(name, &self.node.name);
        let uri = identity.map(|identity| identity.uri(&self.node.trust_domain).into());
        self.identities.insert(Arc::clone(name), uri.clone());
        uri
    }
}

fn identity_of(name: &str, local: &Arc<str>) -> Option<Identity> {
    if name == "host" {
        return Some(Identity::Node(Arc::clone(local)));
    }
    if let Some(node) = name.strip_prefix("node ") {
        return Some(Identity::Node(node.into()));
    }
    let (namespace, name) = name.split_once('/')?;
    Some(Identity::Service(ServiceName {
        namespace: namespace.into(),
        name: name.into(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_nodes_and_the_host_have_identities() {
        let local = "edge-1".into();
        let uri = |name: &str| identity_of(name, &local).map(|identity| identity.uri("mesh.local"));
        for (name, expected) in [
            ("shop/pay", Some("spiffe://mesh.local/ns/shop/sa/pay")),
            ("node edge-2", Some("spiffe://mesh.local/node/edge-2")),
            ("host", Some("spiffe://mesh.local/node/edge-1")),
            ("unknown", None),
            ("outside", None),
            ("-", None),
        ] {
            assert_eq!(uri(name).as_deref(), expected, "{name}");
        }
    }
}
