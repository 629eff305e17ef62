//! The kernel side loads, attaches and goes away.

use std::collections::BTreeMap;

use aya::programs::loaded_programs;
use mesh_tests::{Cgroup, Mesh, Sandbox, agent, host, kernel, names};

const HOOKS: [&str; 15] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    "bind4",
    "bind6",
    "sock_create",
    "sock_ops",
    "ingress",
    "cgroup_mkdir",
    "cgroup_rmdir",
];

/// How many instructions the verifier may look at, for a million at most. Old kernels, which tell
/// less of what they have seen already from what is new, look at many times as many as new ones.
const VERIFIED_AT_MOST: u32 = 800_000;

/// Panics if a program is close to being too complex for this kernel.
fn has_room_to_grow(sandbox: &Sandbox) {
    let links = kernel::links(sandbox).expect("links");
    let ids: Vec<u32> = links.values().map(|linked| linked.program).collect();
    let ours = loaded_programs()
        .flatten()
        .filter(|info| ids.contains(&info.id()));
    let counts = ours.filter_map(|info| {
        let name = info.name_as_str()?.to_owned();
        Some((name, info.verified_instruction_count()?))
    });
    let counts: BTreeMap<String, u32> = counts.collect();
    assert!(counts.len() > 10, "{counts:?}");
    let fit = counts.values().all(|count| *count <= VERIFIED_AT_MOST);
    assert!(fit, "close to the verifier's limit: {counts:#?}");
}

#[test]
fn every_program_is_effective_until_unload() {
    host::run("load", |sandbox| {
        let mut mesh = Mesh::start(sandbox, "[mesh]\ndefault = \"deny\"\n");
        let status = mesh.status();
        assert_eq!(status.problems, [""; 0]);
        let mut effective: Vec<&str> = status
            .programs
            .iter()
            .filter(|program| program.effective)
            .map(|program| program.hook.as_str())
            .collect();
        effective.sort_unstable();
        let mut expected = HOOKS;
        expected.sort_unstable();
        assert_eq!(effective, expected);
        for program in &status.programs {
            let labels = [("program", program.program.as_str())];
            mesh.expect_metric("mesh_bpf_program_attached", &labels, 1.0);
        }
        has_room_to_grow(sandbox);
        // They stay without the agent, and go with `unload`.
        mesh.agent.take().expect("running").kill().expect("killed");
        let pins = sandbox.path("bpf").join("mesh");
        assert!(pins.exists());
        let unloaded = agent::command(sandbox, &["unload"]).expect("unload");
        assert!(unloaded.status.success(), "{unloaded:?}");
        assert!(!pins.exists());
    });
}

const SPEAKS_HTTP: &str = r#"
[mesh]
default = "deny"

[[service]]
name = "payments"
vip = "10.96.0.10"
ports = [{ name = "http", listen = 80, protocol = "http" }]
workload = { systemd = "payments.service" }
endpoints = [{ address = "127.0.0.1:8081" }]
"#;

#[test]
fn every_program_that_reads_requests_is_effective_where_it_is_wanted() {
    host::run("load-http", |sandbox| {
        let workload = sandbox.cgroup.child(names::PAYMENTS).expect("a cgroup");
        sandbox.cgroup.child(names::CHECKOUT).expect("a cgroup");
        let mut mesh = Mesh::start(sandbox, SPEAKS_HTTP);
        let effective = |mesh: &Mesh<'_>, hook: &str| {
            let programs = mesh.status().programs;
            let mut found = programs.iter().filter(|program| program.hook == hook);
            found.next().map(|program| program.effective)
        };
        for hook in ["http_ingress", "http_egress"] {
            assert_eq!(
                effective(&mesh, hook),
                Some(true),
                "{}",
                agent::log(sandbox)
            );
        }
        let id = Cgroup::id(&workload).expect("an id");
        let pins = || kernel::links(sandbox).expect("links");
        let http = |pins: &BTreeMap<String, kernel::Linked>| {
            let names = pins.keys().filter(|name| name.starts_with("http-"));
            names.cloned().collect::<Vec<_>>()
        };
        let expected = ["egress", "ingress"].map(|side| format!("http-{id}-http_{side}"));
        assert_eq!(http(&pins()), expected, "only where the workload is");
        has_room_to_grow(sandbox);
        // Nothing is left of them without such a service.
        mesh.reload("[mesh]\ndefault = \"deny\"\n");
        assert_eq!(http(&pins()), [""; 0]);
        assert_eq!(effective(&mesh, "http_ingress"), None);
    });
}
