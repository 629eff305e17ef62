//! What is shipped for Prometheus and Grafana.

use std::path::{Path, PathBuf};
use std::process::Command;

use mesh_tests::prometheus::has;

const RULES: [&str; 3] = ["mesh-alerts.yml", "mesh-recording.yml", "mesh-istio.yml"];

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../dashboards")
        .join(name)
}

fn promtool(arguments: &[&str], files: &[PathBuf]) {
    let output = Command::new("promtool")
        .args(arguments)
        .args(files)
        .output()
        .expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
}

#[test]
fn rules_are_right_and_fire_when_they_should() {
    if !has("promtool") {
        return;
    }
    let files = RULES.map(|name| shipped("rules").join(name));
    promtool(&["check", "rules"], &files);
    promtool(&["test", "rules"], &[shipped("rules/test.yml")]);
}
