//! Connections between nodes.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::registry::Unit;

use super::sheet::{Pair, Sheet, Value};
use crate::telemetry::tunnel::TunnelView;

/// Writes the families of connections between nodes.
pub(super) fn encode(sheet: &mut Sheet<'_>, tunnel: &TunnelView) -> fmt::Result {
    handshakes(sheet, tunnel)?;
    pool(sheet, tunnel)?;
    flows(sheet, tunnel)?;
    listeners(sheet, tunnel)?;
    sheet.family(
        "mesh_certificate_expiration_timestamp",
        Some(Unit::Seconds),
        "When a certificate of this node, a root or a revocation list ends, since 1970.",
        tunnel.certificates.iter().map(|certificate| {
            let labels = [("kind", &*certificate.kind), ("name", &*certificate.name)];
            (labels, Value::Level(certificate.not_after_unix_seconds))
        }),
    )
}

fn by<'a>(
    label: &'static str,
    counts: &'a BTreeMap<String, u64>,
) -> impl Iterator<Item = ([Pair<'a>; 1], Value<'a>)> {
    counts
        .iter()
        .map(move |(value, count)| ([(label, &**value)], Value::Count(*count)))
}

fn handshakes(sheet: &mut Sheet<'_>, tunnel: &TunnelView) -> fmt::Result {
    let each = tunnel.handshakes.iter().flat_map(|(role, outcomes)| {
        outcomes.iter().map(move |(outcome, count)| {
            let labels = [("role", &**role), ("outcome", &**outcome)];
            (labels, Value::Count(*count))
        })
    });
    sheet.family(
        "mesh_tls_handshakes",
        None,
        "TLS handshakes with other nodes.",
        each,
    )?;
    sheet.family(
        "mesh_tunnel_dial_failures",
        None,
        "Connections to other nodes that were not made.",
        by("cause", &tunnel.dial_failures),
    )?;
    sheet.family(
        "mesh_tunnel_turned_away",
        None,
        "Connections of other hosts that were turned away because there were too many.",
        by("cause", &tunnel.turned_away),
    )?;
    sheet.single(
        "mesh_tunnel_sessions_revoked",
        None,
        "Sessions that were cut because their peer is no longer trusted, or no longer a node.",
        Some(Value::Count(tunnel.sessions_revoked)),
    )
}

fn pool(sheet: &mut Sheet<'_>, tunnel: &TunnelView) -> fmt::Result {
    let requests = [("hit", tunnel.pool.hits), ("miss", tunnel.pool.misses)];
    sheet.family(
        "mesh_tunnel_pool_requests",
        None,
        "Flows that found a connection ready (hit), and those that had to make one.",
        requests.map(|(result, count)| ([("result", result)], Value::Count(count))),
    )?;
    sheet.single(
        "mesh_tunnel_pool_idle",
        None,
        "Connections to other nodes that are ready for a flow.",
        Some(Value::Gauge(tunnel.pool.idle)),
    )?;
    sheet.family(
        "mesh_tunnel_pool_closed",
        None,
        "Connections that were ready for a flow and were closed without one.",
        by("cause", &tunnel.pool.closed),
    )
}

fn flows(sheet: &mut Sheet<'_>, tunnel: &TunnelView) -> fmt::Result {
    let open = [
        ("outbound", tunnel.outbound_flows),
        ("inbound", tunnel.inbound_flows),
    ];
    sheet.family(
        "mesh_tunnel_flows",
        None,
        "Flows between nodes that are open.",
        open.map(|(direction, count)| ([("direction", direction)], Value::Gauge(count))),
    )?;
    for (name, help, count) in [
        (
            "mesh_tunnel_flows_broken",
            "Flows that ended because the connection between the agents did.",
            tunnel.flows_broken,
        ),
        (
            "mesh_tunnel_flows_refused",
            "Flows that were refused because there were too many.",
            tunnel.flows_refused,
        ),
        (
            "mesh_tunnel_strays",
            "Connections to a listener for redirected calls that nobody had redirected.",
            tunnel.strays,
        ),
        (
            "mesh_tunnel_records_dropped",
            "Refusals that were counted and not recorded because there were too many.",
            tunnel.records_dropped,
        ),
    ] {
        sheet.single(name, None, help, Some(Value::Count(count)))?;
    }
    Ok(())
}

fn listeners(sheet: &mut Sheet<'_>, tunnel: &TunnelView) -> fmt::Result {
    let namespaces = [
        ("open", tunnel.namespaces),
        ("failed", tunnel.namespaces_failed),
    ];
    sheet.family(
        "mesh_tunnel_namespaces",
        None,
        "Network namespaces whose calls to other nodes are taken (open) or refused.",
        namespaces.map(|(state, count)| ([("state", state)], Value::Gauge(count))),
    )
}
