//! What must not be in the archive, and taking it out.

use std::fs;
use std::path::Path;

use crate::config::AgentConfig;

/// What stands instead.
const REMOVED: &str = "[removed]";
/// Shorter texts are no secrets, but would be found everywhere, bytes.
const SHORTEST: usize = 8;
/// Largest file that is looked at, bytes.
const LARGEST: u64 = 1 << 20;

/// Lines of keys and tokens of this node.
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Reads what the settings name. What cannot be read cannot be searched for.
    pub(super) fn of(config: &AgentConfig) -> Self {
        let mut lines = Vec::new();
        if let Some(token) = &config.admin.access.token_file {
            lines.extend(lines_of(token));
        }
        for entry in fs::read_dir(&config.tunnel.certificates)
            .into_iter()
            .flatten()
            .flatten()
        {
            let found = lines_of(&entry.path());
            // Certificates are public, and may be told.
            lines.extend(keys(&found).cloned());
        }
        lines.retain(|line| line.len() >= SHORTEST);
        lines.sort_unstable();
        lines.dedup();
        Self(lines)
    }

    /// `text` without them.
    pub(super) fn remove(&self, mut text: String) -> String {
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), REMOVED);
            }
        }
        text
    }
}

fn lines_of(path: &Path) -> Vec<String> {
    let small = fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= LARGEST);
    let text = small.then(|| fs::read_to_string(path).ok()).flatten();
    let text = text.unwrap_or_default();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// The lines between the beginning and the end of a private key.
fn keys(lines: &[String]) -> impl Iterator<Item = &String> {
    let mut inside = false;
    lines.iter().filter(move |line| {
        if line.contains("PRIVATE KEY-----") {
            inside = line.contains("BEGIN");
            return false;
        }
        inside
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_tokens_are_taken_out_and_certificates_are_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("token"), "a-long-token\n").expect("written");
        let pem = "-----BEGIN CERTIFICATE-----\ncertificate-line\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\nkey-line-one\nkey-line-two\n-----END PRIVATE KEY-----\n";
        fs::write(path("node.pem"), pem).expect("written");
        let text = format!(
            "[node]\nname = \"a\"\n[tunnel]\ncertificates = \"{}\"\n[admin]\ntoken_file = \"{}\"\n",
            directory.path().display(),
            path("token").display()
        );
        let config = AgentConfig::parse("agent.toml", &text).expect("settings");
        let told = format!("Bearer a-long-token\n{pem}");
        let left = Secrets::of(&config).remove(told);
        assert!(left.contains("certificate-line"), "{left}");
        for secret in ["a-long-token", "key-line-one", "key-line-two"] {
            assert!(!left.contains(secret), "{left}");
        }
    }
}
