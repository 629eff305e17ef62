//! The .deb, and a tarball of the same files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{Source, VERSION, arch::Arch, binary, empty, run_command};
use crate::step::cargo;

pub(super) fn deb(arch: Arch, source: &Source, to: &Path) -> Result<PathBuf> {
    let file = to.join(format!("mesh-agent_{VERSION}-1_{}.deb", arch.name()));
    let mut deb = cargo(&["deb", "--no-build", "--no-strip", "--locked"]);
    deb.args([
        "--package",
        "mesh-agent",
        "--target",
        arch.target(),
        "--output",
    ]);
    deb.arg(&file).env("SOURCE_DATE_EPOCH", &source.epoch);
    run_command(&format!("package for {}", arch.name()), deb)?;
    Ok(file)
}

/// What `deb` installs, below one directory, with a text that says where it goes.
pub(super) fn tarball(arch: Arch, source: &Source, deb: &Path, to: &Path) -> Result<PathBuf> {
    let name = format!("mesh-agent-{VERSION}-{}", arch.name());
    let place = binary::release(arch)?.join("dist-tar");
    let root = place.join(&name);
    empty(&root)?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(deb).arg(&root);
    run_command(&format!("tarball for {}", arch.name()), unpack)?;
    for debian in DEBIAN {
        let path = root.join(debian);
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| path.display().to_string())?;
    }
    fs::copy("packaging/INSTALL.md", root.join("INSTALL.md"))?;
    let file = to.join(format!("{name}.tar.gz"));
    pack(&place, &name, source, &file)?;
    Ok(file)
}

/// Order, owners, times and modes are the same wherever it is packed.
fn pack(place: &Path, name: &str, source: &Source, file: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--sort=name",
        "--format=gnu",
        "--owner=0",
        "--group=0",
    ]);
    tar.args(["--numeric-owner", "--mode=go=rX,u+rw,a-s"]);
    tar.arg(format!("--mtime=@{}", source.epoch));
    tar.arg("--use-compress-program=gzip -9 --no-name");
    tar.arg("--file")
        .arg(file)
        .arg("--directory")
        .arg(place)
        .arg(name);
    run_command("pack it", tar)
}

/// What only a Debian package needs.
const DEBIAN: [&str; 2] = [
    "usr/share/doc/mesh-agent/changelog.Debian.gz",
    "usr/share/lintian",
];
