//! What machines have on their disks: Debian's smallest system with systemd, or a few tools of Debian's.
//!
//! The trees are kept, to make disks of.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::hardware::Hardware;
use super::kernel::{extract, run};
use crate::step::Step;

/// A tree of Debian as it is after it has been installed.
pub(super) struct System {
    pub(super) root: PathBuf,
}

impl System {
    /// A release, kept below `directory` for the next time.
    pub(super) fn get(release: &str, directory: &Path) -> Result<Self> {
        let root = directory.join("systems").join(release);
        let recipe = root.with_extension("recipe");
        let wanted = format!("{PACKAGES}\n{SERVICE}\n{PATIENCE}");
        if fs::read_to_string(&recipe).is_ok_and(|found| found == wanted) {
            return Ok(Self { root });
        }
        let step = Step::start(&format!("install Debian {release} in a directory"));
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir_all(root.parent().context("a root without parent")?)?;
        run(Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase"])
            .arg(format!("--include={PACKAGES}"))
            .args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")))
            .arg(release)
            .arg(&root))?;
        let system = Self { root };
        system.settle()?;
        fs::write(recipe, wanted)?;
        step.done();
        Ok(system)
    }

    /// The few tools that tests call, for a computer of any kind.
    pub(super) fn of_tools(hardware: &Hardware, directory: &Path) -> Result<Self> {
        let root = directory.join("systems").join(hardware.arch.name());
        let recipe = root.with_extension("recipe");
        if fs::read_to_string(&recipe).is_ok_and(|found| found == TOOLS) {
            return Ok(Self { root });
        }
        extract(hardware, TOOLS, &root)?;
        for directory in MOUNT_POINTS {
            fs::create_dir_all(root.join(directory))?;
        }
        // Not even these directories are merged there, as they are where Debian is installed.
        symlink("../usr/lib/modules", root.join("lib/modules"))?;
        fs::write(recipe, TOOLS)?;
        Ok(Self { root })
    }

    /// What somebody who installs a machine answers.
    fn settle(&self) -> Result<()> {
        let etc = self.root.join("etc");
        // dpkg would go on leaving out what nobody reads.
        fs::remove_file(etc.join("dpkg/dpkg.cfg.d/99mmdebstrap"))?;
        // Without one, systemd takes the boot for the first and sets units up anew.
        fs::write(etc.join("machine-id"), "6d6573682d67756573742d6d61636869\n")?;
        fs::write(etc.join("hostname"), "edge-1\n")?;
        fs::write(etc.join("systemd/system/guest.service"), SERVICE)?;
        for unit in ["mesh-agent.service", "mesh-load.service"] {
            let directory = etc.join(format!("systemd/system/{unit}.d"));
            fs::create_dir_all(&directory)?;
            fs::write(directory.join("patience.conf"), PATIENCE)?;
        }
        let wants = etc.join("systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants)?;
        symlink("../guest.service", wants.join("guest.service"))?;
        for directory in MOUNT_POINTS {
            fs::create_dir_all(self.root.join(directory))?;
        }
        Ok(())
    }
}

/// Where the initial file system and the first process mount something.
const MOUNT_POINTS: [&str; 7] = [
    "dev",
    "mesh",
    "proc",
    "run",
    "sys",
    "tmp",
    "usr/lib/modules",
];

/// Beyond the smallest system: what makes it a machine, and what tests call.
const PACKAGES: &str = "systemd-sysv,dbus,iproute2,kmod,procps,busybox-static";

/// What tests call where there is no system.
const TOOLS: &str = "busybox-static,dash,iproute2,kmod,openssl,util-linux";

/// What nobody reads there.
const LEFT_OUT: [&str; 3] = [
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];

/// Runs the tests once the machine is up, then switches it off.
const SERVICE: &str = "\
[Unit]
After=multi-user.target

[Service]
ExecStart=/mesh/mesh-guest
ExecStopPost=systemctl --no-block poweroff
StandardOutput=journal+console

[Install]
WantedBy=multi-user.target
";

/// Time runs slower in a machine that is emulated beside others.
const PATIENCE: &str = "[Service]\nTimeoutStartSec=600\nTimeoutStopSec=600\nWatchdogSec=300\n";
