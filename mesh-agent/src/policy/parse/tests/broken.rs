//! Mistakes: each is reported once, where it is (`¦` marks the place), with what to do.

use super::{BASE, parsed};
use crate::policy::diagnostic::{Diagnostic, Severity};

/// Parses `text` as a.toml beside the base services; expects `code` at the mark and no more.
#[track_caller]
fn check(code: &str, text: &str) -> Diagnostic {
    check_files(code, &[("a.toml", text), ("base.toml", BASE)])
}

/// The same without the base services.
#[track_caller]
fn alone(code: &str, text: &str) -> Diagnostic {
    check_files(code, &[("a.toml", text)])
}

#[track_caller]
fn check_files(code: &str, files: &[(&str, &str)]) -> Diagnostic {
    let texts: Vec<(&str, String)> = files
        .iter()
        .map(|(name, text)| (*name, text.replace('¦', "")))
        .collect();
    let texts: Vec<(&str, &str)> = texts
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let parsed = parsed(&texts);
    let shown: String = parsed.diagnostics.iter().map(|d| d.render(false)).collect();
    let [diagnostic] = parsed.diagnostics.as_slice() else {
        panic!("expected one problem, found:\n{shown}");
    };
    let label = diagnostic.labels.first().expect("a place");
    let found = (diagnostic.code, &*label.file, label.line, label.column);
    let (file, line, column) = mark(files);
    assert_eq!(found, (code, file, line, column), "\n{shown}");
    assert!(
        diagnostic
            .help
            .as_ref()
            .is_some_and(|help| !help.is_empty()),
        "no help:\n{shown}"
    );
    assert_eq!(
        parsed.policy.is_none(),
        diagnostic.severity == Severity::Error
    );
    diagnostic.clone()
}

fn mark<'f>(files: &[(&'f str, &str)]) -> (&'f str, u32, u32) {
    let marked = files
        .iter()
        .find(|(_, text)| text.contains('¦'))
        .expect("a mark");
    let before = marked.1.split('¦').next().expect("a part");
    let last = before.rsplit('\n').next().expect("a line");
    (
        marked.0,
        before.matches('\n').count() as u32 + 1,
        last.chars().count() as u32 + 1,
    )
}

#[test]
fn syntax() {
    for text in [
        "[mesh]\ndefault = ¦deny\n",
        "[mesh¦\n",
        "[mesh]\n[¦mesh]\n",
        "[[service]]\nname = \"a¦\n",
        "[[service]]\nname = ¦\n",
        "[mesh]\ndefault ¦\"deny\"\n",
        "a = [1, 2¦",
        "\u{feff}[mesh]\ndefault = ¦deny\n",
    ] {
        check("syntax", text);
    }
}

#[test]
fn fields() {
    for (code, text) in [
        ("unknown-field", "¦wat = 1\n"),
        ("unknown-field", "[[¦services]]\nname = \"a\"\n"),
        ("unknown-field", "[mesh]\n¦defualt = \"deny\"\n"),
        (
            "unknown-field",
            "[[service]]\nname = \"a\"\nworkload = { uid = 7 }\n¦wight = 1\n",
        ),
        ("unknown-value", "[mesh]\ndefault = ¦\"denied\"\n"),
        ("wrong-type", "[mesh]\ndefault = ¦true\n"),
        ("wrong-type", "mesh = ¦3\n"),
        (
            "wrong-type",
            "¦[node]\nname = \"a\"\naddress = \"10.0.0.12\"\n",
        ),
        ("wrong-type", "node = [¦1]\n"),
        (
            "missing-field",
            "¦[[service]]\nnamespace = \"a\"\nworkload = { uid = 7 }\n",
        ),
        (
            "invalid-name",
            "[[service]]\nname = ¦\"Shop\"\nworkload = { uid = 7 }\n",
        ),
        (
            "invalid-name",
            "[[service]]\nname = ¦\"caf\u{e9}\"\nworkload = { uid = 7 }\n",
        ),
        (
            "invalid-name",
            "[[service]]\nname = ¦\"a\\u001b[2J\"\nworkload = { uid = 7 }\n",
        ),
        (
            "invalid-name",
            "[[service]]\nname = ¦\"*\"\nworkload = { uid = 7 }\n",
        ),
        (
            "invalid-name",
            "[[service]]\nname = \"a\"\nnamespace = ¦\"-x\"\nworkload = { uid = 7 }\n",
        ),
        (
            "invalid-duration",
            "[[service]]\nname = \"a\"\nworkload = { uid = 7 }\naffinity = \"client\"\naffinity_timeout = ¦\"10\"\n",
        ),
        (
            "unused-setting",
            "[[service]]\nname = \"a\"\nworkload = { uid = 7 }\naffinity_timeout = ¦\"10m\"\n",
        ),
        (
            "unknown-value",
            "[[service]]\nname = \"a\"\nworkload = { uid = 7 }\naffinity = ¦\"cleint\"\naffinity_timeout = \"10m\"\n",
        ),
    ] {
        check(code, text);
    }
}

#[test]
fn settings_of_the_mesh() {
    check_files(
        "duplicate-setting",
        &[
            ("a.toml", "[mesh]\ndefault = \"deny\"\n"),
            ("b.toml", "[mesh]\ndefault = ¦\"deny\"\n"),
            ("base.toml", BASE),
        ],
    );
    for text in [
        "vip_range = ¦\"10.0.0.0/7\"",
        "vip_range = ¦\"127.0.0.0/16\"",
        "vip_range = ¦\"::/8\"",
        "vip_range = ¦\"224.0.0.0/8\"",
    ] {
        check("invalid-vip-range", &format!("[mesh]\n{text}\n"));
    }
    check("invalid-cidr", "[mesh]\nvip_range = ¦\"10.96.0.0\"\n");
    check("invalid-cidr", "[mesh]\nvip_range = ¦\"10.96.0.1/16\"\n");
}

#[test]
fn nodes() {
    let edge2 = "[[node]]\nname = \"edge-2\"\naddress = \"10.0.0.12\"\n";
    // The loopback endpoints of the base have no node, so these stand alone.
    for (code, text) in [
        (
            "duplicate-node",
            format!("{edge2}[[node]]\nname = ¦\"edge-2\"\naddress = \"10.0.0.13\"\n"),
        ),
        (
            "duplicate-address",
            format!("{edge2}[[node]]\nname = \"edge-3\"\naddress = ¦\"10.0.0.12\"\n"),
        ),
        ("missing-field", "¦[[node]]\nname = \"edge-2\"\n".into()),
        (
            "invalid-node-address",
            "[[node]]\nname = \"edge-3\"\naddress = ¦\"0.0.0.0\"\n".into(),
        ),
        (
            "invalid-node-address",
            "[[node]]\nname = \"edge-3\"\naddress = ¦\"127.0.0.1\"\n".into(),
        ),
        (
            "invalid-address",
            "[[node]]\nname = \"edge-3\"\naddress = ¦\"edge-3.local\"\n".into(),
        ),
        (
            "invalid-address",
            "[[node]]\nname = \"edge-3\"\naddress = ¦\"::ffff:10.0.0.3\"\n".into(),
        ),
        (
            "node-mismatch",
            "[[node]]\nname = \"edge-1\"\naddress = ¦\"10.0.0.99\"\n".into(),
        ),
        (
            "node-mismatch",
            "[[node]]\nname = \"edge-9\"\naddress = ¦\"10.0.0.11\"\n".into(),
        ),
    ] {
        alone(code, &text);
    }
}

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
fn endpoints_and_nodes() {
    let nodes = "[[node]]\nname = \"edge-2\"\naddress = \"10.0.0.12\"\n";
    let text = service("endpoints = [{ address = ¦\"127.0.0.1:9\" }]");
    alone("ambiguous-loopback", &format!("{nodes}{text}"));
    let text = service("endpoints = [{ address = ¦\"127.0.0.1:9\", node = \"edge-2\" }]");
    let warning = alone("no-tunnel", &format!("{nodes}{text}"));
    assert_eq!(warning.severity, Severity::Warning);
    let text = service("endpoints = [{ address = ¦\"10.0.0.12:9\" }]");
    alone("no-tunnel", &format!("{nodes}{text}"));
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

#[test]
fn workloads() {
    for (code, workload) in [
        ("invalid-workload", "¦{ systemd = \"a.service\", uid = 7 }"),
        ("invalid-workload", "¦{}"),
        ("unknown-field", "{ uid = 7, ¦sytemd = 1 }"),
        ("wrong-type", "¦\"a.service\""),
        ("invalid-unit", "{ systemd = ¦\"a\" }"),
        ("invalid-unit", "{ systemd = ¦\"a-*\" }"),
        ("invalid-unit", "{ systemd = ¦\"a.timer\" }"),
        ("invalid-unit", "{ systemd = ¦\".service\" }"),
        ("invalid-unit", "{ systemd = ¦\"a@.service\" }"),
        ("invalid-unit", "{ systemd = ¦\"a[12].service\" }"),
        ("invalid-unit", "{ systemd = ¦\"system.slice/a.service\" }"),
        ("invalid-unit", "{ systemd = ¦\"shop-*.slice\" }"),
        ("invalid-unit", "{ systemd = ¦\"-.slice\" }"),
        ("invalid-unit", "{ systemd = ¦\"a--b.slice\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"a/b\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"/\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"/a//b\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"/a/\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"/a/../b\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"/sys/fs/cgroup/a.slice\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"/a/**\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"/a/[b]\" }"),
        ("invalid-uid", "{ uid = ¦4294967295 }"),
        ("invalid-uid", "{ uid = ¦-1 }"),
        ("wrong-type", "{ uid = ¦\"www-data\" }"),
        ("uid-root", "{ uid = ¦0 }"),
    ] {
        check(
            code,
            &format!("[[service]]\nname = \"a\"\nworkload = {workload}\n"),
        );
    }
    let long = "a".repeat(180);
    check(
        "selector-too-long",
        &format!("[[service]]\nname = \"a\"\nworkload = {{ systemd = ¦\"{long}.service\" }}\n"),
    );
    check(
        "selector-too-long",
        &format!("[[service]]\nname = \"a\"\nworkload = {{ cgroup = ¦\"/{long}/bcdef\" }}\n"),
    );
}

#[test]
fn contending_workloads() {
    for (code, first, second) in [
        ("same-workload", "{ uid = 7 }", "¦{ uid = 7 }"),
        (
            "same-workload",
            "{ systemd = \"a.service\" }",
            "¦{ systemd = \"a.service\" }",
        ),
        (
            "same-workload",
            "{ cgroup = \"/a/b\" }",
            "¦{ cgroup = \"/a/b\" }",
        ),
        (
            "same-workload",
            "{ systemd = \"a.service\" }",
            "¦{ cgroup = \"/system.slice/a.service\" }",
        ),
        (
            "same-workload",
            "{ systemd = \"a-b.slice\" }",
            "¦{ cgroup = \"/a.slice/a-b.slice\" }",
        ),
        (
            "overlapping-workloads",
            "{ systemd = \"a-*.service\" }",
            "¦{ systemd = \"*-b.service\" }",
        ),
        (
            "overlapping-workloads",
            "{ systemd = \"a-*.service\" }",
            "¦{ systemd = \"a-*.service\" }",
        ),
        (
            "overlapping-workloads",
            "{ cgroup = \"/m/a-*\" }",
            "¦{ cgroup = \"/m/a-?\" }",
        ),
    ] {
        let one = |name: &str, workload: &str| {
            format!("[[service]]\nname = \"{name}\"\nworkload = {workload}\n")
        };
        let both = alone(code, &(one("a", first) + &one("b", second)));
        assert_eq!(both.labels.len(), 2);
    }
}

#[test]
fn workloads_that_do_not_contend() {
    for (first, second) in [
        (
            "{ systemd = \"a-1.service\" }",
            "{ systemd = \"a-*.service\" }",
        ),
        (
            "{ systemd = \"a-*.service\" }",
            "{ systemd = \"b-*.service\" }",
        ),
        (
            "{ systemd = \"a-*.service\" }",
            "{ systemd = \"a-*.scope\" }",
        ),
        ("{ cgroup = \"/a/*\" }", "{ cgroup = \"/a/*/*\" }"),
        ("{ cgroup = \"/a\" }", "{ cgroup = \"/a/b\" }"),
        ("{ uid = 7 }", "{ uid = 8 }"),
    ] {
        let one = |name: &str, workload: &str| {
            format!("[[service]]\nname = \"{name}\"\nworkload = {workload}\n")
        };
        let text = one("a", first) + &one("b", second);
        assert_eq!(
            parsed(&[("a.toml", &text)]).diagnostics,
            [],
            "{first} {second}"
        );
    }
}

#[test]
fn splits() {
    let split = |rest: &str| format!("[[split]]\nservice = \"shop/payments\"\n{rest}\n");
    for (code, text) in [
        (
            "unknown-service",
            "[[split]]\nservice = ¦\"shop/paymets\"\nweights = { v1 = 1, v2 = 1 }\n".to_owned(),
        ),
        (
            "invalid-reference",
            "[[split]]\nservice = ¦\"payments\"\nweights = { v1 = 1, v2 = 1 }\n".to_owned(),
        ),
        (
            "invalid-reference",
            "[[split]]\nservice = ¦\"shop/*\"\nweights = { v1 = 1, v2 = 1 }\n".to_owned(),
        ),
        ("missing-field", format!("¦{}", split(""))),
        ("wrong-type", split("weights = ¦[1, 2]")),
        (
            "unknown-version",
            split("weights = { v1 = 1, v2 = 1, ¦v22 = 1 }"),
        ),
        ("unweighted-version", split("weights = ¦{ v1 = 1 }")),
        ("zero-weights", split("weights = ¦{ v1 = 0, v2 = 0 }")),
        (
            "weights-too-large",
            split("weights = ¦{ v1 = 9_999, v2 = 2 }"),
        ),
        ("invalid-weight", split("weights = { v1 = ¦-1, v2 = 1 }")),
        (
            "invalid-name",
            split("weights = { v1 = 1, v2 = 1, ¦V3 = 1 }"),
        ),
        (
            "never-matches",
            split("from = ¦[]\nweights = { v1 = 1, v2 = 1 }"),
        ),
        (
            "invalid-source",
            split("from = [¦\"*\"]\nweights = { v1 = 1, v2 = 1 }"),
        ),
        (
            "invalid-source",
            split("from = [¦{ cidr = \"10.0.0.0/8\" }]\nweights = { v1 = 1, v2 = 1 }"),
        ),
        (
            "duplicate-split",
            split("weights = { v1 = 1, v2 = 1 }")
                + &split("weights = { v1 = 1, v2 = 1 }").replace("\"shop", "¦\"shop"),
        ),
        (
            "duplicate-split",
            split("from = [\"host\"]\nweights = { v1 = 1, v2 = 1 }")
                + &split("from = [\"shop/*\", ¦\"host\"]\nweights = { v1 = 1, v2 = 1 }"),
        ),
    ] {
        check(code, &text);
    }
    assert!(
        check(
            "weights-too-large",
            &split("weights = ¦{ v1 = 99_999, v2 = 1 }")
        )
        .help
        .is_some_and(|help| help.contains("{ v1 = 1000, v2 = 1 }"))
    );
}

#[test]
fn rules() {
    let to_payments =
        |from: &str| format!("[[allow]]\nname = \"r\"\nfrom = {from}\nto = [\"shop/payments\"]\n");
    let to = |to: &str| format!("[[deny]]\nname = \"r\"\nfrom = [\"*\"]\nto = {to}\n");
    for (code, text) in [
        ("unknown-service", to_payments("[¦\"shop/chekout\"]")),
        ("unknown-namespace", to_payments("[¦\"shpo/*\"]")),
        ("invalid-reference", to_payments("[¦\"checkout\"]")),
        ("invalid-reference", to_payments("[¦\"shop\"]")),
        ("invalid-name", to_payments("[¦\"shop/Checkout\"]")),
        (
            "invalid-source",
            to_payments("[¦{ cidr = \"10.0.0.0/8\", node = \"edge-1\" }]"),
        ),
        ("unknown-node", to_payments("[{ node = ¦\"edge-7\" }]")),
        ("invalid-cidr", to_payments("[{ cidr = ¦\"10.0.0.1/8\" }]")),
        ("inbound-only", to_payments("[¦{ cidr = \"10.0.0.0/8\" }]")),
        ("inbound-only", to_payments("[¦{ node = \"edge-1\" }]")),
        ("wrong-type", to_payments("¦\"shop/checkout\"")),
        ("wrong-type", to_payments("[¦1]")),
        ("never-matches", to_payments("¦[]")),
        ("repeated-item", to_payments("[\"host\", ¦\"host\"]")),
        ("never-matches", to("¦[]")),
        ("invalid-target", to("[¦\"*\"]")),
        ("invalid-target", to("[¦\"host\"]")),
        ("never-matches", to("[¦\"shop/checkout\"]")),
        ("never-matches", to("[¦{ cidr = \"10.0.0.0/8\" }]")),
        (
            "unknown-port",
            to("[\"shop/payments\"]\nports = [¦\"htpt\"]"),
        ),
        (
            "unknown-port",
            to("[\"shop/payments\"]\nports = [80, ¦8081]"),
        ),
        ("wrong-type", to("[\"shop/payments\"]\nports = [¦\"80\"]")),
        ("invalid-port", to("[\"shop/payments\"]\nports = [¦0]")),
        (
            "unknown-value",
            to("[\"shop/payments\"]\nmode = ¦\"dry-run\""),
        ),
        (
            "missing-field",
            "¦[[allow]]\nfrom = [\"*\"]\nto = [\"shop/payments\"]\n".to_owned(),
        ),
        (
            "missing-field",
            "¦[[allow]]\nname = \"r\"\nto = [\"shop/payments\"]\n".to_owned(),
        ),
        (
            "duplicate-rule",
            to("[\"shop/payments\"]") + &to("[\"shop/*\"]").replace("\"r\"", "¦\"r\""),
        ),
    ] {
        check(code, &text);
    }
}

#[test]
fn rules_about_the_outside() {
    let caller = "[[service]]\nname = \"a\"\nworkload = { uid = 7 }\negress = \"deny\"\n";
    let rule = "[[allow]]\nname = \"r\"\nfrom = [\"default/a\"]\n";
    check(
        "port-name-outside",
        &format!("{caller}{rule}to = [{{ cidr = \"192.0.2.0/24\" }}]\nports = [¦\"http\"]\n"),
    );
    let inside_out = "[[allow]]\nname = \"r\"\nfrom = [\"default/a\", ¦{ cidr = \"10.0.0.0/8\" }]\nto = [{ cidr = \"192.0.2.0/24\" }]\n";
    check("never-matches", &format!("{caller}{inside_out}"));
    check(
        "unknown-field",
        &format!("{caller}{rule}to = [{{ cidr = \"192.0.2.0/24\", ¦port = 3 }}]\n"),
    );
}

#[test]
fn what_is_uncertain_is_not_reported() {
    // The file that would declare shop/checkout is broken: nobody knows whether it exists.
    let rule = "[[allow]]\nname = \"r\"\nfrom = [\"shop/checkout\", \"dev/*\"]\nto = [\"shop/payments\"]\nports = [\"http\"]\n";
    check_files(
        "syntax",
        &[
            ("a.toml", rule),
            ("b.toml", "[[service]]\nname = ¦checkout\n"),
        ],
    );
    // A port that was not understood may be the one the rule and the endpoint name.
    let service = "[[service]]\nname = \"a\"\nports = [{ name = \"p\", listen = ¦0 }]\nendpoints = [{ address = \"127.0.0.1:9\", port = \"p\" }]\n[[allow]]\nname = \"r\"\nfrom = [\"*\"]\nto = [\"default/a\"]\nports = [\"p\"]\n";
    alone("invalid-port", service);
    // So may the version.
    let split = "[[service]]\nname = \"a\"\nports = [{ name = \"p\", listen = 1 }]\nendpoints = [{ address = ¦\"x\", version = \"v1\" }]\n[[split]]\nservice = \"default/a\"\nweights = { v1 = 1 }\n";
    alone("invalid-address", split);
}

#[test]
fn all_problems_of_all_files_in_one_run() {
    let parsed = parsed(&[
        ("a.toml", "[[service]]\nname = \"A\"\nports = 3\nwat = 1\n"),
        ("b.toml", "[mesh]\ndefault = deny\nvip_range = 10\n[[x\n"),
        (
            "c.toml",
            "[[allow]]\nmode = \"x\"\nfrom = []\nto = [\"a\"]\nports = [0, \"P\"]\n",
        ),
        ("d.toml", BASE),
        ("e.toml", BASE),
    ]);
    let found: Vec<(&str, &str, u32)> = parsed
        .diagnostics
        .iter()
        .map(|d| (d.code, &*d.labels[0].file, d.labels[0].line))
        .collect();
    assert_eq!(
        found,
        [
            ("invalid-name", "a.toml", 2),
            ("wrong-type", "a.toml", 3),
            ("unknown-field", "a.toml", 4),
            ("syntax", "b.toml", 2),
            ("syntax", "b.toml", 4),
            ("missing-field", "c.toml", 1),
            ("unknown-value", "c.toml", 2),
            ("never-matches", "c.toml", 3),
            ("invalid-reference", "c.toml", 4),
            ("invalid-port", "c.toml", 5),
            ("invalid-name", "c.toml", 5),
            ("duplicate-service", "e.toml", 3),
            ("duplicate-service", "e.toml", 8),
        ]
    );
}

#[test]
fn a_flood_of_problems_is_bounded() {
    let parsed = parsed(&[("a.toml", &"[[service]]\nname = 3\n".repeat(5000))]);
    assert_eq!(parsed.diagnostics.len(), 1001);
    let last = parsed.diagnostics.last().expect("the rest");
    assert_eq!(last.code, "too-many-problems");
    assert_eq!(last.message, "4000 more problems are not shown");
}

#[test]
fn limits() {
    let service = |index: usize| {
        format!(
            "[[service]]\nname = \"s{index}\"\nworkload = {{ uid = {} }}\n",
            index + 1
        )
    };
    let services: String = (0..10_001).map(service).collect();
    let services = services.replace(
        "[[service]]\nname = \"s10000\"",
        "¦[[service]]\nname = \"s10000\"",
    );
    alone("too-many", &services);
}
