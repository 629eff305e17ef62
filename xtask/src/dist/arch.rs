//! The architectures that packages are made for.

use crate::need::Need;

/// An architecture, as Debian names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    pub(super) const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];
    /// The one this runs on.
    #[cfg(target_arch = "aarch64")]
    pub(crate) const HOST: Self = Self::Arm64;
    #[cfg(not(target_arch = "aarch64"))]
    pub(crate) const HOST: Self = Self::Amd64;

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|arch| arch.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// What Rust calls it.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The C compiler that makes programs for it elsewhere.
    pub(super) fn cross_compiler(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu-gcc",
            Self::Arm64 => "aarch64-linux-gnu-gcc",
        }
    }

    /// The emulator that runs such programs elsewhere.
    pub(crate) fn emulator(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-x86_64-static",
            Self::Arm64 => "qemu-aarch64-static",
        }
    }

    /// Its number in the header of a program: `EM_X86_64`, `EM_AARCH64` of elf.h.
    pub(super) fn machine(self) -> u16 {
        match self {
            Self::Amd64 => 62,
            Self::Arm64 => 183,
        }
    }

    /// What building for it elsewhere takes.
    pub(super) fn needs(self) -> &'static [Need] {
        match self {
            Self::Amd64 => &[Need::CrossAmd64, Need::QemuUser],
            Self::Arm64 => &[Need::CrossArm64, Need::QemuUser],
        }
    }
}
