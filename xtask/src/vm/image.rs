//! The initial file system of a guest, which is all it has: programs and what they need.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::hardware::AMD64;
use super::kernel::Kernel;
use super::programs::{Plan, Programs, Suite, strip};
use crate::host;

/// An archive as the kernel unpacks it.
pub(super) struct Image {
    path: PathBuf,
}

impl Image {
    /// Gathers everything below `place` and packs it.
    pub(super) fn build(
        place: &Path,
        kernel: &Kernel,
        programs: &Programs,
        plan: &Plan,
    ) -> Result<Self> {
        let root = Root::new(place.join("root"))?;
        root.add_programs(programs, plan)?;
        root.add_tools()?;
        copy_modules(kernel, &root.0.join("lib/modules"), &MODULES)?;
        let plan = serde_json::to_vec(plan)?;
        fs::write(root.0.join("mesh/plan.json"), plan)?;
        let path = place.join("initrd.cpio");
        pack(&root.0, &path)?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The directory that becomes the guest's root.
struct Root(PathBuf);

impl Root {
    fn new(path: PathBuf) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        for directory in ["bin", "dev", "mesh/deps"] {
            fs::create_dir_all(path.join(directory))?;
        }
        // The kernel asks for modules at /sbin/modprobe.
        symlink("bin", path.join("sbin"))?;
        Ok(Self(path))
    }

    /// At the places where `mesh_tests` looks for them.
    fn add_programs(&self, programs: &Programs, plan: &Plan) -> Result<()> {
        self.add_program(&programs.tests.init, "init")?;
        self.add_program(&programs.agent, "mesh/mesh-agent")?;
        self.add_program(&programs.tests.peer, "mesh/mesh-peer")?;
        let wanted = |suite: &&Suite| plan.has(suite);
        for suite in programs.tests.suites.iter().filter(wanted) {
            self.add_program(&suite.path, &format!("mesh/deps/{}", suite.name))?;
        }
        Ok(())
    }

    /// What the tests call.
    fn add_tools(&self) -> Result<()> {
        for tool in ["sh", "ip", "nsenter", "modprobe"] {
            let path = host::find(tool).with_context(|| format!("{tool} is not installed"))?;
            self.add_program(&path, &format!("bin/{tool}"))?;
        }
        Ok(())
    }

    fn add_program(&self, program: &Path, to: &str) -> Result<()> {
        strip(&AMD64, program, &self.0.join(to))?;
        for library in libraries(program)? {
            let to = self.0.join(library.strip_prefix("/")?);
            fs::create_dir_all(to.parent().context("a library without directory")?)?;
            if !to.exists() {
                fs::copy(&library, to).with_context(|| library.display().to_string())?;
            }
        }
        Ok(())
    }
}

/// Copies modules below `to`, with what they need and what finds them.
pub(super) fn copy_modules(kernel: &Kernel, to: &Path, wanted: &[&str]) -> Result<()> {
    let from = kernel.modules();
    let to = to.join(kernel.release());
    let dependencies = fs::read_to_string(from.join("modules.dep"))?;
    for module in closure(&dependencies, wanted) {
        let to = to.join(module);
        fs::create_dir_all(to.parent().context("a module without directory")?)?;
        fs::copy(from.join(module), to).with_context(|| module.to_owned())?;
    }
    for entry in fs::read_dir(&from)?.flatten() {
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Packs what is below `root` as the kernel unpacks it.
pub(super) fn pack(root: &Path, to: &Path) -> Result<()> {
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(File::create(to)?)
        .spawn()
        .context("cannot run cpio")?;
    let mut names = cpio.stdin.take().context("no pipe")?;
    let mut all = Vec::new();
    walk(root, &mut all)?;
    for path in all {
        let name = path.strip_prefix(root)?;
        writeln!(names, "{}", name.display())?;
    }
    drop(names);
    let status = cpio.wait()?;
    if !status.success() {
        bail!("cpio failed ({status})");
    }
    Ok(())
}

/// Everything below a directory, a directory before what is in it.
fn walk(directory: &Path, all: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        all.push(entry.path());
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), all)?;
        }
    }
    Ok(())
}

/// The shared libraries of a program, its loader included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let path = program.to_str().context("the path is not text")?;
    let listed = host::output("ldd", &[path]).with_context(|| format!("ldd {path} failed"))?;
    let words = listed.split_whitespace();
    let paths = words.filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

/// Files of the modules `wanted` and of all they need, of a text as depmod(8) writes it.
fn closure<'a>(dependencies: &'a str, wanted: &[&str]) -> BTreeSet<&'a str> {
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    let wanted = lines.filter(|(file, _)| wanted.contains(&name(file)));
    // The list of a module is complete: what it needs, what that needs, and so on.
    let files = wanted.flat_map(|(file, needs)| needs.split_whitespace().chain([file]));
    files.collect()
}

/// Name of the module in a file such as `kernel/net/tls/tls.ko.xz`.
fn name(file: &str) -> &str {
    let file = file.rsplit('/').next().unwrap_or_default();
    file.split('.').next().unwrap_or_default()
}

/// What the kernel loads when a test or systemd asks for it.
pub(super) const MODULES: [&str; 11] = [
    "autofs4",
    "dummy",
    "raw_diag",
    "sctp",
    "smc",
    "tcp_diag",
    "tls",
    "udp_diag",
    "veth",
    "virtio_blk",
    "virtio_pci",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_what_they_need() {
        let text = "kernel/net/ipv4/tcp_diag.ko.xz: kernel/net/ipv4/inet_diag.ko.xz\n\
                    kernel/net/ipv4/inet_diag.ko.xz:\n\
                    kernel/net/x.ko: kernel/net/y.ko\n\
                    kernel/drivers/net/veth.ko:\n";
        let expected = [
            "kernel/drivers/net/veth.ko",
            "kernel/net/ipv4/inet_diag.ko.xz",
            "kernel/net/ipv4/tcp_diag.ko.xz",
        ];
        assert_eq!(
            closure(text, &["tcp_diag", "veth"])
                .into_iter()
                .collect::<Vec<_>>(),
            expected
        );
    }
}
