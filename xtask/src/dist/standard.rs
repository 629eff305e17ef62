//! Where Rust's standard library for another architecture comes from.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{arch::Arch, empty, run_command};
use crate::host;

/// A compiler for an architecture.
pub(super) struct Compiler {
    /// `rustc` of the toolchain in use, or Debian's.
    pub(super) rustc: &'static str,
    /// Where its libraries are, if not at home.
    pub(super) sysroot: Option<PathBuf>,
}

impl Compiler {
    /// The toolchain in use, if it has the target (`rustup target add`), else Debian's compiler with the
    /// library out of Debian's package of the other architecture, which is only unpacked.
    pub(super) fn find(arch: Arch) -> Result<Self> {
        if has_library("rustc", arch.target()) {
            return Ok(Self {
                rustc: "rustc",
                sysroot: None,
            });
        }
        let sysroot = debian(arch).with_context(|| {
            let target = arch.target();
            format!("no Rust standard library for {target}: `rustup target add {target}`")
        })?;
        Ok(Self {
            rustc: DEBIAN,
            sysroot,
        })
    }

    /// `rustc --print sysroot`: where the sources of the library are, if they are installed.
    pub(super) fn home(&self) -> Result<PathBuf> {
        let home = host::output(self.rustc, &["--print", "sysroot"]);
        Ok(home.context("rustc does not run")?.into())
    }

    /// The commit of the compiler, by which it calls sources of the library.
    pub(super) fn commit(&self) -> Result<String> {
        let version = host::output(self.rustc, &["-vV"]).context("rustc does not run")?;
        let mut lines = version.lines();
        let commit = lines.find_map(|line| line.strip_prefix("commit-hash: "));
        Ok(commit.context("rustc -vV names no commit")?.to_owned())
    }
}

fn has_library(rustc: &str, target: &str) -> bool {
    let print = ["--target", target, "--print", "target-libdir"];
    host::output(rustc, &print).is_some_and(|path| has_core(Path::new(&path)))
}

fn has_core(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|files| {
        let mut names = files.flatten().map(|file| file.file_name());
        names.any(|name| name.to_string_lossy().starts_with("libcore-"))
    })
}

/// The directory to use as `--sysroot` with Debian's compiler; none if that has the library itself.
fn debian(arch: Arch) -> Result<Option<PathBuf>> {
    if has_library(DEBIAN, arch.target()) {
        return Ok(None);
    }
    let version = host::output("dpkg-query", &["-W", "-f", "${Version}", PACKAGE]);
    let version = version.with_context(|| format!("{PACKAGE} is not installed either"))?;
    let place = host::target_dir()?.join("dist-std");
    let root = place.join(format!("{}-{version}", arch.name()));
    if !root.exists() {
        let next = place.join("next");
        empty(&next)?;
        download(arch, &version, &next)?;
        fs::rename(&next, &root)?;
    }
    let sysroot = root.join("usr");
    let library = sysroot.join("lib/rustlib").join(arch.target()).join("lib");
    if !has_core(&library) {
        bail!("{PACKAGE} has no {}", library.display());
    }
    Ok(Some(sysroot))
}

/// Unpacks the package of the other architecture. The lists of packages are of this task alone, so that
/// the machine does not become one of two architectures.
fn download(arch: Arch, version: &str, to: &Path) -> Result<()> {
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-q", "-o", "APT::Sandbox::User=root"]);
        command.args(["-o", &format!("APT::Architectures::={}", Arch::HOST.name())]);
        command.args(["-o", &format!("APT::Architectures::={}", arch.name())]);
        for (option, directory) in [("Dir::State::lists", "lists"), ("Dir::Cache", "cache")] {
            let directory = to.join(directory);
            command.args(["-o", &format!("{option}={}", directory.display())]);
        }
        command.args(arguments).current_dir(to);
        command
    };
    for directory in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(to.join(directory))?;
    }
    let package = format!("{PACKAGE}:{}={version}", arch.name());
    run_command("list Debian's packages", apt(&["update"]))?;
    run_command(&format!("download {package}"), apt(&["download", &package]))?;
    for entry in fs::read_dir(to)?.flatten() {
        if entry.path().extension().is_some_and(|end| end == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").arg(entry.path()).arg(to);
            run_command("unpack it", unpack)?;
            fs::remove_file(entry.path())?;
        }
    }
    for directory in ["lists", "cache"] {
        fs::remove_dir_all(to.join(directory))?;
    }
    Ok(())
}

const DEBIAN: &str = "/usr/bin/rustc";
const PACKAGE: &str = "libstd-rust-web-dev";
