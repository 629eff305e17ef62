//! The kernel side loads, attaches and goes away.

use mesh_tests::{Mesh, agent, host};

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
        // They stay without the agent, and go with `unload`.
        mesh.agent.take().expect("running").kill().expect("killed");
        let pins = sandbox.path("bpf").join("mesh");
        assert!(pins.exists());
        let unloaded = agent::command(sandbox, &["unload"]).expect("unload");
        assert!(unloaded.status.success(), "{unloaded:?}");
        assert!(!pins.exists());
    });
}
