//! The demo does what it says and leaves nothing behind.

use std::process::Command;

use mesh_tests::cgroup;

#[test]
fn the_demo_finds_what_the_policy_says() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let child = Command::new(env!("CARGO_BIN_EXE_mesh-demo"))
        .args(["--requests", "200"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let pid = child.id();
    let output = child.wait_with_output().expect("ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("v1 198   v2 2 "), "{text}");
    assert!(text.lines().count() < 40, "{text}");
    let cgroup = format!("mesh-demo-{pid}-0");
    let left = cgroup::mount_point().expect("cgroup2").join(cgroup);
    assert!(!left.exists(), "{} is left behind", left.display());
}
