//! Packages: a .deb and a tarball for each architecture, the same bytes whoever builds a commit.
//!
//! Comes in: this commit, as it is checked out. Goes out, in `target/dist`: packages, for each architecture
//! a list of what was linked (SBOM), and the digests of all of them.

mod arch;
mod binary;
mod cross;
mod documents;
mod package;
mod reproducible;
mod rules;
mod sbom;
mod standard;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

pub(crate) use self::{arch::Arch, cross::set_environment, rules::check};
use crate::{host, need::Need, setup, step::Step};

/// The task `dist [--arch ARCH].. [--check-reproducible]`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    if options.check_reproducible {
        return reproducible::check(&options.arches);
    }
    setup::ensure(&Need::DIST)?;
    let source = Source::find()?;
    let to = host::target_dir()?.join("dist");
    fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
    let copyright = documents::copyright()?;
    let mut made = Vec::new();
    for arch in options.arches() {
        match build(arch, &source, &copyright, &to) {
            Ok(files) => made.extend(files),
            Err(error) if options.arches.is_empty() && arch != Arch::HOST => {
                println!("\n{}: left out: {error:#}", arch.name());
            }
            Err(error) => return Err(error.context(arch.name())),
        }
    }
    digest(&to)?;
    println!();
    made.iter().for_each(|path| println!("{}", path.display()));
    Ok(())
}

/// What was asked for.
struct Options {
    /// Empty: all of them.
    arches: Vec<Arch>,
    check_reproducible: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            arches: Vec::new(),
            check_reproducible: false,
        };
        let mut arguments = arguments.iter().map(String::as_str);
        while let Some(argument) = arguments.next() {
            match argument {
                "--check-reproducible" => options.check_reproducible = true,
                "--arch" => {
                    let arch = arguments.next().and_then(Arch::from_name);
                    options.arches.push(arch.context(USAGE)?);
                }
                _ => bail!("{USAGE}"),
            }
        }
        Ok(options)
    }

    fn arches(&self) -> Vec<Arch> {
        if self.arches.is_empty() {
            Arch::ALL.to_vec()
        } else {
            self.arches.clone()
        }
    }
}

/// The commit that is built.
struct Source {
    /// Seconds since 1970: the time of everything in the packages.
    epoch: String,
}

impl Source {
    fn find() -> Result<Self> {
        let git = |arguments: &[&str]| {
            host::output("git", arguments).context("this is not a git checkout")
        };
        if !git(&["status", "--porcelain"])?.is_empty() {
            println!(
                "warning: there are changes that are not committed: nobody else can build this"
            );
        }
        Ok(Self {
            epoch: git(&["log", "-1", "--format=%ct"])?,
        })
    }
}

fn build(arch: Arch, source: &Source, copyright: &str, to: &Path) -> Result<Vec<PathBuf>> {
    if arch != Arch::HOST {
        setup::ensure(arch.needs())?;
    }
    let binary = binary::build(arch, source)?;
    documents::write(arch, source, copyright)?;
    let deb = package::deb(arch, source, to)?;
    let tarball = package::tarball(arch, source, &deb, to)?;
    let sbom = sbom::write(arch, source, &binary, to)?;
    Ok(vec![deb, tarball, sbom])
}

/// Writes `SHA256SUMS` of all files in `to`, those of other builds, too.
fn digest(to: &Path) -> Result<()> {
    const SUMS: &str = "SHA256SUMS";
    let entries = fs::read_dir(to)?.flatten().map(|entry| entry.file_name());
    let mut names: Vec<_> = entries.filter(|name| name != SUMS).collect();
    names.sort();
    let output = Command::new("sha256sum")
        .args(names)
        .current_dir(to)
        .output()
        .context("cannot run sha256sum")?;
    if !output.status.success() {
        bail!("sha256sum: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(fs::write(to.join(SUMS), output.stdout)?)
}

/// A directory that did not exist, or whose content has been removed.
fn empty(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())
}

/// Runs a command that says itself what is wrong.
fn run_command(step: &str, command: Command) -> Result<()> {
    Step::start(step).finish(command)
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
const USAGE: &str = "usage: cargo xtask dist [--arch amd64|arm64].. [--check-reproducible]";
