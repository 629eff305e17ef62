//! Those parts of the agent that read what others write, without the rest of it: no BPF, no
//! async, so that a fuzz target is built in seconds. The sources are the agent's own.
#![forbid(unsafe_code)]

pub mod answers;
pub mod compiled;
pub mod grammar;
pub mod http1;
pub mod identity;
pub mod plain;
pub mod requests;
pub mod wires;

#[path = "../../mesh-agent/src/config/mod.rs"]
pub mod config;
#[path = "../../mesh-agent/src/policy/mod.rs"]
pub mod policy;
/// Records in words.
#[path = "../../mesh-agent/src/agent/words.rs"]
pub mod words;

/// The latest denials.
#[path = "../../mesh-agent/src/telemetry/denials.rs"]
pub mod denials;

use std::sync::Arc;

use policy::diagnostic::Diagnostic;
use policy::parse::{LocalNode, Parsed};

/// The node that reads the files.
pub fn local() -> LocalNode {
    LocalNode {
        name: "edge-1".into(),
        address: Some([10, 0, 0, 11].into()),
        trust_domain: "mesh.local".into(),
    }
}

/// A text of the fuzzer's as files: what is between NUL bytes.
pub fn files(text: &str) -> Vec<(Arc<str>, Arc<str>)> {
    let names = ["10.toml", "20.toml", "30.toml"].map(Arc::from);
    names
        .into_iter()
        .zip(text.split('\0').map(Arc::from))
        .collect()
}

/// What holds for the outcome of parsing, whatever the files say.
pub fn assert_sound(parsed: &Parsed) {
    let errors = parsed.diagnostics.iter().any(Diagnostic::is_error);
    assert_eq!(errors, parsed.policy.is_none());
    for diagnostic in &parsed.diagnostics {
        assert!(diagnostic.help.is_some(), "{diagnostic}");
        // What is shown on a terminal holds nothing that it would obey.
        let shown = diagnostic.render(false);
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!shown.contains(control), "{shown:?}");
        diagnostic.render(true);
    }
}

/// All diagnostics as they are shown.
pub fn shown(parsed: &Parsed) -> String {
    let render = |diagnostic: &Diagnostic| diagnostic.render(false);
    parsed.diagnostics.iter().map(render).collect()
}
