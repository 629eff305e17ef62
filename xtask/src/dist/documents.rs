//! What is beside the agent in a package and is made for it: manual, completions, settings, licences, changelog.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{Source, VERSION, arch::Arch, binary, empty, run_command};
use crate::{host, step::cargo};

/// Writes all of it into the directory that the assets in `mesh-agent/Cargo.toml` name.
pub(super) fn write(arch: Arch, source: &Source, copyright: &str) -> Result<()> {
    let to = binary::release(arch)?.join("dist");
    empty(&to)?;
    let mut manual = cargo(&["run", "--locked", "--package", "mesh-manual", "--"]);
    manual.arg(&to);
    run_command("manual and completions", manual)?;
    compress(&files(&to.join("man"))?)?;
    fs::write(to.join("copyright"), copyright)?;
    changelog(&to, source)
}

/// Our licences and those of everything that is linked, on either architecture, with their texts.
pub(super) fn copyright() -> Result<String> {
    let mut text = HEAD.to_owned();
    for (title, file) in [("MIT", "LICENSE-MIT"), ("Apache-2.0", "LICENSE-APACHE")] {
        let licence = fs::read_to_string(file).with_context(|| file.to_owned())?;
        text.push_str(&section(title, &licence));
    }
    for (title, package) in [
        ("Linked into the agent", "mesh-agent"),
        ("Linked into its kernel programs", "mesh-ebpf"),
    ] {
        text.push_str(&section(title, &linked(package)?));
    }
    let lgpl = fs::read_to_string(LGPL).with_context(|| format!("{LGPL}, of base-files"))?;
    text.push_str(&section("GNU Lesser General Public License 2.1", &lgpl));
    Ok(text)
}

fn section(title: &str, text: &str) -> String {
    let rule = "=".repeat(76);
    format!("\n{rule}\n{title}\n{rule}\n\n{}\n", text.trim_matches('\n'))
}

/// What cargo-about says of a package's dependencies. It reads every file of every crate, which takes minutes, so
/// the answer is kept for as long as what it depends on is the same.
fn linked(package: &str) -> Result<String> {
    let manifest = format!("{package}/Cargo.toml");
    let place = host::target_dir()?.join("dist-licences");
    fs::create_dir_all(&place)?;
    let to = place.join(format!("{package}-{}", key(&manifest)?));
    if !to.exists() {
        let next = to.with_extension("next");
        let mut about = cargo(&["about", "generate", "--locked", "--fail"]);
        about.args(["--config", ABOUT, "--manifest-path", &manifest]);
        about.arg("--output-file").arg(&next).arg(TEMPLATE);
        run_command(&format!("licences of what {package} links"), about)?;
        fs::rename(&next, &to)?;
    }
    fs::read_to_string(&to).with_context(|| to.display().to_string())
}

/// Digests of what decides on the dependencies and on how they are shown.
fn key(manifest: &str) -> Result<String> {
    let inputs = ["Cargo.lock", "Cargo.toml", manifest, ABOUT, TEMPLATE];
    let lines = host::output("sha256sum", &inputs).context("sha256sum failed")?;
    let digests: Vec<_> = lines.lines().map(|line| line.split_at(8).0).collect();
    Ok(digests.join("-"))
}

/// The changes themselves are in the repository's own file.
fn changelog(place: &Path, source: &Source) -> Result<()> {
    let date = Command::new("date")
        .args(["-R", "-u", "-d", &format!("@{}", source.epoch)])
        .env("LC_ALL", "C")
        .output();
    let date = String::from_utf8(date.context("cannot run date")?.stdout)?;
    let maintainer = host::output("cargo", &["metadata", "--no-deps", "--format-version", "1"])
        .and_then(|text| super::rules::maintainer(&text))
        .context("mesh-agent/Cargo.toml names no maintainer")?;
    let file = place.join("changelog.Debian");
    fs::write(
        &file,
        format!(
            "mesh-agent ({VERSION}-1) stable; urgency=medium\n\n  * Release {VERSION}.\n\n \
             -- {maintainer}  {date}"
        ),
    )?;
    compress(&[file])
}

/// Replaces each file by one with `.gz` behind its name, which keeps no time.
fn compress(files: &[PathBuf]) -> Result<()> {
    let mut gzip = Command::new("gzip");
    gzip.args(["-9", "--no-name"]).args(files);
    let status = gzip.status().context("cannot run gzip")?;
    ensure!(status.success(), "gzip failed ({status})");
    Ok(())
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

const HEAD: &str = "\
mesh-agent: a service mesh for edge Linux hosts
Copyright (c) 2026 The mesh authors

MIT or Apache-2.0, at your choice. The programs it loads into the kernel are also under the
GPL-2.0 (/usr/share/common-licenses/GPL-2 on Debian).

The program is linked statically with what is listed below, with the GNU C Library (LGPL 2.1 or
later, source package glibc of Debian), with libgcc (GPL 3 with the GCC Runtime Library Exception)
and with the Rust standard library (MIT or Apache-2.0, Copyright (c) The Rust Project Contributors).
Whoever wants to link it with another C library has the whole source and `cargo xtask dist`.
";
const ABOUT: &str = "packaging/about.toml";
const TEMPLATE: &str = "packaging/about.hbs";
const LGPL: &str = "/usr/share/common-licenses/LGPL-2.1";
