//! What the agent tells: snapshots for metrics, the status document, readiness.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use mesh_common::{Counter, IPPROTO_UDP, Reason, flow_bit};
use mesh_sys::memory;

use super::leaving::Counts;
use super::sweep::Findings;
use super::tunnel::Tunnel;
use super::{Agent, Current, lock, requests, shares};
use crate::admin::{Rejected, Reloaded, Source};
use crate::dataplane::{self, HTTP_HOOKS, Stats};
use crate::identity::{Bundle, Identity};
use crate::policy::model::{DefaultAction, Endpoint, Location, Service};
use crate::policy::source::SourceSet;
use crate::sandbox::Sandbox;
use crate::telemetry::declared::Declared;
use crate::telemetry::flows::{FlowQuery, FlowsDocument};
use crate::telemetry::observed::{self, DecisionView, Observed};
use crate::telemetry::snapshot::{
    AgentCounters, Crossing, DecisionSeries, FlowCounters, FlowSeries, HttpState, LeavingSeries,
    LiveFlows, MapUsage, MemoryState, NodeNames, PolicyState, ProgramState, Snapshot, Transport,
};
use crate::telemetry::status::{
    HealthView, LiveView, LossView, MapView, MemoryView, PolicyView, ProgramView, RejectedView,
    RepairView, SCHEMA_VERSION, SandboxView, Status, UseView, resident_bytes,
};
use crate::telemetry::time::unix_seconds;
use crate::telemetry::tunnel::TunnelView;

impl Source for Agent {
    fn snapshot(&self) -> Snapshot {
        let policy = self.policy_state();
        let (mut stats, maps, programs, http) = {
            let dataplane = lock(&self.dataplane);
            let stats = dataplane.stats().unwrap_or_else(|error| {
                tracing::error!(%error, "cannot read the counters");
                Stats::default()
            });
            let effective = dataplane.effective();
            (stats, dataplane.usage(), effective, dataplane.http())
        };
        let findings = self.sweeps.findings();
        let current = self.current();
        if let Some(current) = &current {
            self.live.raise(&mut stats.flows, current.names.epoch);
        }
        let mut snapshot = Snapshot {
            node: NodeNames {
                name: self.config.node.name.as_ref().into(),
                trust_domain: self.config.node.trust_domain.as_ref().into(),
            },
            counters: stats.counters,
            maps: maps
                .iter()
                .map(|usage| MapUsage {
                    map: usage.map.into(),
                    entries: usage.entries,
                    capacity: usage.capacity,
                    memory_bytes: usage.memory,
                    evicts: usage.map == "HTTP_CALLERS",
                })
                .collect(),
            programs: programs
                .iter()
                .map(|(hooked, attached)| ProgramState {
                    program: hooked.program.into(),
                    hook: hooked.hook.into(),
                    attached: *attached,
                })
                .chain(http_programs(&http))
                .collect(),
            http: HttpState {
                wanted: http.wanted,
                cgroups: http.cgroups,
                missing: http.missing,
                error: http.error,
            },
            policy,
            agent: self.counters(),
            live: live(&findings, &stats),
            tunnel: self.told_of_tunnel(),
            ..Snapshot::default()
        };
        if let Some(current) = current {
            name(&mut snapshot, &stats, &current);
            self.calls.tell(&mut snapshot, &current.names);
            let dropped = Counter::RequestSeriesDropped.0 as usize;
            snapshot.counters[dropped] += self.calls.dropped();
            snapshot.live.leaving = leaving(&findings, &current);
        }
        snapshot
    }

    fn status(&self) -> Status {
        let snapshot = self.snapshot();
        let cgroup_root = {
            let dataplane = lock(&self.dataplane);
            dataplane.hierarchy().directory().display().to_string()
        };
        Status {
            schema_version: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.config.node.name.to_string(),
            trust_domain: self.config.node.trust_domain.to_string(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            cgroup_root,
            programs: snapshot.programs.iter().map(ProgramView::from).collect(),
            policy: self.policy_view(),
            rejected: self.rejected(),
            memory: self.memory_view(&snapshot),
            maps: snapshot.maps.iter().map(MapView::from).collect(),
            losses: LossView::from(&snapshot),
            live: LiveView::from(&snapshot.live),
            tunnel: snapshot.tunnel.clone(),
            denials: lock(&self.denials).recent.list(),
            health: self.health_view(),
            sandbox: self.sandbox.get().map(sandbox_view),
        }
    }

    fn readiness(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.ready.load(Ordering::Acquire) {
            missing.push("the programs are not attached yet".to_owned());
            return missing;
        }
        if self.current().is_none() {
            missing.push("no policy of this agent's is in force".to_owned());
        }
        for (hooked, effective) in lock(&self.dataplane).effective() {
            if !effective && hooked.attach_type.is_some() {
                missing.push(format!("{} has no effective program", hooked.hook));
            }
        }
        missing
    }

    fn policy(&self) -> Option<Arc<SourceSet>> {
        self.current().map(|current| Arc::clone(&current.sources))
    }

    fn flows(&self, query: &FlowQuery) -> FlowsDocument {
        let mut answer = self.flows.answer(query);
        if query.opens {
            self.follow_flows();
        }
        let dataplane = lock(&self.dataplane);
        answer.lost =
            dataplane.counter(Counter::FlowRecordsLost) + dataplane.counter(Counter::RecordsLost);
        answer
    }

    fn declared(&self) -> Vec<Declared> {
        let current = self.current();
        let services = current
            .iter()
            .flat_map(|current| current.policy.services.values());
        let trust_domain = &self.config.node.trust_domain;
        services
            .map(|service| declared(service, trust_domain))
            .collect()
    }

    fn certificates(&self) -> Option<Arc<Bundle>> {
        lock(&self.tunnel).as_ref().map(Tunnel::certificates)
    }

    fn observed(&self) -> Observed {
        let snapshot = self.snapshot();
        let pinned = lock(&self.dataplane).counting_since();
        let numbered = Duration::from_nanos(lock(&self.state).ids.epoch);
        let since = pinned.unwrap_or(UNIX_EPOCH).max(UNIX_EPOCH + numbered);
        Observed {
            schema_version: observed::SCHEMA_VERSION,
            since_unix_seconds: unix_seconds(since),
            decisions: snapshot.decisions.iter().map(DecisionView::from).collect(),
            recorded: lock(&self.denials).recent.list(),
        }
    }

    fn reload(&self) -> Result<Reloaded, Rejected> {
        Self::reload(self)
    }
}

impl Agent {
    fn policy_state(&self) -> Option<PolicyState> {
        let inherited = self.inherited_revision();
        let state = lock(&self.state);
        let common = PolicyState {
            revision: 0,
            digest: "unknown".into(),
            default: DefaultAction::Deny,
            services: 0,
            rules: 0,
            splits: 0,
            last_reload_successful: state.rejected.is_none(),
            last_success_timestamp_seconds: 0.0,
            apply_duration: Duration::ZERO,
            reloads_ok: state.reloads_ok,
            reloads_rejected: state.reloads_rejected,
        };
        let Some(current) = state.current.as_ref() else {
            return inherited.map(|revision| PolicyState { revision, ..common });
        };
        Some(PolicyState {
            revision: current.revision,
            digest: current.digest.as_str().into(),
            default: current.policy.default,
            services: current.policy.services.len() as u64,
            rules: current.policy.rules.len() as u64,
            splits: current.policy.splits.len() as u64,
            last_success_timestamp_seconds: unix_seconds(current.applied),
            apply_duration: current.took,
            ..common
        })
    }

    /// Revision of the policy in force if an earlier agent put it there.
    fn inherited_revision(&self) -> Option<u64> {
        if self.current().is_some() {
            return None;
        }
        let header = lock(&self.dataplane).header().ok()?;
        header.map(|header| header.revision)
    }

    fn policy_view(&self) -> Option<PolicyView> {
        match self.current() {
            Some(current) => Some(policy_view(&current)),
            None => self.inherited_revision().map(|revision| PolicyView {
                revision,
                digest: "unknown".into(),
                default: "as an earlier agent left it".into(),
                ..PolicyView::default()
            }),
        }
    }

    fn counters(&self) -> AgentCounters {
        let denials = lock(&self.denials);
        let health = lock(&self.health);
        AgentCounters {
            enforcement_repairs: health.repairs,
            canary_failures: health.canary_failures,
            denial_logs_suppressed: denials.suppressed,
            denial_records_malformed: denials.malformed,
            flows: self.flow_counters(),
            memory: self.memory_state(),
        }
    }

    fn memory_state(&self) -> MemoryState {
        MemoryState {
            limit: self.ceiling.budget.limit,
            shedding: self.ceiling.is_shedding.load(Ordering::Relaxed),
            shed: self.ceiling.times.load(Ordering::Relaxed),
        }
    }

    fn flow_counters(&self) -> FlowCounters {
        let (recorded, evicted) = self.flows.counts();
        FlowCounters {
            recorded,
            evicted,
            malformed: self.flows.malformed.load(Ordering::Relaxed),
            updates_skipped: self.live.skipped.load(Ordering::Relaxed),
            unseen: self.live.unseen.load(Ordering::Relaxed),
            log: self.flows.access_log(),
        }
    }

    fn memory_view(&self, snapshot: &Snapshot) -> MemoryView {
        let MemoryState {
            limit,
            shedding,
            shed,
        } = snapshot.agent.memory;
        MemoryView {
            agent_bytes: resident_bytes().unwrap_or_default(),
            heap_bytes: memory::heap().map(|heap| heap.used),
            maps_bytes: snapshot.maps.iter().map(|map| map.memory_bytes).sum(),
            uses: UseView::of(&snapshot.maps),
            usher_bytes: self.usher_bytes(),
            limit_bytes: Some(limit),
            policy_bytes: self.current().map_or(0, |current| current.needed),
            policy_limit_bytes: self.ceiling.budget.policy_bytes,
            shedding,
            shed,
        }
    }

    fn told_of_tunnel(&self) -> TunnelView {
        let tunnel = lock(&self.tunnel);
        tunnel.as_ref().map(Tunnel::told).unwrap_or_default()
    }

    fn health_view(&self) -> HealthView {
        let health = lock(&self.health);
        HealthView {
            canary: health.canary,
            canary_failures: health.canary_failures,
            repairs: health.repairs,
            last_repair: health.last.as_ref().map(|(when, what)| RepairView {
                unix_seconds: unix_seconds(*when),
                what: what.clone(),
            }),
            error: health.error.clone(),
        }
    }

    fn rejected(&self) -> Option<RejectedView> {
        let state = lock(&self.state);
        let rejected = state.rejected.as_ref()?;
        Some(RejectedView {
            rejected_unix_seconds: unix_seconds(rejected.when),
            diagnostics: rejected.diagnostics.clone(),
        })
    }
}

fn sandbox_view(sandbox: &Sandbox) -> SandboxView {
    let names = sandbox.capabilities.iter();
    SandboxView {
        capabilities: names.map(|name| (*name).to_owned()).collect(),
        system_calls: sandbox.system_calls,
        landlock: sandbox.landlock,
    }
}

fn declared(service: &Service, trust_domain: &str) -> Declared {
    let is_here = |endpoint: &Endpoint| endpoint.location == Location::Local;
    let versions: BTreeSet<&Arc<str>> = service.endpoints.iter().map(|e| &e.version).collect();
    Declared {
        service: service.name.to_string().into(),
        identity: Identity::Service(service.name.clone()).uri(trust_domain),
        vip: service.vip,
        local: service.workload.is_some() || service.endpoints.iter().any(is_here),
        versions: versions.into_iter().cloned().collect(),
    }
}

/// The programs that read requests, where there is something to read.
fn http_programs(http: &dataplane::HttpState) -> impl Iterator<Item = ProgramState> {
    let attached = http.missing == 0 && http.error.is_none();
    let wanted = HTTP_HOOKS.iter().filter(|_| http.wanted);
    wanted
        .map(move |hook| ProgramState {
            program: hook.program.into(),
            hook: hook.hook.into(),
            attached,
        })
        .collect::<Vec<_>>()
        .into_iter()
}

fn policy_view(current: &Current) -> PolicyView {
    PolicyView {
        revision: current.revision,
        digest: current.digest.clone(),
        files: current
            .sources
            .files
            .iter()
            .map(|file| file.name.to_string())
            .collect(),
        services: current.policy.services.len() as u64,
        rules: current.policy.rules.len() as u64,
        splits: current.policy.splits.len() as u64,
        default: match current.policy.default {
            DefaultAction::Deny => "deny".into(),
            DefaultAction::Allow => "allow".into(),
        },
        applied_unix_seconds: unix_seconds(current.applied),
        apply_seconds: current.took.as_secs_f64(),
    }
}

fn live(findings: &Findings, stats: &Stats) -> LiveFlows {
    let late = stats
        .decisions
        .iter()
        .filter(|(key, _)| key.reason == Reason::LateDenial.0);
    LiveFlows {
        supported: findings.supported,
        late_denials: late.map(|(_, count)| count).sum::<u64>() + findings.unseried,
        uncut: findings.uncut,
        unreached: findings.unreached,
        why_unreached: findings.why_unreached.clone(),
        sweeps: findings.sweeps,
        took: findings.took,
        leaving: Vec::new(),
    }
}

/// Versions that flows remain of or were closed of.
fn leaving(findings: &Findings, current: &Current) -> Vec<LeavingSeries> {
    let (remaining, closed) = (&findings.remaining, &findings.closed);
    let all: BTreeSet<&(u32, u32)> = remaining.keys().chain(closed.keys()).collect();
    let count = |counts: &Counts, key| counts.get(key).copied().unwrap_or_default();
    all.into_iter()
        .map(|key| LeavingSeries {
            service: current.names.service(key.0),
            version: current.names.version(key.1),
            remaining: count(remaining, key),
            closed: count(closed, key),
        })
        .collect()
}

fn crossing(protocol: u32) -> Crossing {
    match (
        protocol & flow_bit::MUTUAL_TLS,
        protocol & flow_bit::DESTINATION,
    ) {
        (0, _) => Crossing::None,
        (_, 0) => Crossing::Outbound,
        _ => Crossing::Inbound,
    }
}

fn transport(protocol: u32) -> Transport {
    if protocol & flow_bit::PROTOCOL == u32::from(IPPROTO_UDP) {
        Transport::Udp
    } else {
        Transport::Tcp
    }
}

/// Adds what has names: flows, decisions, shares.
fn name(snapshot: &mut Snapshot, stats: &Stats, current: &Current) {
    let names = &current.names;
    snapshot.flows = stats
        .flows
        .iter()
        .map(|(key, stats)| FlowSeries {
            source_service: names.subject(key.source),
            destination_service: names.service(key.service),
            destination_version: names.version(key.version),
            protocol: transport(key.protocol),
            crossing: crossing(key.protocol),
            stats: *stats,
        })
        .collect();
    requests::name(snapshot, stats, names);
    snapshot.decisions = stats
        .decisions
        .iter()
        .map(|(key, count)| DecisionSeries {
            rule: names.rule(key.rule),
            verdict: mesh_common::Verdict(key.verdict),
            reason: Reason(key.reason),
            source_service: names.subject(key.source),
            destination_service: names.service(key.service),
            protocol: transport(u32::from(key.protocol)),
            count: *count,
        })
        .collect();
    let opened = shares::opened(&stats.flows, names);
    snapshot.splits = shares::series(&current.policy, &opened, &current.opened_before);
}
