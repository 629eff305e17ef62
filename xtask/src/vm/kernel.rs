//! Debian's kernels: downloaded as packages, unpacked aside, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::hardware::Hardware;
use super::variant::Series;
use crate::{host, step::Step};

/// An unpacked kernel.
pub(super) struct Kernel {
    package: String,
    root: PathBuf,
}

impl Kernel {
    /// The latest of a series, kept below `directory` for the next time.
    pub(super) fn get(series: Series, hardware: &Hardware, directory: &Path) -> Result<Self> {
        if !hardware.is_ours() {
            return foreign(series, hardware, directory);
        }
        let package = latest(series)?;
        let root = directory.join("kernels").join(&package);
        if !root.exists() {
            let step = Step::start(&format!("download {package}"));
            unpack(&package, &root)?;
            step.done();
        }
        Ok(Self { package, root })
    }

    /// Name of its package.
    pub(super) fn package(&self) -> &str {
        &self.package
    }

    /// What `uname -r` says.
    pub(super) fn release(&self) -> &str {
        self.package
            .strip_prefix("linux-image-")
            .unwrap_or_default()
    }

    /// The kernel itself.
    pub(super) fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release()))
    }

    /// Where its modules are, and where `modules.dep` tells what each needs.
    pub(super) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(self.release())
    }
}

/// The package that the one of the series depends on.
fn latest(series: Series) -> Result<String> {
    let find = || {
        let depends = host::output("apt-cache", &["depends", series.package])?;
        let mut names = depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        let name = names.find(|name| name.starts_with(series.prefix));
        name.map(str::to_owned)
    };
    if let Some(name) = find() {
        return Ok(name);
    }
    // The lists of packages are old, or none.
    host::succeeds("apt-get", &["update", "-q"]);
    find().with_context(|| {
        let Series { package, prefix } = series;
        format!("apt knows no {package} that depends on {prefix}*; Debian 12 has one")
    })
}

/// One for a computer whose packages apt does not know here. It is kept until somebody removes it.
fn foreign(series: Series, hardware: &Hardware, directory: &Path) -> Result<Kernel> {
    let root = directory.join("kernels").join(series.package);
    if !root.exists() {
        let step = Step::start(&format!("download {}", series.package));
        let next = root.with_extension("next");
        extract(hardware, series.package, &next)?;
        let package = image_in(&next)?;
        let release = package.strip_prefix("linux-image-").unwrap_or_default();
        run(Command::new("depmod").arg("-b").arg(&next).arg(release))?;
        fs::rename(&next, &root)?;
        step.done();
    }
    let package = image_in(&root)?;
    Ok(Kernel { package, root })
}

/// Unpacks packages of Debian 12 and all they need, for a computer of any kind.
pub(super) fn extract(hardware: &Hardware, packages: &str, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    run(Command::new("mmdebstrap")
        .args(["--quiet", "--variant=extract"])
        .arg(format!("--architectures={}", hardware.arch.name()))
        .arg(format!("--include={packages}"))
        .arg("bookworm")
        .arg(to))
}

/// The package of the kernel that has been unpacked at `root`.
fn image_in(root: &Path) -> Result<String> {
    let files = fs::read_dir(root.join("boot"))?.flatten();
    let mut names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let release = names.find_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()));
    let release = release.context("no kernel in the package")?;
    Ok(format!("linux-image-{release}"))
}

/// Unpacks a package at `root`, which is there only when all of it is.
fn unpack(package: &str, root: &Path) -> Result<()> {
    let next = root.with_extension("next");
    if next.exists() {
        fs::remove_dir_all(&next)?;
    }
    fs::create_dir_all(&next)?;
    // `_apt`, as which apt-get downloads, may not write here; root then does.
    run(Command::new("apt-get")
        .args(["download", "-q", "-o", "APT::Sandbox::User=root", package])
        .current_dir(&next))?;
    let files = fs::read_dir(&next)?.flatten().map(|entry| entry.path());
    let mut packages = files.filter(|path| path.extension().is_some_and(|end| end == "deb"));
    let file = packages.next().context("apt-get downloaded nothing")?;
    run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&next))?;
    fs::remove_file(file)?;
    let release = package.strip_prefix("linux-image-").unwrap_or_default();
    run(Command::new("depmod").arg("-b").arg(&next).arg(release))?;
    Ok(fs::rename(&next, root)?)
}

pub(super) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}
