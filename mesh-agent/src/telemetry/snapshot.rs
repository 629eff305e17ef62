//! What the data plane knows at one moment, names resolved: the input of every exposition.
//!
//! Counts are cumulative. Two series with the same labels are added up, so that a name which
//! has two ids (one per policy slot) needs no care on the other side.

use std::sync::Arc;
use std::time::Duration;

use mesh_common::http::Unparsed;
use mesh_common::{Counter, FlowStats, Reason, Verdict};
use serde::{Deserialize, Serialize};

use super::tunnel::TunnelView;
use crate::policy::model::DefaultAction;

/// Everything that is measured, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Whose it is.
    pub node: NodeNames,
    /// Flows by who calls whom.
    pub flows: Vec<FlowSeries>,
    /// Decisions by rule and reason.
    pub decisions: Vec<DecisionSeries>,
    /// HTTP and gRPC requests by who calls whom and how it went.
    pub requests: Vec<RequestSeries>,
    /// How long requests took, by who calls whom.
    pub request_durations: Vec<RequestDurations>,
    /// Connections whose requests could not be followed.
    pub unparsed: Vec<UnparsedSeries>,
    /// How requests are measured.
    pub http: HttpState,
    /// Shares of versions.
    pub splits: Vec<SplitSeries>,
    /// What the kernel side counts about itself, indexed by [`Counter`].
    pub counters: [u64; Counter::COUNT as usize],
    /// Fill of the BPF maps.
    pub maps: Vec<MapUsage>,
    /// The BPF programs and whether they act.
    pub programs: Vec<ProgramState>,
    /// The policy in force and how the last reload went; `None` before the first policy.
    pub policy: Option<PolicyState>,
    /// What the agent counts about itself.
    pub agent: AgentCounters,
    /// Established flows under the policy in force.
    pub live: LiveFlows,
    /// Connections between nodes.
    pub tunnel: TunnelView,
}

impl Snapshot {
    /// What the kernel side counted of `counter`.
    pub fn counter(&self, counter: Counter) -> u64 {
        let counted = self.counters.get(counter.0 as usize);
        counted.copied().unwrap_or_default()
    }

    /// Denials of any kind: those of new flows, and late ones.
    pub fn denials(&self) -> u64 {
        self.counter(Counter::Denials) + self.live.late_denials
    }
}

/// What the node is called.
#[derive(Clone, Debug, Default)]
pub struct NodeNames {
    /// Its name.
    pub name: Arc<str>,
    /// The trust domain of its identities.
    pub trust_domain: Arc<str>,
}

/// The transport of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Between which hosts a flow is, and which of them counted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Crossing {
    /// On this host, or out of the mesh: no other agent counts it.
    #[default]
    None,
    /// From this host to another node.
    Outbound,
    /// From another node to this host.
    Inbound,
}

impl Crossing {
    /// Which end counted: the label `reporter`.
    pub const fn reporter(self) -> &'static str {
        match self {
            Self::None | Self::Outbound => "source",
            Self::Inbound => "destination",
        }
    }

    /// How the bytes are protected between hosts: the label `connection_security_policy`.
    pub const fn security(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Outbound | Self::Inbound => "mutual_tls",
        }
    }
}

/// One caller's flows to one version of one service.
#[derive(Clone, Debug)]
pub struct FlowSeries {
    /// Who calls.
    pub source_service: Arc<str>,
    /// Who is called.
    pub destination_service: Arc<str>,
    /// Which version of it.
    pub destination_version: Arc<str>,
    /// How.
    pub protocol: Transport,
    /// Between which hosts.
    pub crossing: Crossing,
    /// Counts, added up over the CPUs.
    pub stats: FlowStats,
}

/// What requests are counted by, besides how they went.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestRoute {
    /// Who calls.
    pub source_service: Arc<str>,
    /// Who is called.
    pub destination_service: Arc<str>,
    /// Which version of it.
    pub destination_version: Arc<str>,
    /// How the bytes are protected.
    pub crossing: Crossing,
    /// What the port is declared to speak.
    pub protocol: RequestProtocol,
}

/// What a port is declared to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequestProtocol {
    /// HTTP, of any version.
    Http,
    /// gRPC.
    Grpc,
}

/// Requests that were answered in one way.
#[derive(Clone, Debug)]
pub struct RequestSeries {
    /// Who called whom.
    pub route: RequestRoute,
    /// The method, `other` for one that no standard names.
    pub method: &'static str,
    /// Status code; 0 where the connection ended without an answer.
    pub response_code: u16,
    /// Status of a gRPC call, where it told one.
    pub grpc_status: Option<u16>,
    /// How many.
    pub count: u64,
}

impl RequestSeries {
    /// Whether the server failed: a code of 500 and above, no answer, or a gRPC status that is
    /// not OK.
    pub fn is_error(&self) -> bool {
        !(100..500).contains(&self.response_code) || self.grpc_status.is_some_and(|s| s != 0)
    }
}

/// How long requests took, from the first byte of the request to the first of the response.
#[derive(Clone, Debug)]
pub struct RequestDurations {
    /// Who called whom.
    pub route: RequestRoute,
    /// Requests by bucket, not added up; bounds are [`mesh_common::REQUEST_BOUNDS_NS`], and the
    /// last bucket has none.
    pub buckets: [u64; mesh_common::REQUEST_BUCKETS],
    /// Sum, nanoseconds.
    pub sum_ns: u64,
}

/// Connections whose requests could not be followed, from some byte on.
#[derive(Clone, Debug)]
pub struct UnparsedSeries {
    /// Who was called.
    pub destination_service: Arc<str>,
    /// Why.
    pub reason: Unparsed,
    /// How many.
    pub count: u64,
}

/// Where the programs that read requests are.
#[derive(Clone, Debug, Default)]
pub struct HttpState {
    /// Whether a service of this node speaks HTTP or gRPC.
    pub wanted: bool,
    /// Cgroups they are on.
    pub cgroups: u64,
    /// Cgroups they should be on and are not.
    pub missing: u64,
    /// Why.
    pub error: Option<String>,
}

/// One rule's (or one internal reason's) verdicts about one caller and one service.
#[derive(Clone, Debug)]
pub struct DecisionSeries {
    /// The rule; `default` for the default, `-` where the reason is not policy.
    pub rule: Arc<str>,
    /// What was decided.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Who calls.
    pub source_service: Arc<str>,
    /// Who is called.
    pub destination_service: Arc<str>,
    /// How.
    pub protocol: Transport,
    /// How often.
    pub count: u64,
}

/// What the sweep of established flows found.
#[derive(Clone, Debug, Default)]
pub struct LiveFlows {
    /// Whether this kernel can cut flows; `None` if that is not known.
    pub supported: Option<bool>,
    /// Flows that were cut because policy no longer allows them.
    pub late_denials: u64,
    /// Flows that policy does not allow and that the last sweep could not cut.
    pub uncut: u64,
    /// Network namespaces whose flows the last sweep could not see.
    pub unreached: u64,
    /// Why.
    pub why_unreached: String,
    /// Sweeps since the agent started.
    pub sweeps: u64,
    /// How long the last one took.
    pub took: Duration,
    /// Flows to endpoints that new calls no longer get.
    pub leaving: Vec<LeavingSeries>,
}

/// Flows to endpoints of one version that new calls no longer get.
#[derive(Clone, Debug)]
pub struct LeavingSeries {
    /// The service.
    pub service: Arc<str>,
    /// The version.
    pub version: Arc<str>,
    /// Flows that are left.
    pub remaining: u64,
    /// Flows that were closed for it since the agent started.
    pub closed: u64,
}

/// One version's share of a service's connections.
#[derive(Clone, Debug)]
pub struct SplitSeries {
    /// The service that is split.
    pub service: Arc<str>,
    /// The callers it is for, `*` for everyone.
    pub source_service: Arc<str>,
    /// The version.
    pub version: Arc<str>,
    /// The share it should have, 0 to 1.
    pub weight: f64,
    /// The connections it got since the split took this form.
    pub observed: u64,
}

/// How full a BPF map is.
#[derive(Clone, Debug)]
pub struct MapUsage {
    /// The map.
    pub map: Arc<str>,
    /// Entries in use.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
    /// Memory the kernel charges for it.
    pub memory_bytes: u64,
    /// Whether a full map makes room by itself (LRU), so that being full is its normal state.
    pub evicts: bool,
}

/// Whether a BPF program acts where it should.
#[derive(Clone, Debug)]
pub struct ProgramState {
    /// The program.
    pub program: Arc<str>,
    /// The hook it belongs to, such as `connect4`.
    pub hook: Arc<str>,
    /// Whether it is among the hook's *effective* programs.
    pub attached: bool,
}

/// The policy in force.
#[derive(Clone, Debug)]
pub struct PolicyState {
    /// Counts the policies applied since the maps were made.
    pub revision: u64,
    /// Digest of the compiled set.
    pub digest: Arc<str>,
    /// What happens to a flow that no rule matches.
    pub default: DefaultAction,
    /// How many services it has.
    pub services: u64,
    /// How many rules it has.
    pub rules: u64,
    /// How many splits it has.
    pub splits: u64,
    /// Whether the newest set of files is the one in force.
    pub last_reload_successful: bool,
    /// When a set was last applied, seconds since 1970.
    pub last_success_timestamp_seconds: f64,
    /// How long applying it took.
    pub apply_duration: Duration,
    /// Reloads that were applied since the agent started.
    pub reloads_ok: u64,
    /// Reloads that were rejected since the agent started.
    pub reloads_rejected: u64,
}

/// How the agent and its maps stay below their ceiling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryState {
    /// The ceiling, bytes.
    pub limit: u64,
    /// Whether telemetry is given up at the moment.
    pub shedding: bool,
    /// How often that has begun.
    pub shed: u64,
}

/// What the agent counts about itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct AgentCounters {
    /// Denials that were counted but not logged, because the same was logged just before.
    pub denial_logs_suppressed: u64,
    /// Denial records that could not be decoded.
    pub denial_records_malformed: u64,
    /// How often something that somebody removed was put back.
    pub enforcement_repairs: u64,
    /// How often the canary was not refused.
    pub canary_failures: u64,
    /// Records of flows.
    pub flows: FlowCounters,
    /// Its ceiling.
    pub memory: MemoryState,
}

/// What became of records of flows since the agent started.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowCounters {
    /// Those that were remembered.
    pub recorded: u64,
    /// Those of them that made room for newer ones.
    pub evicted: u64,
    /// Those that could not be decoded.
    pub malformed: u64,
    /// Updates of open flows that were left out because others had moved more bytes.
    pub updates_skipped: u64,
    /// Open flows that were not looked at because there were too many; their bytes are counted
    /// when they close.
    pub unseen: u64,
    /// The access log; `None` if there is none.
    pub log: Option<AccessLogCounters>,
}

/// What became of records in the access log since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessLogCounters {
    /// Those that were written.
    pub written: u64,
    /// Those that were left out because there were too many.
    pub suppressed: u64,
    /// Those that could not be written.
    pub failed: u64,
}

/// What became of a `connect()` that must be refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CanaryState {
    /// The agent is outside the part of the hierarchy that is the mesh's, where nothing is
    /// refused.
    #[default]
    NotApplicable,
    /// It was refused, as it must be.
    Refused,
    /// It was not.
    Failed,
}
