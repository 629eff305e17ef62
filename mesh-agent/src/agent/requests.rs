//! Requests: from ids and codes to names.

use std::collections::BTreeMap;

use mesh_common::http::{Method, RequestKey, RequestStats, Unparsed, request_bit};

use super::names::Names;
use crate::dataplane::Stats;
use crate::telemetry::snapshot::{
    Crossing, RequestDurations, RequestProtocol, RequestRoute, RequestSeries, Snapshot,
    UnparsedSeries,
};

/// Adds what was counted of requests.
pub(super) fn name(snapshot: &mut Snapshot, stats: &Stats, names: &Names) {
    snapshot.requests = stats
        .requests
        .iter()
        .map(|(key, stats)| RequestSeries {
            route: route(key, names),
            method: Method(key.method as u8).name(),
            response_code: key.status,
            grpc_status: None,
            count: stats.unanswered + stats.buckets.iter().sum::<u64>(),
        })
        .collect();
    snapshot.request_durations = durations(&stats.requests, names);
    snapshot.unparsed = stats
        .unparsed
        .iter()
        .map(|(key, count)| UnparsedSeries {
            destination_service: names.service(key.service),
            reason: Unparsed(key.reason as u8),
            count: *count,
        })
        .collect();
}

fn route(key: &RequestKey, names: &Names) -> RequestRoute {
    RequestRoute {
        source_service: names.subject(key.source),
        destination_service: names.service(key.service),
        destination_version: names.version(key.version),
        crossing: match key.bits & request_bit::MUTUAL_TLS {
            0 => Crossing::None,
            _ => Crossing::Inbound,
        },
        protocol: match key.bits & request_bit::GRPC {
            0 => RequestProtocol::Http,
            _ => RequestProtocol::Grpc,
        },
    }
}

/// Durations of all methods and codes together.
fn durations(requests: &[(RequestKey, RequestStats)], names: &Names) -> Vec<RequestDurations> {
    let mut sums = BTreeMap::<RequestRoute, RequestDurations>::new();
    for (key, stats) in requests {
        let route = route(key, names);
        let sum = sums
            .entry(route.clone())
            .or_insert_with(|| RequestDurations {
                route,
                buckets: Default::default(),
                sum_ns: 0,
            });
        sum.sum_ns += stats.elapsed_ns;
        for (sum, count) in sum.buckets.iter_mut().zip(stats.buckets) {
            *sum += count;
        }
    }
    sums.into_values().collect()
}
