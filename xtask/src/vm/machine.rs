//! Machines with disks: one with a system, and one with the tests, the agent or its package.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use super::guest::Guest;
use super::hardware::Hardware;
use super::image::{MODULES, copy_modules, pack};
use super::kernel::{Kernel, run};
use super::programs::{Plan, Tests, package, strip};
use super::report::Report;
use super::system::System;
use super::variant::{Root, Variant};
use crate::step::Step;

/// What runs in one machine, one boot after the other.
pub(super) struct Machine<'a> {
    pub(super) place: PathBuf,
    pub(super) kernel: &'a Kernel,
    pub(super) variant: &'a Variant,
    pub(super) tests: &'a Tests,
    /// The agent, where no package is installed.
    pub(super) agent: Option<&'a Path>,
    pub(super) plan: Plan,
    pub(super) boots: u32,
}

impl Machine<'_> {
    /// Makes its disks and boots it.
    pub(super) fn run(&self, system: &System, deadline: Instant) -> Result<Vec<Report>> {
        if self.place.exists() {
            fs::remove_dir_all(&self.place)?;
        }
        fs::create_dir_all(&self.place)?;
        let initrd = self.initrd(system)?;
        let root = disk(&system.root, &self.place.join("root.ext4"))?;
        let payload = disk(&self.payload()?, &self.place.join("mesh.ext4"))?;
        let step = Step::start(&format!("{}: {}", self.variant.name, self.kernel.package()));
        let mut reports = Vec::new();
        for _ in 0..self.boots {
            reports.push(Guest::boot(
                &self.place,
                self.kernel,
                self.variant,
                &initrd,
                &self.plan,
                deadline,
                &[&root, &payload],
            )?);
        }
        step.done();
        Ok(reports)
    }

    /// What finds the disks: a shell, and the modules for them.
    fn initrd(&self, system: &System) -> Result<PathBuf> {
        let root = self.place.join("initrd");
        for directory in ["bin", "dev", "proc", "sys", "sysroot"] {
            fs::create_dir_all(root.join(directory))?;
        }
        fs::copy(system.root.join("bin/busybox"), root.join("bin/busybox"))?;
        let first = match self.variant.root {
            Root::Debian(_) => "/sbin/init",
            _ => "/mesh/mesh-guest",
        };
        fs::write(root.join("init"), format!("{INIT}{first}\n"))?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
        copy_modules(self.kernel, &root.join("lib/modules"), &DISK_MODULES)?;
        let path = self.place.join("initrd.cpio");
        pack(&root, &path)?;
        Ok(path)
    }

    /// What is at `/mesh`, and where its modules come from.
    fn payload(&self) -> Result<PathBuf> {
        let root = self.place.join("mesh");
        fs::create_dir_all(root.join("deps"))?;
        fs::create_dir_all(root.join("packages"))?;
        let add =
            |program: &Path, name: &str| strip(self.variant.hardware, program, &root.join(name));
        add(&self.tests.init, "mesh-guest")?;
        add(&self.tests.peer, "mesh-peer")?;
        for suite in &self.tests.suites {
            if self.plan.has(suite) {
                add(&suite.path, &format!("deps/{}", suite.name))?;
            }
        }
        fs::write(root.join("plan.json"), serde_json::to_vec(&self.plan)?)?;
        copy_modules(self.kernel, &root.join("modules"), &MODULES)?;
        match self.agent {
            Some(agent) => add(agent, "mesh-agent")?,
            None => packages(self.variant.hardware, &root.join("packages"))?,
        }
        Ok(root)
    }
}

/// A disk with a file system that holds what is below `root`.
fn disk(root: &Path, path: &Path) -> Result<PathBuf> {
    File::create(path)?.set_len(DISK)?;
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-O", "^has_journal", "-d"])
        .arg(root)
        .arg(path))?;
    Ok(path.to_owned())
}

/// Puts the package of this build below `to`, and the same with a higher version.
fn packages(hardware: &Hardware, to: &Path) -> Result<()> {
    let current = to.join("current.deb");
    fs::copy(package(hardware)?, &current)?;
    let tree = to.join("newer");
    run(Command::new("dpkg-deb").arg("-R").arg(&current).arg(&tree))?;
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    let newer = |line: &str| match line.strip_prefix("Version: ") {
        Some(version) => format!("Version: {version}+newer\n"),
        None => format!("{line}\n"),
    };
    fs::write(&control, text.lines().map(newer).collect::<String>())?;
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Znone", "-b"])
        .arg(&tree)
        .arg(to.join("newer.deb")))?;
    Ok(fs::remove_dir_all(tree)?)
}

/// The guest's size is that of a small edge host's disk; what is not written takes no room here.
const DISK: u64 = 1 << 30;

/// For the initial file system to find the disks.
const DISK_MODULES: [&str; 4] = ["crc32c_generic", "ext4", "virtio_blk", "virtio_pci"];

/// The first process: makes the disks the root and gives way to systemd.
const INIT: &str = "\
#!/bin/busybox sh
set -e
busybox() { /bin/busybox \"$@\"; }
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs dev /dev
for module in virtio_pci virtio_blk crc32c_generic ext4; do busybox modprobe $module; done
busybox mount -t ext4 /dev/vda /sysroot
busybox mount -t ext4 -o ro /dev/vdb /sysroot/mesh
busybox mount --bind /sysroot/mesh/modules /sysroot/usr/lib/modules
busybox umount /sys /proc
busybox mount --move /dev /sysroot/dev
exec /bin/busybox switch_root /sysroot ";
