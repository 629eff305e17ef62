//! agent.toml: defaults, everything set, and mistakes.

use std::path::Path;
use std::time::Duration;

use super::{AgentConfig, LogLevel};
use crate::identity::Identity;

#[test]
fn the_example_says_the_defaults() {
    let example = include_str!("../../../examples/agent.toml");
    let example = AgentConfig::parse("agent.toml", example).expect("the example");
    let defaults = AgentConfig::parse("agent.toml", "[node]\nname = \"edge-1\"\n");
    assert_eq!(example, defaults.expect("the defaults"));
    assert_eq!(example.limits.memory, 32 << 20);
    assert_eq!(example.tunnel.listen.to_string(), "0.0.0.0:15008");
    assert_eq!(example.tunnel.drain, Duration::from_secs(5));
    assert_eq!(example.admin.listen.to_string(), "127.0.0.1:15020");
    assert_eq!(
        (example.log.level, example.log.kernel),
        (LogLevel::Info, LogLevel::Warn)
    );
    assert_eq!(example.paths.cgroup_root, None);
    assert_eq!(&*example.local_node().trust_domain, "mesh.local");
}

#[test]
fn everything_set() {
    let text = r#"
[node]
name = "edge-9"
trust_domain = "example.org"
address = "2001:db8::9"
[paths]
config_dir = "/a"
state_dir = "/b"
bpffs = "/c"
run_dir = "/d"
cgroup_root = "/e"
[tunnel]
listen = "[::]:1"
certificates = "/f"
drain = "0s"
[admin]
listen = "0.0.0.0:2"
tls = true
token_file = "/g"
clients = ["spiffe://example.org/ns/ops/sa/prometheus", "spiffe://example.org/node/edge-2"]
[flows]
updates = "1m"
[access_log]
file = "/g"
journald = true
rate = 7
[limits]
memory = "1GiB"
[log]
level = "off"
kernel = "trace"
"#;
    let config = AgentConfig::parse("agent.toml", text).expect("a configuration");
    assert_eq!(config.paths.cgroup_root.as_deref(), Some(Path::new("/e")));
    assert_eq!(config.tunnel.certificates, Path::new("/f"));
    assert_eq!(config.tunnel.drain, Duration::ZERO);
    assert_eq!(config.flows.updates, Duration::from_secs(60));
    assert_eq!(config.access_log.file.as_deref(), Some(Path::new("/g")));
    assert!(config.access_log.journald && config.access_log.is_on());
    assert_eq!(config.access_log.rate, 7);
    assert_eq!(config.limits.memory, 1 << 30);
    let access = &config.admin.access;
    assert!(access.is_safe());
    assert_eq!(access.tls, Some(Identity::Node("edge-9".into())));
    assert_eq!(access.token_file.as_deref(), Some(Path::new("/g")));
    assert_eq!(access.clients[1], Identity::Node("edge-2".into()));
    assert_eq!(config.log.kernel.name(), "trace");
}

#[test]
fn mistakes() {
    for (code, line, text) in [
        ("syntax", 1, "[node\n"),
        ("unknown-field", 1, "[nodes]\nname = \"a\"\n"),
        ("unknown-field", 2, "[node]\nnmae = \"a\"\n"),
        ("wrong-type", 1, "node = 3\n"),
        ("invalid-name", 2, "[node]\nname = \"Edge 1\"\n"),
        (
            "invalid-trust-domain",
            2,
            "[node]\ntrust_domain = \"spiffe://x\"\n",
        ),
        ("invalid-trust-domain", 2, "[node]\ntrust_domain = \"\"\n"),
        ("invalid-address", 2, "[node]\naddress = \"10.0.0.1:80\"\n"),
        ("invalid-node-address", 2, "[node]\naddress = \"0.0.0.0\"\n"),
        ("invalid-path", 2, "[paths]\nstate_dir = \"var\"\n"),
        ("invalid-path", 2, "[paths]\nrun_dir = \"/run/../etc\"\n"),
        ("invalid-path", 2, "[paths]\nrun_dir = \"\"\n"),
        ("invalid-address", 2, "[tunnel]\nlisten = \"15008\"\n"),
        ("invalid-duration", 2, "[tunnel]\ndrain = \"5\"\n"),
        ("invalid-duration", 2, "[tunnel]\ndrain = \"\"\n"),
        ("invalid-duration", 2, "[tunnel]\ndrain = \"61m\"\n"),
        ("wrong-type", 2, "[tunnel]\ndrain = 5\n"),
        (
            "invalid-address",
            2,
            "[admin]\nlisten = \"localhost:15020\"\n",
        ),
        ("invalid-duration", 2, "[flows]\nupdates = \"0s\"\n"),
        ("invalid-path", 2, "[access_log]\nfile = \"access\"\n"),
        ("wrong-type", 2, "[access_log]\njournald = \"yes\"\n"),
        ("invalid-rate", 2, "[access_log]\nrate = 0\n"),
        ("wrong-type", 2, "[admin]\ntls = \"yes\"\n"),
        ("invalid-path", 2, "[admin]\ntoken_file = \"token\"\n"),
        ("open-admin", 2, "[admin]\nlisten = \"0.0.0.0:15020\"\n"),
        (
            "open-admin",
            2,
            "[admin]\nlisten = \"[::]:15020\"\ntls = true\n",
        ),
        (
            "open-admin",
            2,
            "[admin]\nlisten = \"192.0.2.1:15020\"\ntoken_file = \"/t\"\n",
        ),
        (
            "no-tls",
            2,
            "[admin]\nclients = [\"spiffe://mesh.local/node/edge-2\"]\n",
        ),
        (
            "invalid-identity",
            3,
            "[admin]\ntls = true\nclients = [\"shop/cart\"]\n",
        ),
        (
            "invalid-identity",
            3,
            "[admin]\ntls = true\nclients = [\"spiffe://other/node/edge-2\"]\n",
        ),
        ("invalid-size", 2, "[limits]\nmemory = \"32MB\"\n"),
        ("invalid-size", 2, "[limits]\nmemory = \"0MiB\"\n"),
        ("wrong-type", 2, "[limits]\nmemory = 32\n"),
        ("unknown-value", 2, "[log]\nlevel = \"verbose\"\n"),
    ] {
        let problems = AgentConfig::parse("agent.toml", text).expect_err(text);
        let found: Vec<_> = problems
            .iter()
            .map(|d| (d.code, d.labels[0].line))
            .collect();
        assert_eq!(found, [(code, line)], "{text}");
        assert!(problems[0].help.is_some(), "{text}");
    }
    let many = "[node]\nname = 3\n[paths]\nbpffs = 3\n[log]\nlevel = 3\n";
    assert_eq!(
        AgentConfig::parse("agent.toml", many)
            .expect_err("mistakes")
            .len(),
        3
    );
}

#[test]
fn missing_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("agent.toml");
    assert!(AgentConfig::load(&path, false).is_ok());
    let problems = AgentConfig::load(&path, true).expect_err("a problem");
    assert_eq!(problems[0].code, "missing-file");
    let problems = AgentConfig::load(directory.path(), false).expect_err("a problem");
    assert_eq!(problems[0].code, "not-a-file");
}

#[test]
fn what_can_be_understood_of_a_broken_file_is_salvaged() {
    let paths = "[paths]\nbpffs = \"/pins\"\n";
    for (mistake, code) in [
        ("[limits]\nmemory = \"lots\"\n", "invalid-size"),
        ("[node]\nname = \"Not one\"\n", "invalid-name"),
        ("[tunnel]\nlisten = \n", "syntax"),
        ("limits = 3\n", "wrong-type"),
        ("[admin]\ntls = true\nclients = [3]\n", "wrong-type"),
        ("[limts]\n", "unknown-field"),
    ] {
        let text = match mistake.starts_with('[') {
            true => format!("{paths}{mistake}"),
            false => format!("{mistake}{paths}"),
        };
        let (config, problems) = AgentConfig::understand("agent.toml", &text);
        assert_eq!(config.paths.bpffs, Path::new("/pins"), "{text}");
        assert_eq!(config.limits.memory, 32 << 20, "{text}");
        let codes: Vec<_> = problems.iter().map(|problem| problem.code).collect();
        assert_eq!(codes, [code], "{text}");
        assert!(AgentConfig::parse("agent.toml", &text).is_err(), "{text}");
    }
}
