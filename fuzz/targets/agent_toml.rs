//! Any text as `agent.toml`: settings, or errors that can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_fuzz::config::AgentConfig;

fuzz_target!(|text: &str| {
    match AgentConfig::parse("agent.toml", text) {
        Ok(config) => assert!(config.paths.config_dir.is_absolute()),
        Err(diagnostics) => {
            assert!(diagnostics.iter().any(|diagnostic| diagnostic.is_error()));
            for diagnostic in diagnostics {
                assert!(diagnostic.help.is_some());
                diagnostic.render(true);
            }
        }
    }
});
