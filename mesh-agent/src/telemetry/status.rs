//! The status document: what `mesh-agent status` shows and `GET /status` answers.
//!
//! This is a public format: fields are added, never renamed; anything else raises
//! [`SCHEMA_VERSION`].

use mesh_common::Counter;
use serde::{Deserialize, Serialize};

use super::denials::DenialView;
use super::snapshot::{CanaryState, LiveFlows, MapUsage, ProgramState, Snapshot};
use super::tunnel::TunnelView;

pub use super::process::{anonymous_bytes, resident_bytes};

/// Version of the document's form.
pub const SCHEMA_VERSION: u32 = 1;

/// How the agent and its mesh are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of the agent.
    pub version: String,
    /// This node's name.
    pub node: String,
    /// The trust domain.
    pub trust_domain: String,
    /// Process id of the agent.
    pub pid: u32,
    /// How long the agent has been running.
    pub uptime_seconds: u64,
    /// The cgroup the programs are attached to.
    pub cgroup_root: String,
    /// The programs, by hook.
    pub programs: Vec<ProgramView>,
    /// The policy in force; `None` before the first.
    pub policy: Option<PolicyView>,
    /// The newest set of files, if it is broken and therefore not in force.
    pub rejected: Option<RejectedView>,
    /// Memory in use.
    pub memory: MemoryView,
    /// Fill of the BPF maps.
    pub maps: Vec<MapView>,
    /// What could not be counted, recorded or remembered.
    pub losses: LossView,
    /// Established flows under the policy in force.
    #[serde(default)]
    pub live: LiveView,
    /// The latest denials, newest first.
    pub denials: Vec<DenialView>,
    /// Connections between nodes.
    #[serde(default)]
    pub tunnel: TunnelView,
    /// Whether everything stays in force.
    #[serde(default)]
    pub health: HealthView,
    /// What the agent can no longer do; `None` from an agent that does not say.
    #[serde(default)]
    pub sandbox: Option<SandboxView>,
}

/// What the agent can no longer do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxView {
    /// The capabilities that are left.
    pub capabilities: Vec<String>,
    /// Whether system calls are filtered (seccomp).
    pub system_calls: bool,
    /// Version of the kernel's Landlock interface by which files are limited; `None` if they are not.
    pub landlock: Option<u32>,
}

/// Whether everything stays in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HealthView {
    /// What became of the last `connect()` that must be refused.
    pub canary: CanaryState,
    /// How often it was not refused.
    pub canary_failures: u64,
    /// How often something that somebody removed was put back.
    pub repairs: u64,
    /// The last time.
    pub last_repair: Option<RepairView>,
    /// Why something cannot be put back.
    pub error: Option<String>,
}

/// Something that was put back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RepairView {
    /// When, seconds since 1970.
    pub unix_seconds: f64,
    /// What.
    pub what: String,
}

impl HealthView {
    fn problems(&self) -> impl Iterator<Item = String> {
        let failed = self.canary == CanaryState::Failed;
        let canary = failed.then(|| {
            "NOT ENFORCING: a connect() that must be refused was not (see the log)".to_owned()
        });
        let error = self.error.as_ref();
        let error = error.map(|error| format!("ENFORCEMENT CANNOT BE PUT BACK: {error}"));
        [canary, error].into_iter().flatten()
    }
}

/// A program at its hook.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProgramView {
    /// The hook.
    pub hook: String,
    /// The program.
    pub program: String,
    /// Whether it is among the hook's effective programs.
    pub effective: bool,
}

/// The policy in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyView {
    /// Its number.
    pub revision: u64,
    /// Its digest.
    pub digest: String,
    /// The files it came from.
    pub files: Vec<String>,
    /// How many services it has.
    pub services: u64,
    /// How many rules it has.
    pub rules: u64,
    /// How many splits it has.
    pub splits: u64,
    /// `deny` or `allow`.
    pub default: String,
    /// When it was applied, seconds since 1970.
    pub applied_unix_seconds: f64,
    /// How long applying it took.
    pub apply_seconds: f64,
}

/// A set of files that is not in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RejectedView {
    /// When it was rejected, seconds since 1970.
    pub rejected_unix_seconds: f64,
    /// What is wrong with it, as `mesh-agent check` says it.
    pub diagnostics: String,
}

/// Memory in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryView {
    /// Of the agent, in RAM.
    pub agent_bytes: u64,
    /// Of the BPF maps.
    pub maps_bytes: u64,
    /// Of the agent's usher, in RAM, besides code that it shares with the agent; 0 if there is none.
    #[serde(default)]
    pub usher_bytes: u64,
    /// What all of these together may use, if it is limited.
    pub limit_bytes: Option<u64>,
    /// Of `agent_bytes` what is in use on the heap, if the C library tells.
    #[serde(default)]
    pub heap_bytes: Option<u64>,
    /// Of the BPF maps, by what they are for.
    #[serde(default)]
    pub uses: Vec<UseView>,
    /// What was set aside for the policy in force, in the maps and in the agent.
    #[serde(default)]
    pub policy_bytes: u64,
    /// What can be set aside for a policy.
    #[serde(default)]
    pub policy_limit_bytes: u64,
    /// Whether telemetry is given up at the moment to stay below the limit.
    #[serde(default)]
    pub shedding: bool,
    /// How often that has begun since the agent started.
    #[serde(default)]
    pub shed: u64,
}

/// Memory of the BPF maps that are for the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UseView {
    /// `policy`, `state` (what verdicts depend on besides), `counters` or `buffers`.
    pub r#use: String,
    /// Memory of them.
    pub bytes: u64,
}

impl UseView {
    /// Adds up `maps`.
    pub fn of(maps: &[MapUsage]) -> Vec<Self> {
        ["policy", "state", "counters", "buffers"]
            .into_iter()
            .map(|name| {
                let of_it = maps.iter().filter(|map| use_of(&map.map) == name);
                Self {
                    r#use: name.into(),
                    bytes: of_it.map(|map| map.memory_bytes).sum(),
                }
            })
            .collect()
    }
}

/// What a map is for.
fn use_of(map: &str) -> &'static str {
    match map {
        "ACTIVE" | "HEADERS" | "DESTINATIONS" | "RULES" | "SUBJECTS" | "UIDS" | "SPLITS"
        | "SCHEDULE" | "ENDPOINTS" | "EGRESS" | "SOURCES" | "SELECTORS" => "policy",
        "FLOWS" | "DECISIONS" | "REQUESTS" | "UNPARSED" | "COUNTERS" | "ROOM" => "counters",
        "RECORDS" | "FLOW_RECORDS" | "HTTP_HEADS" | "HTTP_WORK" | "WALK" => "buffers",
        _ => "state",
    }
}

/// How full a BPF map is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MapView {
    /// The map.
    pub map: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
    /// Memory of it.
    pub memory_bytes: u64,
    /// Whether it makes room by itself, so that being full is normal.
    pub evicts: bool,
}

/// What could not be counted, recorded or remembered, since the maps were made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossView {
    /// Denials of any kind, to compare the others with.
    pub denials: u64,
    /// Denials whose record found the buffer full.
    pub records_lost: u64,
    /// Flow updates without a series.
    pub flow_series_dropped: u64,
    /// Decisions without a series.
    pub decision_series_dropped: u64,
    /// Cgroups that could not be remembered.
    pub cgroups_dropped: u64,
    /// Affinity entries that could not be stored.
    pub affinity_dropped: u64,
    /// Choices that shared a counter.
    pub split_counters_shared: u64,
    /// Sockets that got no storage.
    pub socket_storage_failed: u64,
    /// Connections to another network namespace that got no ticket.
    #[serde(default)]
    pub tickets_dropped: u64,
    /// UDP flows displaced by newer ones.
    pub udp_flows_displaced: u64,
    /// Flows whose record found the buffer full.
    #[serde(default)]
    pub flow_records_lost: u64,
    /// Records that the access log left out or could not write.
    #[serde(default)]
    pub access_log_lost: u64,
}

/// Established flows under the policy in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LiveView {
    /// Whether this kernel can cut flows; `None` if that is not known.
    pub supported: Option<bool>,
    /// Flows that were cut because policy no longer allows them.
    pub late_denials: u64,
    /// Flows that policy does not allow and that could not be cut.
    pub uncut: u64,
    /// Network namespaces whose flows could not be judged.
    pub netns_unreached: u64,
    /// Why.
    pub why_unreached: String,
    /// Flows to endpoints that new calls no longer get.
    pub leaving: Vec<LeavingView>,
}

/// Flows to endpoints of one version that new calls no longer get.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeavingView {
    /// The service.
    pub service: String,
    /// The version.
    pub version: String,
    /// Flows that are left.
    pub remaining: u64,
    /// Flows that were closed for it since the agent started.
    pub closed: u64,
}

/// The document as it is sent: the status and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The status.
    #[serde(flatten)]
    pub status: Status,
    /// What is wrong, worst first, as sentences for people.
    pub problems: Vec<String>,
}

impl From<Status> for Document {
    fn from(status: Status) -> Self {
        let problems = status.problems();
        Self { status, problems }
    }
}

impl Status {
    /// What is wrong, worst first. Empty means that the mesh does what its files say.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.policy.is_none() {
            problems.push("NOT ENFORCING: no policy has been applied".into());
        }
        if self.programs.is_empty() {
            problems.push("NOT ENFORCING: no program is loaded".into());
        }
        for program in self.programs.iter().filter(|program| !program.effective) {
            let hook = &program.hook;
            problems.push(if hook.starts_with("cgroup_") {
                format!("{hook} is not served: new cgroups are found by watching directories")
            } else {
                format!("NOT ENFORCING: {hook} has no effective program")
            });
        }
        problems.extend(self.health.problems());
        if let Some(rejected) = &self.rejected {
            problems.push(self.rejection(rejected));
        }
        problems.extend(self.live.problems());
        problems.extend(self.tunnel.problems());
        problems.extend(self.maps.iter().filter_map(MapView::problem));
        problems.extend(self.memory.problem());
        problems
    }

    fn rejection(&self, rejected: &RejectedView) -> String {
        let first = rejected.diagnostics.lines().find(|line| !line.is_empty());
        let first = first.unwrap_or("no diagnostics");
        match &self.policy {
            Some(policy) => format!(
                "policy set rejected: {first} (revision {} stays in force)",
                policy.revision
            ),
            None => format!("policy set rejected: {first}"),
        }
    }
}

impl LiveView {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.supported == Some(false) {
            problems.push(
                "established flows cannot be cut: this kernel lacks CONFIG_INET_DIAG_DESTROY"
                    .into(),
            );
        }
        if self.uncut > 0 {
            let flows = self.uncut;
            problems.push(format!(
                "established flows that policy denies are not cut: {flows}"
            ));
        }
        if self.netns_unreached > 0 {
            problems.push(format!(
                "established flows of {} network namespaces are not judged: {}",
                self.netns_unreached, self.why_unreached
            ));
        }
        problems
    }
}

impl From<&LiveFlows> for LiveView {
    fn from(live: &LiveFlows) -> Self {
        let leaving = live.leaving.iter().map(|leaving| LeavingView {
            service: leaving.service.to_string(),
            version: leaving.version.to_string(),
            remaining: leaving.remaining,
            closed: leaving.closed,
        });
        Self {
            supported: live.supported,
            late_denials: live.late_denials,
            uncut: live.uncut,
            netns_unreached: live.unreached,
            why_unreached: live.why_unreached.clone(),
            leaving: leaving.collect(),
        }
    }
}

impl MapView {
    fn problem(&self) -> Option<String> {
        let Self {
            map,
            entries,
            capacity,
            ..
        } = self;
        if self.evicts || *capacity == 0 || entries * 10 < capacity * 9 {
            return None;
        }
        let fill = if entries >= capacity {
            "is full"
        } else {
            "is nearly full"
        };
        Some(format!("BPF map {map} {fill}: {entries} of {capacity}"))
    }
}

impl MemoryView {
    fn problem(&self) -> Option<String> {
        let used = self.agent_bytes + self.usher_bytes + self.maps_bytes;
        let limit = self
            .limit_bytes
            .filter(|limit| self.shedding || used > *limit)?;
        let shed = if self.shedding {
            "; fewer flows are remembered, and no new series are counted"
        } else {
            ""
        };
        Some(format!(
            "memory: {} KiB in use, the limit is {} KiB{shed}",
            used / 1024,
            limit / 1024
        ))
    }
}

impl From<&ProgramState> for ProgramView {
    fn from(state: &ProgramState) -> Self {
        Self {
            hook: state.hook.to_string(),
            program: state.program.to_string(),
            effective: state.attached,
        }
    }
}

impl From<&MapUsage> for MapView {
    fn from(usage: &MapUsage) -> Self {
        Self {
            map: usage.map.to_string(),
            entries: usage.entries,
            capacity: usage.capacity,
            memory_bytes: usage.memory_bytes,
            evicts: usage.evicts,
        }
    }
}

impl From<&Snapshot> for LossView {
    fn from(snapshot: &Snapshot) -> Self {
        let count = |counter| snapshot.counter(counter);
        let log = snapshot.agent.flows.log.unwrap_or_default();
        Self {
            denials: snapshot.denials(),
            records_lost: count(Counter::RecordsLost),
            flow_series_dropped: count(Counter::FlowSeriesDropped),
            decision_series_dropped: count(Counter::DecisionSeriesDropped),
            cgroups_dropped: count(Counter::CgroupsDropped),
            affinity_dropped: count(Counter::AffinityDropped),
            split_counters_shared: count(Counter::SplitCountersShared),
            socket_storage_failed: count(Counter::SocketStorageFailed),
            tickets_dropped: count(Counter::TicketsDropped),
            udp_flows_displaced: count(Counter::UdpFlowsDisplaced),
            flow_records_lost: count(Counter::FlowRecordsLost),
            access_log_lost: log.suppressed + log.failed,
        }
    }
}

impl LossView {
    /// Each loss that happened, as people say it, with how often.
    pub fn happened(&self) -> Vec<(&'static str, u64)> {
        let Self {
            denials: _,
            records_lost,
            flow_series_dropped,
            decision_series_dropped,
            cgroups_dropped,
            affinity_dropped,
            split_counters_shared,
            socket_storage_failed,
            tickets_dropped,
            udp_flows_displaced,
            flow_records_lost,
            access_log_lost,
        } = self;
        let all = [
            ("denial records lost (buffer full)", *records_lost),
            ("flow updates without a series", *flow_series_dropped),
            ("decisions without a series", *decision_series_dropped),
            ("cgroups not remembered", *cgroups_dropped),
            ("affinity entries not stored", *affinity_dropped),
            (
                "choices that shared a split counter",
                *split_counters_shared,
            ),
            (
                "sockets without storage (net.core.optmem_max)",
                *socket_storage_failed,
            ),
            (
                "connections to another network namespace without a ticket",
                *tickets_dropped,
            ),
            ("UDP flows displaced by newer ones", *udp_flows_displaced),
            ("flow records lost (buffer full)", *flow_records_lost),
            (
                "flow records not in the access log ([access_log] rate)",
                *access_log_lost,
            ),
        ];
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Status {
        Status {
            schema_version: SCHEMA_VERSION,
            programs: vec![ProgramView {
                hook: "connect4".into(),
                program: "connect4".into(),
                effective: true,
            }],
            policy: Some(PolicyView {
                revision: 7,
                ..PolicyView::default()
            }),
            ..Status::default()
        }
    }

    fn map(entries: u64, evicts: bool) -> MapView {
        MapView {
            map: "FLOWS".into(),
            entries,
            capacity: 1000,
            evicts,
            ..MapView::default()
        }
    }

    #[test]
    fn problems_come_worst_first() {
        let mut status = healthy();
        assert_eq!(status.problems(), [""; 0]);
        status.maps = vec![map(899, false), map(1000, true)];
        assert_eq!(status.problems(), [""; 0]);
        status.maps = vec![map(900, false), map(1000, false)];
        status.live = LiveView {
            supported: Some(false),
            uncut: 3,
            netns_unreached: 2,
            why_unreached: "EPERM".into(),
            ..LiveView::default()
        };
        status.programs[0].effective = false;
        status.memory = MemoryView {
            agent_bytes: 8 << 20,
            maps_bytes: 1 << 20,
            limit_bytes: Some(8 << 20),
            ..MemoryView::default()
        };
        status.rejected = Some(RejectedView {
            rejected_unix_seconds: 0.0,
            diagnostics: "10-shop.toml:4:1: unknown field `wieght`\n  help".into(),
        });
        assert_eq!(
            status.problems(),
            [
                "NOT ENFORCING: connect4 has no effective program",
                "policy set rejected: 10-shop.toml:4:1: unknown field `wieght` (revision 7 stays in force)",
                "established flows cannot be cut: this kernel lacks CONFIG_INET_DIAG_DESTROY",
                "established flows that policy denies are not cut: 3",
                "established flows of 2 network namespaces are not judged: EPERM",
                "BPF map FLOWS is nearly full: 900 of 1000",
                "BPF map FLOWS is full: 1000 of 1000",
                "memory: 9216 KiB in use, the limit is 8192 KiB",
            ]
        );
    }

    #[test]
    fn nothing_loaded_is_said_first() {
        let problems = Status::default().problems();
        assert_eq!(
            problems,
            [
                "NOT ENFORCING: no policy has been applied",
                "NOT ENFORCING: no program is loaded"
            ]
        );
    }

    #[test]
    fn the_document_survives_json() {
        let document = Document::from(healthy());
        let json = serde_json::to_string(&document).expect("json");
        assert!(json.starts_with(r#"{"schema_version":1,"#), "{json}");
        let read: Document = serde_json::from_str(&json).expect("document");
        assert_eq!(read, document);
    }
}
