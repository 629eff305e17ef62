//! A reboot: of the policy nothing is left but what the agent saved, and the files are broken.
//!
//! Only in a guest of `cargo xtask vm`, which boots the same machine twice. Its only memory is a
//! disk, which is empty the first time.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::process::Command;

use mesh_tests::agent::command;
use mesh_tests::peer::Dial;
use mesh_tests::peer::Options;
use mesh_tests::shop::{ENDPOINT, FILE, POLICY, VIP};
use mesh_tests::{AgentProcess, Cgroup, Peer, Sandbox, host, kernel};

const DISK: &str = "/dev/vda";
const STATE: &str = "state/last-good.json";
/// Calls of each kind after the reboot.
const CALLS: u32 = 2000;

/// What the disk holds: its length in eight bytes, then that much.
fn read_disk() -> io::Result<Vec<u8>> {
    let mut disk = File::open(DISK)?;
    let mut length = [0; 8];
    disk.read_exact(&mut length)?;
    let mut bytes = vec![0; u64::from_le_bytes(length) as usize];
    disk.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn write_disk(bytes: &[u8]) -> io::Result<()> {
    let mut disk = File::options().write(true).open(DISK)?;
    disk.write_all(&(bytes.len() as u64).to_le_bytes())?;
    disk.write_all(bytes)?;
    disk.sync_all()
}

fn peer(system: &Cgroup, unit: &str) -> Peer {
    let cgroup = system.child(unit).expect("a cgroup");
    Peer::spawn_at(&cgroup, Options::default()).expect("a peer")
}

/// An agent runs with the policy, and what it saved for the next boot goes to the disk.
fn first_boot(sandbox: &Sandbox) {
    sandbox.write_policy(FILE, POLICY).expect("written");
    let agent = AgentProcess::start(sandbox).expect("the agent starts");
    agent.kill().expect("killed");
    let saved = fs::read(sandbox.path(STATE)).expect("the agent has saved its policy");
    write_disk(&saved).expect("written");
}

/// The unit that is ordered before everything else runs; then everybody dials at once.
fn second_boot(sandbox: &Sandbox, saved: &[u8]) {
    assert!(
        !kernel::enforces(sandbox).expect("the kernel answers"),
        "a fresh kernel"
    );
    fs::write(sandbox.path(STATE), saved).expect("written");
    sandbox.write_policy(FILE, "[[service]\n").expect("written");
    let loaded = command(sandbox, &["load"]).expect("it runs");
    let said = String::from_utf8_lossy(&loaded.stderr).into_owned();
    assert_eq!(loaded.status.code(), Some(0), "{said}");

    let system = Cgroup::at_root("system.slice").expect("no system manager");
    let mut server = peer(&system, "payments.service");
    server.serve_tcp(ENDPOINT, "v1").expect("a server");
    let (mut checkout, mut intruder) = (
        peer(&system, "checkout.service"),
        peer(&system, "intruder.service"),
    );
    let to = |text: &str| Dial::tcp(text.parse().expect("an address"));
    let refuse = |intruder: &mut Peer| {
        for address in [VIP, ENDPOINT] {
            let outcomes = intruder
                .dial(to(address).saying("").times(CALLS))
                .expect("outcomes");
            let wrong = outcomes.iter().filter(|one| one.errno() != Some("EPERM"));
            assert_eq!(wrong.count(), 0, "allowed after a reboot");
        }
    };
    refuse(&mut intruder);
    let answered = checkout.dial_once(to(VIP)).expect("an outcome");
    assert_eq!(answered.answered(), "v1", "{answered:?}");
    // The agent takes over, and still nobody gets in.
    let _agent = AgentProcess::start(sandbox).expect("the agent starts");
    refuse(&mut intruder);
    let answered = checkout.dial_once(to(VIP)).expect("an outcome");
    assert_eq!(answered.answered(), "v1", "{answered:?}");
}

#[test]
#[ignore = "needs a machine that is booted twice: only for cargo xtask vm"]
fn after_a_reboot_nobody_gets_in_whom_the_policy_denies() {
    host::run("reboot", |sandbox| {
        sandbox.take_whole_machine().expect("a guest");
        for module in ["virtio_pci", "virtio_blk"] {
            let status = Command::new("modprobe").arg(module).status();
            assert!(status.is_ok_and(|status| status.success()), "{module}");
        }
        match read_disk().expect("a disk") {
            empty if empty.is_empty() => first_boot(sandbox),
            saved => second_boot(sandbox, &saved),
        }
    });
}
