//! Writes what packages hold besides the agent, from the agent's own command line and example.
//!
//! It is a program of its own so that the agent on a node need not carry what writes its manual.
#![forbid(unsafe_code)]

mod formats;
mod pages;
mod settings;

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;
use mesh_agent::cli::Cli;

fn main() -> Result<()> {
    let to = env::args_os().nth(1).map(PathBuf::from);
    write(&to.context("usage: mesh-manual DIRECTORY")?)
}

/// Writes `man`, `completions` and `agent.toml` below `to`.
fn write(to: &Path) -> Result<()> {
    let (man, completions) = (to.join("man"), to.join("completions"));
    for directory in [&man, &completions] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    pages::write(&Cli::command(), &man)?;
    formats::write(&man)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut Cli::command(), NAME, &completions)?;
    }
    fs::write(to.join("agent.toml"), settings::commented(EXAMPLE))?;
    Ok(())
}

const NAME: &str = "mesh-agent";
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];
/// Every setting with its default.
const EXAMPLE: &str = include_str!("../../../examples/agent.toml");

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn every_shell_has_completions_and_bash_reads_its_own() -> Result<()> {
        let directory = tempfile::tempdir()?;
        write(directory.path())?;
        let completions = directory.path().join("completions");
        for name in ["mesh-agent.bash", "_mesh-agent", "mesh-agent.fish"] {
            let text = fs::read_to_string(completions.join(name))?;
            assert!(text.contains("explain"), "{name} knows the commands");
        }
        let script = completions.join("mesh-agent.bash");
        let parsed = Command::new("bash").arg("-n").arg(script).output()?;
        let said = String::from_utf8_lossy(&parsed.stderr);
        assert!(parsed.status.success(), "{said}");
        Ok(())
    }
}
