//! Whether two people who build this commit get the same bytes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{arch::Arch, empty, run_command};
use crate::{host, step::cargo};

/// Builds the last commit in two clones, which share neither place nor anything built, and compares.
pub(super) fn check(arches: &[Arch]) -> Result<()> {
    let place = host::target_dir()?.join("dist-twice");
    empty(&place)?;
    // Paths of different lengths, for what is aligned or padded.
    let clones = [place.join("one"), place.join("the-other/one")];
    let mut built = Vec::new();
    for clone in &clones {
        built.push(build(clone, arches)?);
    }
    let [one, other] = built.as_slice() else {
        bail!("two clones were to be built");
    };
    let differ = differing(one, other);
    ensure!(
        differ.is_empty(),
        "not the same in both clones, which are kept below {}: {}",
        place.display(),
        differ.join(", ")
    );
    for (name, digest) in one {
        println!("{digest}  {name}");
    }
    println!("the same bytes in both clones");
    Ok(fs::remove_dir_all(place)?)
}

/// Names and digests of what `cargo xtask dist` makes in a fresh clone.
fn build(clone: &Path, arches: &[Arch]) -> Result<BTreeMap<String, String>> {
    let mut git = Command::new("git");
    git.args(["clone", "--quiet", "--no-hardlinks", "."])
        .arg(clone);
    run_command(&format!("clone to {}", clone.display()), git)?;
    let mut dist = cargo(&["xtask", "dist"]);
    for arch in arches {
        dist.args(["--arch", arch.name()]);
    }
    dist.current_dir(clone).env_remove("CARGO_TARGET_DIR");
    run_command(&format!("build in {}", clone.display()), dist)?;
    digests(&clone.join("target/dist"))
}

fn digests(directory: &Path) -> Result<BTreeMap<String, String>> {
    let files = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let files: Vec<PathBuf> = files.flatten().map(|entry| entry.path()).collect();
    let digest = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.to_owned();
        let line = host::output("sha256sum", &[path.to_str()?])?;
        Some((name, line.split(' ').next()?.to_owned()))
    };
    let digests = files
        .iter()
        .map(|path| digest(path).context("sha256sum failed"));
    digests.collect()
}

/// Names of what is in one only, or not the same in both.
fn differing(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Vec<String> {
    let names = one
        .keys()
        .chain(other.keys().filter(|name| !one.contains_key(*name)));
    let differ = names.filter(|name| one.get(*name) != other.get(*name));
    differ.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(one: &[(&str, &str)], other: &[(&str, &str)], expected: &[&str]) {
        let map = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(name, digest)| ((*name).into(), (*digest).into()))
                .collect()
        };
        assert_eq!(differing(&map(one), &map(other)), expected);
    }

    #[test]
    fn names_what_differs_or_is_missing() {
        check(&[("a", "1"), ("b", "2")], &[("a", "1"), ("b", "2")], &[]);
        check(&[("a", "1"), ("b", "2")], &[("a", "1"), ("b", "3")], &["b"]);
        check(&[("a", "1")], &[("b", "1")], &["a", "b"]);
    }
}
