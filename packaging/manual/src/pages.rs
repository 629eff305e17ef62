//! A manual page for each command, section 1.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Command;
use clap_mangen::Man;

/// Writes a page for `command` and one for each command below it into `directory`.
pub(crate) fn write(command: &Command, directory: &Path) -> Result<()> {
    for (name, page) in all(command)? {
        let path = directory.join(name);
        fs::write(&path, page).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// File names and texts.
fn all(command: &Command) -> Result<Vec<(String, Vec<u8>)>> {
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    let version = command.get_version().unwrap_or_default().to_owned();
    let mut pages = Vec::new();
    for command in below(&command) {
        pages.push(page(command, &version)?);
    }
    Ok(pages)
}

/// The command and all below it.
fn below(command: &Command) -> Vec<&Command> {
    let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let mut commands = vec![command];
    commands.extend(shown.flat_map(below));
    commands
}

fn page(command: &Command, version: &str) -> io::Result<(String, Vec<u8>)> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let man = Man::new(command.clone());
    let mut text = Vec::new();
    // The crate leaves out an empty date, and what comes after it moves up.
    let title = name.to_uppercase().replace('-', "\\-");
    writeln!(
        text,
        ".TH {title} 1 \"\" \"mesh\\-agent {version}\" \"{MANUAL}\""
    )?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    if name == crate::NAME {
        write!(text, "{FILES}")?;
    }
    write!(text, "{}", see_also(name))?;
    Ok((format!("{name}.1"), text))
}

fn see_also(name: &str) -> String {
    let parent = name.rsplit_once('-').map(|(parent, _)| parent);
    let parent = parent.filter(|parent| parent.starts_with(crate::NAME));
    let mut pages: Vec<_> = parent
        .map(|parent| format!(".BR {parent} (1),"))
        .into_iter()
        .collect();
    pages.push(".BR mesh-agent.toml (5),".to_owned());
    pages.push(".BR mesh-policy (5)".to_owned());
    // The macros take a hyphen for one at which a line may end.
    let pages = pages.join("\n").replace('-', "\\-");
    format!(".SH \"SEE ALSO\"\n{pages}\n")
}

const MANUAL: &str = "Service mesh for edge hosts";
const FILES: &str = r".SH FILES
.TP
.I /etc/mesh/agent.toml
settings of this node, see
.BR mesh\-agent.toml (5)
.TP
.I /etc/mesh/conf.d/*.toml
services and rules, see
.BR mesh\-policy (5)
.TP
.I /etc/mesh/tls
certificates and keys, as
.B mesh\-agent ca issue
writes them
.TP
.I /var/lib/mesh
the last good policy, for the next boot
.TP
.I /run/mesh
the socket that the commands talk to
.TP
.I /sys/fs/bpf/mesh
what keeps the programs in the kernel in force
";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use mesh_agent::cli::Cli;

    use super::*;

    fn names(command: &Command, path: &str, into: &mut Vec<String>) {
        into.push(format!("{path}.1"));
        let is_for_people = |sub: &&Command| sub.get_name() != "help" && !sub.is_hide_set();
        for sub in command.get_subcommands().filter(is_for_people) {
            names(sub, &format!("{path}-{}", sub.get_name()), into);
        }
    }

    #[test]
    fn every_command_has_a_page_that_names_it_and_its_options() -> Result<()> {
        let command = Cli::command();
        let mut expected = Vec::new();
        names(&command, crate::NAME, &mut expected);
        let mut found = all(&command)?;
        expected.sort();
        found.sort();
        let found_names: Vec<_> = found.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(found_names, expected);
        assert!(expected.contains(&"mesh-agent-ca-issue.1".to_owned()));

        for (name, page) in found {
            let text = String::from_utf8(page)?.replace("\\-", "-");
            let command = name.trim_end_matches(".1");
            assert!(text.contains(&format!(".SH NAME\n{command} - ")), "{text}");
        }
        Ok(())
    }

    #[test]
    fn the_page_of_a_command_has_its_options() -> Result<()> {
        let pages = all(&Cli::command())?;
        let page = pages.iter().find(|(name, _)| name == "mesh-agent-check.1");
        let (_, page) = page.context("no page")?;
        let text = String::from_utf8_lossy(page).replace("\\-", "-");
        for part in ["--against", "FLOWS", "Exits with 3", ".BR mesh-agent (1),"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        Ok(())
    }
}
