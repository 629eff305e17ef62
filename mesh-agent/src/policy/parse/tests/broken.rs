//! Mistakes: each is reported once, where it is (`¦` marks the place), with what to do.

mod rules;
mod services;
mod workloads;

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
        (
            "unknown-field",
            "[[service]]\n¦nmae = \"a\"\nworkload = { uid = 7 }\n",
        ),
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
    assert_eq!(last.message, "at least 4000 more errors are not shown");
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
