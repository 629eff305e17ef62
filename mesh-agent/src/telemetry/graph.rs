//! Who calls whom: the document of `GET /api/v1/graph`, nodes and edges as Grafana's node graph
//! panel takes them.
//!
//! This is a public format: fields are added, never renamed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::services::{
    Ends, LatencyOf, SCHEMA_VERSION, Scene, TrafficView, by_name, ends, error_share, is_local,
    seconds, versions,
};
use super::shares::VersionView;
use super::traffic::{Pair, Traffic};
use super::window::Counted;

/// Who calls whom.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// When, seconds since 1970.
    pub time_unix_seconds: f64,
    /// Over which time rates, shares and quantiles are, seconds; 0 while they are unknown.
    pub window_seconds: f64,
    /// Services of the policy, and whatever else calls or is called.
    pub nodes: Vec<Node>,
    /// Who calls, or tried to.
    pub edges: Vec<Edge>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// `namespace/name`; or `host`, `outside`, `unknown`, `other`.
    pub id: String,
    /// Its name.
    pub title: String,
    /// Its namespace, or what it is.
    pub subtitle: String,
    /// How often it is called, or calls if it never is.
    pub mainstat: String,
    /// How long that takes.
    pub secondarystat: String,
    /// Share of calls to it, or by it if it is never called, that went well. The three shares add
    /// up to 1.
    #[serde(rename = "arc__allowed")]
    pub arc_allowed: f64,
    /// Share that was denied.
    #[serde(rename = "arc__denied")]
    pub arc_denied: f64,
    /// Share that failed.
    #[serde(rename = "arc__failed")]
    pub arc_failed: f64,
    /// Its SPIFFE id, empty if policy does not declare it.
    #[serde(rename = "detail__identity")]
    pub detail_identity: String,
    /// What clients dial, or empty.
    #[serde(rename = "detail__vip")]
    pub detail_vip: String,
    /// Whether it is on this node.
    #[serde(rename = "detail__local")]
    pub detail_local: bool,
    /// Its versions and their shares, as people read them.
    #[serde(rename = "detail__versions")]
    pub detail_versions: String,
}

/// Calls of one to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// Unique among edges.
    pub id: String,
    /// Who calls: a node.
    pub source: String,
    /// Who is called: a node.
    pub target: String,
    /// How much.
    pub mainstat: String,
    /// How long it takes, and what share fails.
    pub secondarystat: String,
    /// `none`, `mutual_tls`, or `mixed` where only some of the connections cross the network.
    pub security: String,
    /// Whether calls were denied in the window, or every one there ever was.
    pub denied: bool,
    /// Of what `rate`, `error_share` and `p99_seconds` are.
    pub rate_of: LatencyOf,
    /// Requests a second, or attempts to connect where no requests are measured; `None` while
    /// unknown. What was denied is no part of it.
    pub rate: Option<f64>,
    /// Share of them that failed, 0 to 1.
    pub error_share: f64,
    /// 99 of 100 took no longer, seconds; `None` if there were none.
    pub p99_seconds: Option<f64>,
    /// Calls that were denied a second; `None` while unknown.
    pub denied_per_second: Option<f64>,
    /// Shares of versions, where there is a choice.
    pub versions: Vec<VersionView>,
    /// Everything that was counted.
    pub traffic: TrafficView,
}

impl Graph {
    pub(super) fn new(scene: &Scene<'_>) -> Self {
        let ends = ends(scene.declared, &scene.measured);
        let pairs = &scene.measured.pairs;
        Self {
            schema_version: SCHEMA_VERSION,
            time_unix_seconds: scene.time_unix_seconds,
            window_seconds: seconds(scene.measured.over),
            nodes: nodes(scene, ends),
            edges: pairs
                .iter()
                .map(|(pair, counted)| edge(scene, pair, counted))
                .collect(),
        }
    }
}

fn nodes(scene: &Scene<'_>, ends: BTreeMap<&str, Ends>) -> Vec<Node> {
    let declared = by_name(scene.declared);
    let node = |(name, ends): (&str, Ends)| {
        let known = declared.get(name).copied();
        let called = ends.inbound.total != Traffic::default();
        let side = if called {
            &ends.inbound
        } else {
            &ends.outbound
        };
        let view = TrafficView::new(side, scene.measured.over);
        let (title, subtitle) = titles(name);
        let (allowed, denied, failed) = arcs(&side.recent);
        Node {
            id: name.into(),
            title: title.into(),
            subtitle: subtitle.into(),
            mainstat: main_stat(&view),
            secondarystat: p99(&view),
            arc_allowed: allowed,
            arc_denied: denied,
            arc_failed: failed,
            detail_identity: known
                .map(|known| known.identity.clone())
                .unwrap_or_default(),
            detail_vip: known
                .and_then(|known| known.vip)
                .map(|vip| vip.to_string())
                .unwrap_or_default(),
            detail_local: is_local(name, known),
            detail_versions: in_words(&versions(known, &scene.shares)),
        }
    };
    ends.into_iter().map(node).collect()
}

/// What a node is called, and what it is.
fn titles(name: &str) -> (&str, &str) {
    match name {
        "host" => (name, "processes of no service"),
        "outside" => (name, "not in the mesh"),
        "unknown" => (name, "nobody knows who"),
        "other" => (name, "beyond the limit of series"),
        _ => match name.split_once('/') {
            Some((namespace, name)) => (name, namespace),
            None => (name, ""),
        },
    }
}

/// Shares of calls that went well, were denied, failed. They add up to 1.
fn arcs(recent: &Traffic) -> (f64, f64, f64) {
    let calls = recent.opened + recent.failed + recent.denied;
    if calls == 0 {
        return (1.0, 0.0, 0.0);
    }
    let denied = recent.denied as f64 / calls as f64;
    let failed = error_share(recent).unwrap_or_default() * (1.0 - denied);
    (1.0 - denied - failed, denied, failed)
}

fn edge(scene: &Scene<'_>, pair: &Pair, counted: &Counted) -> Edge {
    let Counted { total, recent } = counted;
    let view = TrafficView::new(counted, scene.measured.over);
    let share = error_share(recent).unwrap_or_default();
    let errors = (share > 0.0).then(|| format!("{:.1} % errors", share * 100.0));
    let latency = Some(p99(&view)).filter(|text| !text.is_empty());
    let second: Vec<String> = latency.into_iter().chain(errors).collect();
    Edge {
        id: format!("{} -> {}", pair.source, pair.destination),
        source: pair.source.to_string(),
        target: pair.destination.to_string(),
        mainstat: main_stat(&view),
        secondarystat: second.join(", "),
        security: security(total, recent).into(),
        denied: recent.denied > 0 || total.denied > 0 && total.opened + total.failed == 0,
        rate_of: view.latency.of,
        rate: view.calls_per_second(),
        error_share: share,
        p99_seconds: view.latency.p99_seconds,
        denied_per_second: view.rates.denied_per_second,
        versions: scene.shares.between(&pair.source, &pair.destination),
        traffic: view,
    }
}

/// How the bytes are protected: of recent connections if there are any.
fn security(total: &Traffic, recent: &Traffic) -> &'static str {
    let of = if recent.opened > 0 { recent } else { total };
    match of.tls {
        0 => "none",
        tls if tls == of.opened => "mutual_tls",
        _ => "mixed",
    }
}

fn main_stat(view: &TrafficView) -> String {
    let unit = match view.latency.of {
        LatencyOf::Request => "req/s",
        LatencyOf::Connect => "conn/s",
    };
    match (view.calls_per_second(), view.rates.denied_per_second) {
        (None, _) => String::new(),
        (Some(0.0), Some(denied)) if denied > 0.0 => format!("{denied:.1} denied/s"),
        (Some(rate), _) => format!("{rate:.1} {unit}"),
    }
}

fn p99(view: &TrafficView) -> String {
    let seconds = view.latency.p99_seconds;
    let text = seconds.map(|seconds| match seconds {
        s if s < 0.001 => format!("p99 {:.0} \u{b5}s", s * 1e6),
        s if s < 1.0 => format!("p99 {:.1} ms", s * 1e3),
        s => format!("p99 {s:.2} s"),
    });
    text.unwrap_or_default()
}

/// `v1 99.0 % (99) / v2 1.0 % (1)`: observed, and wanted in brackets.
fn in_words(versions: &[VersionView]) -> String {
    let words = versions.iter().map(|share| {
        let version = &share.version;
        let observed = share
            .observed
            .map(|share| format!(" {:.1} %", share * 100.0));
        let weight = share
            .weight
            .map(|share| format!(" ({})", (share * 1e4).round() / 100.0));
        version.clone() + &observed.unwrap_or_default() + &weight.unwrap_or_default()
    });
    words.collect::<Vec<_>>().join(" / ")
}
