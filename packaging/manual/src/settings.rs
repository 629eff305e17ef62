//! The `agent.toml` of a fresh installation: the example with every setting commented out.

/// Comments out what sets something; tables and comments stay, so that a default that changes
/// with the agent changes on every node that has not chosen another value.
pub(crate) fn commented(example: &str) -> String {
    let mut text = String::with_capacity(example.len());
    for line in example.lines() {
        let is_setting = line.starts_with(|first: char| first.is_ascii_lowercase());
        text.push_str(if is_setting { "#" } else { "" });
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use mesh_agent::config::AgentConfig;

    use super::commented;
    use crate::EXAMPLE;

    #[test]
    fn only_settings_are_commented_out() {
        let text = "# Words.\n[node]\nname = \"a\" # how\n\n# address = \"b\"\n";
        let expected = "# Words.\n[node]\n#name = \"a\" # how\n\n# address = \"b\"\n";
        assert_eq!(commented(text), expected);
    }

    #[test]
    fn a_fresh_installation_has_all_defaults() {
        let fresh = AgentConfig::parse("agent.toml", &commented(EXAMPLE));
        assert_eq!(fresh.ok(), AgentConfig::parse("agent.toml", "").ok());
        assert!(AgentConfig::parse("agent.toml", "").is_ok());
    }

    #[test]
    fn every_setting_of_the_example_is_shown() {
        let shown = commented(EXAMPLE);
        for line in EXAMPLE.lines().filter(|line| line.contains(" = ")) {
            assert!(shown.contains(line), "{line}");
        }
    }
}
