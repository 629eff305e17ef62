//! Services and how they are: the document of `GET /api/v1/services`.
//!
//! This is a public format: fields are added, never renamed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::{CONNECT_BOUNDS_NS, REQUEST_BOUNDS_NS};
use serde::{Deserialize, Serialize};

use super::declared::Declared;
use super::quantile::quantile;
use super::series::Count as _;
use super::shares::{Shares, VersionView};
use super::traffic::{Requests, Traffic};
use super::window::{Counted, Measured};

/// Version of the documents' form.
pub const SCHEMA_VERSION: u32 = 1;

/// Services and how they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Services {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// When, seconds since 1970.
    pub time_unix_seconds: f64,
    /// Over which time rates, ratios and quantiles are, seconds; 0 while they are unknown.
    pub window_seconds: f64,
    /// Those of the policy, and whatever else calls or is called.
    pub services: Vec<ServiceView>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name; or `host`, `outside`, `unknown`, `other`.
    pub service: String,
    /// Its SPIFFE id, if policy declares it.
    pub identity: Option<String>,
    /// What clients dial.
    pub vip: Option<String>,
    /// Whether processes or endpoints of it are on this node.
    pub local: bool,
    /// Its versions.
    pub versions: Vec<VersionView>,
    /// What it is called for.
    pub inbound: TrafficView,
    /// What it calls.
    pub outbound: TrafficView,
}

/// What was counted between two, or of one with all others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficView {
    /// TCP connections that are established now.
    pub connections_open: u64,
    /// TCP connections that were established, and UDP flows that were begun.
    pub connections_opened_total: u64,
    /// Connections that were allowed and never established.
    pub connections_failed_total: u64,
    /// Calls that were denied.
    pub denied_total: u64,
    /// Bytes from the caller, TCP only.
    pub sent_bytes_total: u64,
    /// Bytes to the caller, TCP only.
    pub received_bytes_total: u64,
    /// Requests; `None` where none are measured.
    pub requests_total: Option<u64>,
    /// Requests that the server failed to answer well.
    pub request_errors_total: Option<u64>,
    /// What happened over the window.
    pub rates: RatesView,
    /// How long it took, over the window.
    pub latency: LatencyView,
}

/// What happened a second, over the window; all `None` while there is no window yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RatesView {
    /// Connections established.
    pub connections_per_second: Option<f64>,
    /// Requests; `None` where none are measured.
    pub requests_per_second: Option<f64>,
    /// Bytes from the caller.
    pub sent_bytes_per_second: Option<f64>,
    /// Bytes to the caller.
    pub received_bytes_per_second: Option<f64>,
    /// Requests that failed, or connections that were never established where no requests are
    /// measured.
    pub errors_per_second: Option<f64>,
    /// Calls that were denied.
    pub denied_per_second: Option<f64>,
    /// Share of requests that went well, 0 to 1, or of connections where no requests are measured;
    /// `None` without any.
    pub success_ratio: Option<f64>,
}

/// How long something took: quantiles, interpolated in the buckets of a histogram.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyView {
    /// Of what.
    pub of: LatencyOf,
    /// Half of them took no longer, seconds; `None` if there were none.
    pub p50_seconds: Option<f64>,
    /// 95 of 100 took no longer.
    pub p95_seconds: Option<f64>,
    /// 99 of 100 took no longer.
    pub p99_seconds: Option<f64>,
}

/// What was timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatencyOf {
    /// From the first byte of a request to the first of its response.
    Request,
    /// From `connect()` to established.
    #[default]
    Connect,
}

impl TrafficView {
    pub(super) fn new(counted: &Counted, over: Option<Duration>) -> Self {
        let Counted { total, recent } = counted;
        let requests = total.requests.as_deref();
        Self {
            connections_open: total.open(),
            connections_opened_total: total.opened,
            connections_failed_total: total.failed,
            denied_total: total.denied,
            sent_bytes_total: total.sent_bytes,
            received_bytes_total: total.received_bytes,
            requests_total: requests.map(|requests| requests.total),
            request_errors_total: requests.map(|requests| requests.errors),
            rates: over.map_or_else(RatesView::default, |over| RatesView::new(recent, over)),
            latency: LatencyView::new(recent, requests.is_some()),
        }
    }
}

impl TrafficView {
    /// Requests a second, or attempts to connect where no requests are measured.
    pub fn calls_per_second(&self) -> Option<f64> {
        let RatesView {
            connections_per_second,
            requests_per_second,
            errors_per_second,
            ..
        } = self.rates;
        match self.latency.of {
            LatencyOf::Request => requests_per_second,
            LatencyOf::Connect => Some(connections_per_second? + errors_per_second?),
        }
    }
}

impl RatesView {
    fn new(recent: &Traffic, over: Duration) -> Self {
        let rate = |count: u64| count as f64 / over.as_secs_f64();
        let requests = recent.requests.as_deref();
        Self {
            connections_per_second: Some(rate(recent.opened)),
            requests_per_second: requests.map(|requests| rate(requests.total)),
            sent_bytes_per_second: Some(rate(recent.sent_bytes)),
            received_bytes_per_second: Some(rate(recent.received_bytes)),
            errors_per_second: Some(rate(
                requests.map_or(recent.failed, |requests| requests.errors),
            )),
            denied_per_second: Some(rate(recent.denied)),
            success_ratio: error_share(recent).map(|share| 1.0 - share),
        }
    }
}

/// Share of requests, or where there are none of connections, that failed; `None` without any.
pub(super) fn error_share(recent: &Traffic) -> Option<f64> {
    let (bad, all) = match recent.requests.as_deref() {
        Some(Requests { errors, total, .. }) => (*errors, *total),
        None => (recent.failed, recent.failed + recent.opened),
    };
    (all > 0).then(|| bad as f64 / all as f64)
}

impl LatencyView {
    fn new(recent: &Traffic, of_requests: bool) -> Self {
        let none = Requests::default();
        let (of, bounds, buckets) = if of_requests {
            let requests = recent.requests.as_deref().unwrap_or(&none);
            (
                LatencyOf::Request,
                &REQUEST_BOUNDS_NS[..],
                &requests.durations[..],
            )
        } else {
            let bounds = &CONNECT_BOUNDS_NS[..];
            (LatencyOf::Connect, bounds, &recent.connects[..])
        };
        let quantile = |q| quantile(q, bounds, buckets);
        Self {
            of,
            p50_seconds: quantile(0.5),
            p95_seconds: quantile(0.95),
            p99_seconds: quantile(0.99),
        }
    }
}

/// What one service has to do with all others.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    pub(super) inbound: Counted,
    pub(super) outbound: Counted,
}

impl Counted {
    fn add(&mut self, other: &Self) {
        self.total.add(&other.total);
        self.recent.add(&other.recent);
    }
}

/// Everyone who is declared, calls or is called, in lexical order.
pub(super) fn ends<'a>(
    declared: &'a [Declared],
    measured: &'a Measured<'_>,
) -> BTreeMap<&'a str, Ends> {
    let mut ends: BTreeMap<&str, Ends> = declared
        .iter()
        .map(|declared| (&*declared.service, Ends::default()))
        .collect();
    for (pair, counted) in &measured.pairs {
        ends.entry(&pair.source).or_default().outbound.add(counted);
        ends.entry(&pair.destination)
            .or_default()
            .inbound
            .add(counted);
    }
    ends
}

/// Whether a service, or what else is there, is on this node.
pub(super) fn is_local(name: &str, known: Option<&Declared>) -> bool {
    known.map_or(name == "host", |known| known.local)
}

/// The services of a policy by name.
pub(super) fn by_name(declared: &[Declared]) -> BTreeMap<&str, &Declared> {
    declared.iter().map(|one| (&*one.service, one)).collect()
}

/// Everything the documents are made of.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    pub(super) time_unix_seconds: f64,
    pub(super) declared: &'a [Declared],
    pub(super) shares: Shares<'a>,
    pub(super) measured: Measured<'a>,
}

impl Services {
    pub(super) fn new(scene: &Scene<'_>) -> Self {
        let over = scene.measured.over;
        let declared = by_name(scene.declared);
        let ends = ends(scene.declared, &scene.measured);
        let view = |(name, ends): (&str, Ends)| {
            let known = declared.get(name);
            ServiceView {
                service: name.into(),
                identity: known.map(|known| known.identity.clone()),
                vip: known.and_then(|known| known.vip).map(|vip| vip.to_string()),
                local: is_local(name, known.copied()),
                versions: versions(known.copied(), &scene.shares),
                inbound: TrafficView::new(&ends.inbound, over),
                outbound: TrafficView::new(&ends.outbound, over),
            }
        };
        Self {
            schema_version: SCHEMA_VERSION,
            time_unix_seconds: scene.time_unix_seconds,
            window_seconds: seconds(over),
            services: ends.into_iter().map(view).collect(),
        }
    }
}

/// The shares of a service's versions, or the only one it has.
pub(super) fn versions(known: Option<&Declared>, shares: &Shares<'_>) -> Vec<VersionView> {
    let Some(known) = known else {
        return Vec::new();
    };
    let split = shares.of(&known.service);
    if !split.is_empty() {
        return split;
    }
    let alone = |version: &Arc<str>| VersionView {
        version: version.to_string(),
        ..VersionView::default()
    };
    known.versions.iter().map(alone).collect()
}

pub(super) fn seconds(over: Option<Duration>) -> f64 {
    let millis = over.unwrap_or_default().as_millis();
    millis as f64 / 1000.0
}
