//! What can be said of the packages without building one.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{empty, run_command};
use crate::{
    host,
    step::{Step, cargo},
};

/// The maintainer scripts parse, units make sense, and what a package should hold is there.
pub(crate) fn check() -> Result<()> {
    let scripts = SCRIPTS.map(|name| format!("packaging/deb/{name}"));
    for script in &scripts {
        let mut sh = Command::new("sh");
        sh.arg("-n").arg(script);
        run_command(&format!("sh -n {script}"), sh)?;
    }
    let mut shellcheck = Command::new("shellcheck");
    shellcheck.args(["--shell", "sh"]).args(&scripts);
    run_command("shellcheck", shellcheck)?;
    let metadata = cargo(&["metadata", "--no-deps", "--format-version", "1"]).output();
    let metadata = String::from_utf8(metadata.context("cannot run cargo metadata")?.stdout)?;
    let missing = missing(&sources(&metadata)?);
    if !missing.is_empty() {
        bail!(
            "mesh-agent/Cargo.toml packs what is not there: {}",
            missing.join(", ")
        );
    }
    units()
}

/// Who is responsible for the package, of the output of `cargo metadata`.
pub(super) fn maintainer(metadata: &str) -> Option<String> {
    Some(settings(metadata)?["maintainer"].as_str()?.to_owned())
}

/// The section of cargo-deb.
fn settings(metadata: &str) -> Option<Value> {
    let mut metadata: Value = serde_json::from_str(metadata).ok()?;
    let packages = metadata["packages"].as_array_mut()?;
    let agent = packages
        .iter_mut()
        .find(|package| package["name"] == "mesh-agent");
    Some(agent?["metadata"]["deb"].take())
}

/// The first column of the assets.
fn sources(metadata: &str) -> Result<Vec<String>> {
    let settings = settings(metadata).context("mesh-agent has no [package.metadata.deb]")?;
    let assets = settings["assets"].as_array().context("it has no assets")?;
    let sources = assets.iter().filter_map(|asset| asset[0].as_str());
    Ok(sources.map(str::to_owned).collect())
}

/// Those of the repository's own files that do not exist, or match none.
fn missing(sources: &[String]) -> Vec<String> {
    let own = sources.iter().filter(|path| !path.starts_with("target/"));
    let exists = |path: &str| {
        let path = Path::new("mesh-agent").join(path);
        let Some((before, after)) = path.to_str().and_then(|path| path.split_once('*')) else {
            return path.is_file();
        };
        let path = Path::new(before);
        let directory = if before.ends_with('/') {
            Some(path)
        } else {
            path.parent()
        };
        let files = directory.and_then(|directory| fs::read_dir(directory).ok());
        files.into_iter().flatten().flatten().any(|entry| {
            let path = entry.path();
            let path = path.to_string_lossy();
            path.starts_with(before) && path.ends_with(after)
        })
    };
    own.filter(|path| !exists(path)).cloned().collect()
}

/// `systemd-analyze verify`, with a program in the agent's place that exists.
fn units() -> Result<()> {
    let step = Step::start("systemd-analyze verify");
    if !host::finds("systemd-analyze") {
        println!("not checked: there is no systemd-analyze here");
        step.done();
        return Ok(());
    }
    let place = host::target_dir()?.join("dist-units");
    empty(&place)?;
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]);
    for entry in fs::read_dir("packaging/systemd")?.flatten() {
        let unit = fs::read_to_string(entry.path())?;
        let path = place.join(entry.file_name());
        fs::write(&path, unit.replace("/usr/bin/mesh-agent", "/bin/true"))?;
        verify.arg(path);
    }
    step.finish(verify)
}

const SCRIPTS: [&str; 3] = ["postinst", "postrm", "prerm"];

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = r#"{"packages": [{"name": "other"}, {"name": "mesh-agent", "metadata": {"deb": {
        "maintainer": "Who <who@example.org>",
        "assets": [["target/release/mesh-agent", "usr/bin/", "755"], ["../README.md", "usr/", "644"]]}}}]}"#;

    #[test]
    fn reads_what_cargo_deb_reads() -> Result<()> {
        assert_eq!(
            sources(METADATA)?,
            ["target/release/mesh-agent", "../README.md"]
        );
        assert_eq!(
            maintainer(METADATA).as_deref(),
            Some("Who <who@example.org>")
        );
        assert!(sources(r#"{"packages": []}"#).is_err());
        Ok(())
    }

    #[test]
    fn names_files_that_are_not_there() {
        let sources = ["target/release/x", "../no-such-file", "../no/such/*.toml"];
        let sources = sources.map(str::to_owned);
        assert_eq!(missing(&sources), sources[1..]);
    }
}
