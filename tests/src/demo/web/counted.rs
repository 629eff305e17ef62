//! What the mesh has counted of checkout's calls to payments.

use std::io;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::Sandbox;
use crate::agent::{get, metric, series};
use crate::durations::Durations;

/// Labels of what checkout sends to payments.
const ROUTE: [(&str, &str); 2] = [
    ("source_service", "shop/checkout"),
    ("destination_service", "shop/payments"),
];

/// See the module.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) requests: u64,
    /// Answered by 500 and above, or not at all.
    pub(super) errors: u64,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    pub(super) connections: u64,
    /// Those to version 2.
    pub(super) canary: u64,
    pub(super) denied: u64,
    pub(super) durations: Durations,
}

impl Counted {
    pub(super) fn scrape(sandbox: &Sandbox) -> Result<Self> {
        let sum = |name: &str, more: &[(&str, &str)]| -> io::Result<u64> {
            Ok(metric(sandbox, name, &[&ROUTE, more].concat())? as u64)
        };
        let requests = series(sandbox, "mesh_http_requests_total")?;
        let is_error = |code: &str| code == "0" || code.starts_with('5');
        let errors = requests.iter().filter(|(labels, _)| {
            labels
                .get("response_code")
                .is_some_and(|code| is_error(code))
        });
        let denied = [
            ("verdict", "denied"),
            ("destination_service", "shop/payments"),
        ];
        Ok(Self {
            requests: sum("mesh_http_requests_total", &[])?,
            errors: errors.map(|(_, count)| *count as u64).sum(),
            sent_bytes: sum("mesh_tcp_sent_bytes_total", &[])?,
            received_bytes: sum("mesh_tcp_received_bytes_total", &[])?,
            connections: sum("mesh_tcp_connections_opened_total", &[])?,
            canary: sum(
                "mesh_tcp_connections_opened_total",
                &[("destination_version", "v2")],
            )?,
            denied: metric(sandbox, "mesh_authorization_decisions_total", &denied)? as u64,
            durations: Durations::scrape(sandbox)?,
        })
    }
}

/// What the page's map says on the way from checkout to payments.
pub(super) fn edge(sandbox: &Sandbox) -> Result<String> {
    let answer = get(sandbox, "/api/v1/graph?window=10")?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let graph: Value = serde_json::from_str(body).with_context(|| body.to_owned())?;
    let mut edges = graph["edges"].as_array().into_iter().flatten();
    let is_it =
        |edge: &&Value| edge["source"] == "shop/checkout" && edge["target"] == "shop/payments";
    let edge = edges.find(is_it).context("the map has no such edge")?;
    let text = |name: &str| edge[name].as_str().unwrap_or_default().to_owned();
    Ok(format!("{}, {}", text("mainstat"), text("secondarystat")))
}
