//! Installs what a task needs: on Debian 12 as root, elsewhere it prints the commands.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{host, need::Need, step::Step};

/// The task `setup [--yes]`: everything that any task needs.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let agreed = match arguments {
        [] => false,
        [yes] if yes == "--yes" => true,
        _ => bail!("usage: cargo xtask setup [--yes]"),
    };
    let missing = missing(&Need::ALL);
    if missing.is_empty() {
        println!("Nothing is missing.");
        return Ok(());
    }
    install(&missing, agreed)
}

/// Installs whichever of `needs` are missing; silent if none is.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing, host::in_ci())
}

fn missing(needs: &[Need]) -> Vec<Need> {
    let needs = needs.iter().copied();
    needs.filter(|need| !need.is_met()).collect()
}

fn install(missing: &[Need], agreed: bool) -> Result<()> {
    println!("Missing on this machine:");
    for need in missing {
        println!("  {} ({})", need.name(), need.why());
    }
    let debian = host::is_debian_12();
    let commands = commands(missing, debian);
    println!("To install:");
    for command in &commands {
        println!("  {command}");
    }
    if !debian || !host::is_root()? {
        bail!(
            "only on Debian 12, as root, can this install them: run the commands above, then try again"
        );
    }
    if !agreed && !confirmed()? {
        bail!("not installed");
    }

    let services = Services::keep_stopped(missing)?;
    for command in &commands {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", command])
            .env("DEBIAN_FRONTEND", "noninteractive");
        Step::start(command).finish(shell)?;
    }
    drop(services);
    let still: Vec<_> = self::missing(missing)
        .iter()
        .map(|need| need.name())
        .collect();
    if !still.is_empty() {
        bail!("installed, and still missing: {}", still.join(", "));
    }
    Ok(())
}

/// The shell commands that install `missing`, packages first.
fn commands(missing: &[Need], debian: bool) -> Vec<String> {
    let mut commands = Vec::new();
    let packages: Vec<_> = missing
        .iter()
        .flat_map(|need| need.packages())
        .copied()
        .collect();
    if debian && !packages.is_empty() {
        let packages = packages.join(" ");
        commands.push("apt-get update -q".to_owned());
        commands.push(format!(
            "apt-get install -qy --no-install-recommends {packages}"
        ));
    }
    commands.extend(
        missing
            .iter()
            .filter_map(|need| need.command(debian))
            .map(str::to_owned),
    );
    commands
}

/// Asks at a terminal; without one nobody could answer, and the task was asked for.
fn confirmed() -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(true);
    }
    print!("Install now? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Keeps services, of which the tasks want only the programs, from running.
struct Services {
    wrote_policy: bool,
    disable: Vec<&'static str>,
}

impl Services {
    fn keep_stopped(missing: &[Need]) -> Result<Self> {
        let services = missing.iter().flat_map(|need| need.services());
        let mut disable: Vec<_> = services.copied().collect();
        let wrote_policy = !disable.is_empty() && !Path::new(POLICY).exists();
        if wrote_policy {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n").context(POLICY)?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).context(POLICY)?;
        }
        // What is there already is somebody's, who may want it to run.
        let is_new = |service: &str| !host::succeeds("systemctl", &["cat", service]);
        disable.retain(|service| host::finds("systemctl") && is_new(service));
        Ok(Self {
            wrote_policy,
            disable,
        })
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        if self.wrote_policy
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("warning: remove {POLICY} by hand: {error}");
        }
        for service in &self.disable {
            host::succeeds("systemctl", &["disable", service]);
        }
    }
}

/// Debian's maintainer scripts ask this program whether they may start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";
