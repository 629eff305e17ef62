//! `mesh-agent support`: what helps to find out what is wrong with a node, in one file.
//!
//! Comes in: the running agent's answers, if there is one, the kernel's, and what the host is. Goes
//! out: a tar archive for root alone. No keys, tokens or texts of the policy are in it: files that hold
//! them are not read into it, and every part is searched for what they hold before it is written.

mod archive;
mod host;
mod parts;
mod secrets;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use self::archive::Part;
use self::secrets::Secrets;
use crate::config::AgentConfig;
use crate::policy::diagnostic::Diagnostic;
use crate::telemetry::time::{unix_seconds, utc};

/// Arguments of the command.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// The archive, a gzipped tar; default: mesh-support-NODE-TIME.tar.gz here.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Writes the archive, says where it is, and returns the exit code: 1 if it cannot be written. `problems` are those of the
/// settings, of which `config` is what could be understood.
pub fn run(args: &Args, config: &AgentConfig, problems: &[Diagnostic]) -> u8 {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can ask the agent and the kernel: use sudo");
        return 1;
    }
    let now = SystemTime::now();
    let when: String = utc(unix_seconds(now))
        .chars()
        .filter(|c| *c != ':')
        .collect();
    let name = format!("mesh-support-{}-{when}", config.node.name);
    let output = args.output.clone();
    let output = output.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    match write(&output, &name, config, problems) {
        Ok(notes) => {
            for note in notes {
                eprintln!("note: {note}");
            }
            println!("{}", output.display());
            0
        }
        Err(error) => {
            eprintln!("cannot write {}: {error}", output.display());
            1
        }
    }
}

/// What could not be had is returned.
fn write(
    output: &Path,
    name: &str,
    config: &AgentConfig,
    problems: &[Diagnostic],
) -> std::io::Result<Vec<String>> {
    let secrets = Secrets::of(config);
    let (mut parts, mut notes) = parts::collect(config);
    let broken = problems.iter().map(|problem| {
        let message = &problem.message;
        format!("settings.txt: a default where agent.toml is broken: {message}")
    });
    notes.extend(broken);
    for part in &mut parts {
        part.content = secrets.remove(std::mem::take(&mut part.content));
    }
    parts.insert(0, contents(&parts, &notes));
    archive::write(output, name, &parts)?;
    Ok(notes)
}

/// The first part: what the others are, and what is missing.
fn contents(parts: &[Part], notes: &[String]) -> Part {
    let mut text = String::from(
        "Evidence of a mesh node. It holds names of services, addresses and who called whom, but no keys,\ntokens or policy texts.\n\n",
    );
    for part in parts {
        text += &format!("{:<24} {}\n", part.name, part.about);
    }
    if !notes.is_empty() {
        text += "\nMissing:\n";
        notes.iter().for_each(|note| text += &format!("- {note}\n"));
    }
    Part::new("README.txt", "what is in here", text)
}
