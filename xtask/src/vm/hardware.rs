//! The computers that are emulated.

use std::path::Path;
use std::process::Command;

use crate::dist::Arch;

/// A kind of computer.
pub(super) struct Hardware {
    pub(super) arch: Arch,
    /// The emulator.
    pub(super) emulator: &'static str,
    /// What its parts are.
    parts: &'static [&'static str],
    memory: &'static str,
    /// The serial line that the kernel writes to.
    console: &'static str,
    /// The one that the tests write to.
    pub(super) line: &'static str,
    /// How the emulator is told of that one.
    second_line: &'static [&'static str],
}

pub(super) const AMD64: Hardware = Hardware {
    arch: Arch::Amd64,
    emulator: "qemu-system-x86_64",
    parts: &["-cpu", "max"],
    memory: "2048M",
    console: "ttyS0",
    line: "/dev/ttyS1",
    second_line: &["-serial", "stdio"],
};

/// As small as a host may be.
pub(super) const ARM64: Hardware = Hardware {
    arch: Arch::Arm64,
    emulator: "qemu-system-aarch64",
    // What the most capable processor adds, such as signed pointers, costs a third of the speed.
    parts: &["-machine", "virt", "-cpu", "cortex-a72"],
    memory: "512M",
    console: "ttyAMA0",
    line: "/dev/ttyS0",
    second_line: &[
        "-chardev",
        "stdio,id=report",
        "-device",
        "pci-serial,chardev=report",
    ],
};

impl Hardware {
    /// Whether this machine runs its programs without an emulator.
    pub(super) fn is_ours(&self) -> bool {
        self.arch == Arch::HOST
    }

    /// The emulator with a kernel that writes to the file `console` and is told `words`.
    ///
    /// KVM is not used even where it is there: results shall not depend on where this runs.
    pub(super) fn command(
        &self,
        kernel: &Path,
        initrd: &Path,
        words: &str,
        console: &Path,
    ) -> Command {
        let words = format!("console={} {COMMAND_LINE} {words}", self.console);
        let mut command = Command::new(self.emulator);
        command
            .args(["-accel", "tcg,thread=multi"])
            .args(self.parts)
            .args(["-smp", &CPUS.to_string(), "-m", self.memory])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .arg("-no-reboot")
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", &words])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(self.second_line);
        command
    }
}

/// Processors of a guest, and tests at a time in it.
pub(super) const CPUS: usize = 2;
/// A panic ends the emulator. Without the mitigations, which slow emulation down by a third,
/// the verifier and the programs are the same; the watchdogs would bark at a busy host.
const COMMAND_LINE: &str = "panic=-1 mitigations=off nowatchdog nosoftlockup \
                            rcupdate.rcu_cpu_stall_suppress=1";
