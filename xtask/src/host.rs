//! What kind of machine this is and what it has.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

pub(crate) fn is_root() -> Result<bool> {
    let owner = fs::metadata("/proc/self").context("/proc is not mounted")?;
    Ok(owner.uid() == 0)
}

/// The release whose packages we know to fit together.
pub(crate) fn is_debian_12() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let has = |line| release.lines().any(|found| found == line);
    has("ID=debian") && has("VERSION_ID=\"12\"") && finds("apt-get")
}

pub(crate) fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}

/// Whether a program is on `PATH` or where cargo installs programs.
pub(crate) fn finds(program: &str) -> bool {
    find(program).is_some()
}

/// Where a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .chain(cargo_bin())
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// Where `cargo install` puts programs.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    Some(
        home.or_else(|| Some(env::home_dir()?.join(".cargo")))?
            .join("bin"),
    )
}

/// Whether a command succeeds, whatever it prints.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let command = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    command.is_ok_and(|status| status.success())
}

/// What a command prints, if it succeeds.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The target directory this task itself was built in.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let this = env::current_exe().context("cannot find the running xtask")?;
    let target = this.ancestors().nth(2);
    Ok(target
        .context("xtask is not in a target directory")?
        .to_owned())
}

/// A program of this workspace.
pub(crate) fn binary(profile: &str, name: &str) -> Result<PathBuf> {
    Ok(target_dir()?.join(profile).join(name))
}
