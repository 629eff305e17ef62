//! The whole host: the agent at the root of the machine's own cgroups, where it is meant to be.
//!
//! Only in a guest of `cargo xtask vm`, where nobody else is.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use mesh_sys::effective_programs;
use mesh_tests::mesh::{Call, Decision};
use mesh_tests::peer::{Dial, Options, Outcome, Peer};
use mesh_tests::shop::{ENDPOINT, POLICY, VIP};
use mesh_tests::{AgentProcess, Cgroup, Mesh, agent, cgroup, host, kernel};

const OUTSIDE: &str = "127.0.0.1:9999";

fn spawn(path: &Path) -> Peer {
    Peer::spawn_at(path, Options::default()).expect("a peer")
}

fn dial(peer: &mut Peer, to: &str) -> Outcome {
    let to = to.parse().expect("an address");
    peer.dial_once(Dial::tcp(to)).expect("an outcome")
}

fn allowed() -> Decision {
    Decision::of_rule("allowed", "checkout-pays", "shop/checkout", "shop/payments")
}

fn denied(source: &str) -> Decision {
    Decision::of_rule("denied", "default", source, "shop/payments")
}

/// Ids of the programs that act on the machine's root.
fn programs(root: &Path) -> Vec<u32> {
    let root = File::open(root).expect("the root");
    let of_hook = |hook| effective_programs(root.as_fd(), hook).expect("the kernel answers");
    kernel::DECIDING.into_iter().flat_map(of_hook).collect()
}

#[test]
#[ignore = "attaches to the machine's own root: only for cargo xtask vm"]
fn the_agent_guards_a_whole_machine() {
    host::run("whole", |sandbox| {
        sandbox.take_whole_machine().expect("a guest");
        let root = cgroup::mount_point().expect("cgroup2");
        let system = Cgroup::at_root("system.slice").expect("no system manager");
        let child = |unit: &str| system.child(unit).expect("a cgroup");
        assert_eq!(programs(&root), [0u32; 0]);

        let policy = format!("{POLICY}\n[mesh]\ndefault = \"deny\"\n");
        let mut mesh = Mesh::start(sandbox, &policy);
        assert_eq!(mesh.status().problems, [""; 0]);
        assert_eq!(programs(&root).len(), kernel::DECIDING.len());
        let mut server = spawn(&child("payments.service"));
        server.serve_tcp(ENDPOINT, "v1").expect("a server");
        server.serve_tcp(OUTSIDE, "outside").expect("a server");
        let mut checkout = spawn(&child("checkout.service"));
        let mut callers = [
            (spawn(&child("intruder.service")), "dev/intruder"),
            (spawn(&child("ssh.service")), "host"),
            (spawn(&root), "host"),
        ];
        for to in [VIP, ENDPOINT] {
            mesh.expect_allowed(&dial(&mut checkout, to), "v1", allowed());
            for (caller, name) in &mut callers {
                mesh.expect_denied(&dial(caller, to), denied(name), Call::tcp(to));
            }
        }
        for (caller, _) in &mut callers {
            assert_eq!(dial(caller, OUTSIDE).answered(), "outside");
        }
        mesh.settle();

        // Without the agent, also for services whose cgroup is new.
        mesh.agent.take().expect("running").kill().expect("killed");
        let mut later = spawn(&child("checkout.service/later"));
        let mut again = spawn(&child("system-dev.slice/intruder.service"));
        assert_eq!(dial(&mut later, VIP).answered(), "v1");
        assert_eq!(dial(&mut again, VIP).errno(), Some("EPERM"));
        mesh.agent = Some(AgentProcess::start(sandbox).expect("the agent starts"));
        let decisions = "mesh_authorization_decisions_total";
        for (source, count) in [("shop/checkout", 3.0), ("dev/intruder", 3.0), ("host", 4.0)] {
            mesh.expect_metric(decisions, &[("source_service", source)], count);
        }

        mesh.agent.take().expect("running").kill().expect("killed");
        let unloaded = agent::command(sandbox, &["unload"]).expect("unload");
        assert!(unloaded.status.success(), "{unloaded:?}");
        assert_eq!(programs(&root), [0u32; 0]);
        assert_eq!(dial(&mut again, ENDPOINT).answered(), "v1");
    });
}
