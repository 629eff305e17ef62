//! What cargo needs to know to build for another architecture.

use std::process::Command;

use anyhow::Result;

use super::arch::Arch;
use super::standard::Compiler;

/// Lets a cargo command build programs for `arch` that are linked statically, so that they run wherever its
/// kernel does.
pub(crate) fn set_environment(command: &mut Command, arch: Arch) -> Result<()> {
    set_compiler(command, arch, &Compiler::find(arch)?, Vec::new());
    Ok(())
}

/// The same with a compiler that was found, and more `flags` for it.
pub(super) fn set_compiler(
    command: &mut Command,
    arch: Arch,
    compiler: &Compiler,
    mut flags: Vec<String>,
) {
    flags.push("-Ctarget-feature=+crt-static".to_owned());
    if let Some(sysroot) = &compiler.sysroot {
        flags.push(format!("--sysroot={}", sysroot.display()));
    }
    command
        .env("RUSTC", compiler.rustc)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTFLAGS");
    set_linker(command, arch);
}

/// Names the C compiler and linker, if they are not this machine's.
fn set_linker(command: &mut Command, arch: Arch) {
    if arch != Arch::HOST {
        let target = arch.target().replace('-', "_");
        let linker = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase());
        command.env(linker, arch.cross_compiler());
        command.env(format!("CC_{target}"), arch.cross_compiler());
    }
}
