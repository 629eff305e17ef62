//! Settings of Envoy as TCP proxy.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::certificates;
use super::contestant::Target;
use super::peers::{CONNECTIONS, Plan};
use super::site::Side;

/// In JSON, which is YAML.
pub(super) fn settings(plan: &Plan<'_>) -> String {
    let listeners: Vec<Value> = plan
        .hops()
        .map(|(target, from, _)| listener(plan, target, from))
        .collect();
    let clusters: Vec<Value> = plan
        .hops()
        .map(|(target, _, to)| cluster(plan, target, to))
        .collect();
    json!({ "static_resources": { "listeners": listeners, "clusters": clusters } }).to_string()
}

fn listener(plan: &Plan<'_>, target: Target, from: SocketAddr) -> Value {
    let name = format!("{target:?}");
    let proxy = json!({
        "@type": format!("{EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": name, "cluster": name, "idle_timeout": "0s",
    });
    let mut chain = json!({
        "filters": [{ "name": "envoy.filters.network.tcp_proxy", "typed_config": proxy }],
    });
    if plan.side == Side::Far {
        chain["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": format!("{EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext"),
                "require_client_certificate": true,
                "common_tls_context": tls(plan, certificates::NEAR),
            },
        });
    }
    json!({ "name": name, "address": address(from), "filter_chains": [chain] })
}

fn cluster(plan: &Plan<'_>, target: Target, to: SocketAddr) -> Value {
    let name = format!("{target:?}");
    let endpoint = json!({ "endpoint": { "address": address(to) } });
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [{
            "max_connections": CONNECTIONS, "max_pending_requests": CONNECTIONS,
            "max_requests": CONNECTIONS,
        }] },
        "load_assignment": {
            "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }],
        },
    });
    if plan.side == Side::Near {
        cluster["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": format!("{EXTENSIONS}.transport_sockets.tls.v3.UpstreamTlsContext"),
                "sni": certificates::FAR,
                "common_tls_context": tls(plan, certificates::FAR),
            },
        });
    }
    cluster
}

/// Own certificate, and whose is accepted of the other end.
fn tls(plan: &Plan<'_>, other: &str) -> Value {
    json!({
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [{
            "certificate_chain": { "filename": plan.certificate() },
            "private_key": { "filename": plan.key() },
        }],
        "validation_context": {
            "trusted_ca": { "filename": plan.root },
            "match_typed_subject_alt_names": [{
                "san_type": "DNS", "matcher": { "exact": other },
            }],
        },
    })
}

fn address(address: SocketAddr) -> Value {
    let (ip, port) = (address.ip().to_string(), address.port());
    json!({ "socket_address": { "address": ip, "port_value": port } })
}

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";
