//! Mistakes in services, their ports and endpoints.

use super::{alone, check};
use crate::policy::diagnostic::Severity;

/// A service `x/a` with port http, and what follows.
fn service(rest: &str) -> String {
    format!(
        "[[service]]\nname = \"a\"\nnamespace = \"x\"\nports = [{{ name = \"http\", listen = 80 }}]\n{rest}\n"
    )
}

#[test]
fn ports() {
    for (code, text) in [
        (
            "invalid-port",
            "ports = [{ name = \"p\", listen = ¦99999 }]",
        ),
        ("invalid-port", "ports = [{ name = \"p\", listen = ¦0 }]"),
        ("invalid-port", "ports = [{ name = \"p\", listen = ¦-1 }]"),
        (
            "invalid-port",
            "ports = [{ name = \"p\", listen = ¦99999999999999999999999999999999999999999 }]",
        ),
        ("wrong-type", "ports = [{ name = \"p\", listen = ¦\"80\" }]"),
        ("wrong-type", "ports = ¦80"),
        ("wrong-type", "ports = [¦80]"),
        ("missing-field", "ports = [¦{ name = \"p\" }]"),
        (
            "unknown-value",
            "ports = [{ name = \"p\", listen = 80, protocol = ¦\"https\" }]",
        ),
        (
            "duplicate-port",
            "ports = [{ name = \"p\", listen = 80 }, { name = ¦\"p\", listen = 81 }]",
        ),
        (
            "duplicate-listen",
            "ports = [{ name = \"p\", listen = 80 }, { name = \"q\", listen = ¦80, protocol = \"http\" }]",
        ),
    ] {
        let endpoints = if code.starts_with("duplicate") {
            "endpoints = [{ address = \"127.0.0.1:9000\", port = \"p\" }]"
        } else {
            "endpoints = [{ address = \"127.0.0.1:9000\" }]"
        };
        check(
            code,
            &format!("[[service]]\nname = \"a\"\n{text}\n{endpoints}\n"),
        );
    }
}

#[test]
fn endpoints() {
    for (code, text) in [
        (
            "invalid-address",
            "endpoints = [{ address = ¦\"127.0.0.1\" }]",
        ),
        (
            "invalid-address",
            "endpoints = [{ address = ¦\"127.0.0.1:99999\" }]",
        ),
        ("invalid-address", "endpoints = [{ address = ¦\"::1:80\" }]"),
        (
            "invalid-address",
            "endpoints = [{ address = ¦\"[fe80::1%2]:80\" }]",
        ),
        (
            "invalid-address",
            "endpoints = [{ address = ¦\"localhost:80\" }]",
        ),
        (
            "invalid-port",
            "endpoints = [{ address = ¦\"127.0.0.1:0\" }]",
        ),
        (
            "invalid-endpoint",
            "endpoints = [{ address = ¦\"0.0.0.0:80\" }]",
        ),
        (
            "invalid-endpoint",
            "endpoints = [{ address = ¦\"224.0.0.1:80\" }]",
        ),
        (
            "invalid-endpoint",
            "endpoints = [{ address = ¦\"255.255.255.255:80\" }]",
        ),
        (
            "duplicate-endpoint",
            "endpoints = [{ address = \"127.0.0.1:9\" }, { address = ¦\"127.0.0.1:9\" }]",
        ),
        (
            "invalid-weight",
            "endpoints = [{ address = \"127.0.0.1:9\", weight = ¦0 }]",
        ),
        (
            "wrong-type",
            "endpoints = [{ address = \"127.0.0.1:9\", weight = ¦1.5 }]",
        ),
        (
            "weights-too-large",
            "endpoints = [{ address = \"127.0.0.1:9\", weight = 10_000 }, ¦{ address = \"127.0.0.1:10\", weight = 9_999 }]",
        ),
        (
            "unknown-port",
            "endpoints = [{ address = \"127.0.0.1:9\", port = ¦\"htpp\" }]",
        ),
        (
            "unknown-node",
            "endpoints = [{ address = \"127.0.0.1:9\", node = ¦\"egde-1\" }]",
        ),
        (
            "unknown-field",
            "endpoints = [{ address = \"127.0.0.1:9\", ¦nod = \"edge-1\" }]",
        ),
        ("address-family", "endpoints = [{ address = ¦\"[::1]:9\" }]"),
        (
            "address-family",
            "vip = \"fd00::1\"\nendpoints = [{ address = ¦\"127.0.0.1:9\" }]",
        ),
    ] {
        check(code, &service(text));
    }
    let two_ports = "[[service]]\nname = \"a\"\nports = [{ name = \"p\", listen = 80 }, { name = \"q\", listen = 81 }]\n";
    check(
        "missing-port",
        &format!("{two_ports}endpoints = [¦{{ address = \"127.0.0.1:9\" }}]\n"),
    );
    // The base declares the same endpoint, and comes later by its file's and service's name.
    let same = "[[service]]\nname = \"z\"\nnamespace = \"z\"\nports = [{ name = \"p\", listen = 80 }]\nendpoints = [{ address = ¦\"127.0.0.1:8081\" }]\n";
    let both = check("duplicate-endpoint", same);
    assert_eq!(
        both.labels
            .iter()
            .map(|label| &*label.file)
            .collect::<Vec<_>>(),
        ["a.toml", "base.toml"]
    );
}

#[test]
fn flows_to_endpoints_that_leave() {
    for (code, text) in [
        ("unknown-value", "on_weight_change = ¦\"drian\""),
        (
            "unknown-value",
            "on_weight_change = ¦\"cloes\"\ndrain_timeout = \"10s\"\nclose_rate = 5",
        ),
        ("wrong-type", "on_weight_change = ¦true"),
        (
            "invalid-duration",
            "on_weight_change = \"drain\"\ndrain_timeout = ¦\"10\"",
        ),
        (
            "invalid-duration",
            "on_weight_change = \"drain\"\ndrain_timeout = ¦\"0s\"",
        ),
        (
            "invalid-rate",
            "on_weight_change = \"close\"\nclose_rate = ¦0",
        ),
        (
            "invalid-rate",
            "on_weight_change = \"close\"\nclose_rate = ¦1_000_001",
        ),
        (
            "wrong-type",
            "on_weight_change = \"close\"\nclose_rate = ¦\"10\"",
        ),
        (
            "wrong-type",
            "on_weight_change = \"close\"\nclose_rate = ¦0.5",
        ),
        ("unused-setting", "close_rate = ¦10"),
        ("unused-setting", "drain_timeout = ¦\"10s\""),
        (
            "unused-setting",
            "on_weight_change = \"close\"\ndrain_timeout = ¦\"10s\"",
        ),
        (
            "unused-setting",
            "on_weight_change = \"keep\"\nclose_rate = ¦10",
        ),
        ("unknown-field", "¦on_weight_chnage = \"drain\""),
    ] {
        let endpoint = "endpoints = [{ address = \"127.0.0.1:9\" }]";
        check(code, &service(&format!("{text}\n{endpoint}")));
    }
}

#[test]
fn endpoints_and_nodes() {
    let nodes = "[[node]]\nname = \"edge-2\"\naddress = \"10.0.0.12\"\n";
    let text = service("endpoints = [{ address = ¦\"127.0.0.1:9\" }]");
    alone("ambiguous-loopback", &format!("{nodes}{text}"));
    let udp = |rest: &str| service(rest).replace("listen = 80", "listen = 80, protocol = \"udp\"");
    let text = udp("endpoints = [{ address = ¦\"127.0.0.1:9\", node = \"edge-2\" }]");
    let warning = alone("no-tunnel", &format!("{nodes}{text}"));
    assert_eq!(warning.severity, Severity::Warning);
    let text = udp("endpoints = [{ address = ¦\"10.0.0.12:9\" }]");
    alone("no-tunnel", &format!("{nodes}{text}"));
    check(
        "unknown-value",
        &service("tls = ¦\"none\"\nendpoints = [{ address = \"127.0.0.1:9\" }]"),
    );
    let text = "endpoints = [{ address = \"10.0.0.12:9\", tls = ¦\"strict\" }]";
    alone("unknown-value", &format!("{nodes}{}", service(text)));
}

#[test]
fn services() {
    for (code, text) in [
        (
            "duplicate-service",
            "[[service]]\nname = \"a\"\nworkload = { uid = 7 }\n[[service]]\nname = ¦\"a\"\nworkload = { uid = 8 }\n",
        ),
        (
            "endpoints-without-ports",
            "[[service]]\nname = \"a\"\nendpoints = ¦[{ address = \"127.0.0.1:9\" }]\n",
        ),
        (
            "vip-without-ports",
            "[[service]]\nname = \"a\"\nworkload = { uid = 7 }\nvip = ¦\"10.96.0.11\"\n",
        ),
        (
            "no-endpoints",
            "[[service]]\nname = ¦\"a\"\nports = [{ name = \"p\", listen = 80 }]\n",
        ),
        ("useless-service", "[[service]]\nname = ¦\"a\"\n"),
        (
            "invalid-vip",
            "[[service]]\nname = \"a\"\nvip = ¦\"127.0.0.1\"\nports = [{ name = \"p\", listen = 80 }]\nendpoints = [{ address = \"127.0.0.1:9\" }]\n",
        ),
        (
            "invalid-vip",
            "[[service]]\nname = \"a\"\nvip = ¦\"224.0.0.1\"\nports = [{ name = \"p\", listen = 80 }]\nendpoints = [{ address = \"127.0.0.1:9\" }]\n",
        ),
        (
            "invalid-vip",
            "[[service]]\nname = \"a\"\nvip = ¦\"::\"\nports = [{ name = \"p\", listen = 80 }]\nendpoints = [{ address = \"127.0.0.1:9\" }]\n",
        ),
        (
            "vip-in-use",
            "[[service]]\nname = \"a\"\nvip = ¦\"10.0.0.9\"\nports = [{ name = \"p\", listen = 80 }]\nendpoints = [{ address = \"10.0.0.9:9\" }]\n",
        ),
        (
            "vip-in-use",
            "[[node]]\nname = \"edge-1\"\naddress = \"10.0.0.11\"\n[[service]]\nname = \"a\"\nvip = ¦\"10.0.0.11\"\nports = [{ name = \"p\", listen = 80 }]\nendpoints = [{ address = \"10.0.0.9:9\" }]\n",
        ),
        (
            "duplicate-vip",
            "[[service]]\nname = \"a\"\nnamespace = \"z\"\nvip = ¦\"10.96.0.10\"\nports = [{ name = \"p\", listen = 80 }]\nendpoints = [{ address = \"127.0.0.1:9\" }]\n",
        ),
        (
            "vip-range-exhausted",
            "[mesh]\nvip_range = \"10.9.9.9/32\"\n[[service]]\nname = \"a\"\nports = [{ name = \"p\", listen = 80 }]\nendpoints = [{ address = \"127.0.0.1:9\" }]\n[[service]]\nname = ¦\"b\"\nports = [{ name = \"p\", listen = 80 }]\nendpoints = [{ address = \"127.0.0.1:10\" }]\n",
        ),
    ] {
        check(code, text);
    }
}
