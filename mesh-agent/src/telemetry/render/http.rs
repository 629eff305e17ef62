//! Requests: how many, how they went, how long they took.

use std::collections::BTreeMap;
use std::fmt;

use mesh_common::{Counter, REQUEST_BOUNDS_NS};
use prometheus_client::registry::Unit;

use super::sheet::{Durations, Pair, Sheet, Value};
use crate::telemetry::registry::{Content, RequestLabels};
use crate::telemetry::snapshot::{Crossing, RequestProtocol, RequestRoute};

/// Writes the families of requests.
pub(super) fn encode(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
    requests(sheet, content)?;
    let durations = content.requests.durations.iter();
    sheet.family(
        "mesh_http_request_duration",
        Some(Unit::Seconds),
        "Time from the first byte of a request to the first byte of its response.",
        durations.map(|(route, timing)| {
            let durations = Durations {
                sum_ns: timing.sum_ns,
                counts: &timing.buckets,
                bounds_ns: &REQUEST_BOUNDS_NS,
            };
            (route_labels(route), Value::Durations(durations))
        }),
    )?;
    grpc(sheet, content)?;
    let unparsed = content.requests.unparsed.iter();
    sheet.family(
        "mesh_http_unparsed",
        None,
        "Connections whose requests could not be followed from some byte on, by why.",
        unparsed.map(|(labels, count)| {
            let labels = [
                ("destination_service", &*labels.destination),
                ("reason", labels.reason.name()),
            ];
            (labels, Value::Count(*count))
        }),
    )?;
    sheet.single(
        "mesh_http_frames_lost",
        None,
        "Frames of HTTP/2 that found the way to the agent full; their connections are not followed any further.",
        Some(Value::Count(content.snapshot.counter(Counter::HeadsLost))),
    )?;
    let http = &content.snapshot.http;
    let cgroups = [("read", http.cgroups), ("missed", http.missing)];
    sheet.family(
        "mesh_http_cgroups",
        None,
        "Cgroups of workloads that speak HTTP: whose requests are read, and whose should be and are not.",
        cgroups
            .into_iter()
            .filter(|_| http.wanted)
            .map(|(state, count)| ([("state", state)], Value::Gauge(count))),
    )
}

/// Requests on this host are counted where they arrive.
fn reporter(crossing: Crossing) -> &'static str {
    match crossing {
        Crossing::None | Crossing::Inbound => "destination",
        Crossing::Outbound => "source",
    }
}

fn route_labels(route: &RequestRoute) -> [Pair<'_>; 6] {
    let protocol = match route.protocol {
        RequestProtocol::Http => "http",
        RequestProtocol::Grpc => "grpc",
    };
    [
        ("reporter", reporter(route.crossing)),
        ("source_service", &route.source_service),
        ("destination_service", &route.destination_service),
        ("destination_version", &route.destination_version),
        ("connection_security_policy", route.crossing.security()),
        ("protocol", protocol),
    ]
}

fn requests(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
    let mut sums = BTreeMap::<(&RequestRoute, &str, u16), u64>::new();
    for (labels, count) in &content.requests.answers {
        let RequestLabels {
            route,
            method,
            response_code,
            grpc_status: _,
        } = labels;
        *sums.entry((route, method, *response_code)).or_default() += count;
    }
    let codes: Vec<(String, _)> = sums
        .into_iter()
        .map(|(key, count)| (key.2.to_string(), (key, count)))
        .collect();
    sheet.family(
        "mesh_http_requests",
        None,
        "Requests, by how they were answered; response code 0: the connection ended without an answer.",
        codes.iter().map(|(code, ((route, method, _), count))| {
            let [a, b, c, d, e, f] = route_labels(route);
            let labels = [a, b, c, d, e, f, ("method", *method), ("response_code", code)];
            (labels, Value::Count(*count))
        }),
    )
}

fn grpc(sheet: &mut Sheet<'_>, content: &Content) -> fmt::Result {
    let mut sums = BTreeMap::<(&RequestRoute, Option<u16>), u64>::new();
    for (labels, count) in &content.requests.answers {
        if labels.route.protocol == RequestProtocol::Grpc {
            let key = (&labels.route, labels.grpc_status);
            *sums.entry(key).or_default() += count;
        }
    }
    let calls: Vec<(String, _)> = sums
        .into_iter()
        .map(|((route, status), count)| {
            let status = status.map_or_else(|| "unknown".to_owned(), |status| status.to_string());
            (status, (route, count))
        })
        .collect();
    sheet.family(
        "mesh_grpc_requests",
        None,
        "gRPC calls by their status; unknown: none was told.",
        calls.iter().map(|(status, (route, count))| {
            let [a, b, c, d, e, _] = route_labels(route);
            let labels = [a, b, c, d, e, ("grpc_status", status)];
            (labels, Value::Count(*count))
        }),
    )
}
