//! The agent itself: linked statically, without a path of the machine that builds it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use object::{
    Endianness,
    elf::{FileHeader64, PT_INTERP},
    read::elf::{FileHeader as _, ProgramHeader as _},
};

use super::{Source, arch::Arch, cross::set_compiler, run_command, standard::Compiler};
use crate::{host, step::cargo};

/// Builds the agent for `arch` and checks that it is what it should be.
pub(super) fn build(arch: Arch, source: &Source) -> Result<PathBuf> {
    let compiler = Compiler::find(arch)?;
    let build = [
        "build",
        "--locked",
        "--release",
        "--package",
        "mesh-agent",
        "--target",
    ];
    let mut command = cargo(&build);
    command.arg(arch.target());
    set_environment(&mut command, arch, &compiler, source)?;
    run_command(&format!("build the agent for {}", arch.name()), command)?;
    let binary = release(arch)?.join("mesh-agent");
    let bytes = fs::read(&binary).with_context(|| binary.display().to_string())?;
    is_static(&bytes, arch).with_context(|| binary.display().to_string())?;
    asks_nobody(&bytes)?;
    names_no_place(&bytes)?;
    runs(arch, &binary)?;
    Ok(binary)
}

/// Where cargo puts what it builds for `arch`.
pub(super) fn release(arch: Arch) -> Result<PathBuf> {
    Ok(host::target_dir()?.join(arch.target()).join("release"))
}

fn set_environment(
    command: &mut Command,
    arch: Arch,
    compiler: &Compiler,
    source: &Source,
) -> Result<()> {
    let target = arch.target().replace('-', "_");
    let mut rust = Vec::new();
    let mut c = Vec::new();
    for (from, to) in places(compiler)? {
        rust.push(format!("--remap-path-prefix={}={to}", from.display()));
        c.push(format!("-ffile-prefix-map={}={to}", from.display()));
    }
    command
        .env("SOURCE_DATE_EPOCH", &source.epoch)
        .env(format!("CFLAGS_{target}"), c.join(" "));
    set_compiler(command, arch, compiler, rust);
    Ok(())
}

/// Directories of this machine, and what to call them. Of two that fit, the latter counts.
fn places(compiler: &Compiler) -> Result<Vec<(PathBuf, String)>> {
    let workspace = env::current_dir()?;
    let sources = compiler.home()?.join("lib/rustlib/src/rust");
    let mut places = vec![
        (workspace, "/mesh".to_owned()),
        (host::target_dir()?, "/mesh/target".to_owned()),
        (sources, format!("/rustc/{}", compiler.commit()?)),
    ];
    let home = host::cargo_bin().context("no home directory")?;
    let registries = home.with_file_name("registry").join("src");
    // One for each registry, mirrors included, with its name in the path.
    let registries = fs::read_dir(registries).into_iter().flatten().flatten();
    places.extend(registries.map(|registry| (registry.path(), "/cargo".to_owned())));
    Ok(places)
}

fn is_static(bytes: &[u8], arch: Arch) -> Result<()> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let machine = header.e_machine(endian);
    ensure!(
        machine == arch.machine(),
        "is for another machine ({machine})"
    );
    let segments = header.program_headers(endian, bytes)?;
    let dynamic = segments
        .iter()
        .any(|segment| segment.p_type(endian) == PT_INTERP);
    ensure!(
        !dynamic,
        "is not linked statically: it asks for a dynamic loader"
    );
    Ok(())
}

/// Functions for which glibc loads modules, which a static program may not find, or not in its version.
fn asks_nobody(bytes: &[u8]) -> Result<()> {
    let linked = |name: &&&str| find(bytes, format!("\0{name}\0").as_bytes()).is_some();
    match MODULAR.iter().find(linked) {
        Some(name) => bail!("a static program must not call {name}"),
        None => Ok(()),
    }
}

/// A path of this machine would differ on another one.
fn names_no_place(bytes: &[u8]) -> Result<()> {
    let home = env::home_dir().context("no home directory")?;
    for place in [env::current_dir()?, host::target_dir()?, home.join(".")] {
        let place = place
            .to_str()
            .context("a path is not text")?
            .trim_end_matches('.');
        if let Some(at) = find(bytes, place.as_bytes()) {
            let text = String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 120)]);
            bail!("the agent holds a path of this machine: {text}");
        }
    }
    Ok(())
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Runs it, in an emulator if need be: a program that links may still not start.
fn runs(arch: Arch, binary: &Path) -> Result<()> {
    let call = [
        "explain",
        "shop/checkout",
        "shop/payments:http",
        "--directory",
        EXAMPLE,
    ];
    let checks: [&[&str]; 3] = [&["--version"], &["check", EXAMPLE], &call];
    for arguments in checks {
        let mut command = if arch == Arch::HOST {
            Command::new(binary)
        } else {
            let mut emulator = Command::new(arch.emulator());
            emulator.arg(binary);
            emulator
        };
        command.args(arguments);
        run_command(&arguments.join(" "), command)?;
    }
    Ok(())
}

const MODULAR: [&str; 6] = [
    "getaddrinfo",
    "gethostbyname",
    "getpwnam_r",
    "getpwuid_r",
    "getgrnam_r",
    "iconv_open",
];
const EXAMPLE: &str = "examples/conf.d";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_program_that_needs_a_loader() -> Result<()> {
        // This test is one.
        let bytes = fs::read(env::current_exe()?)?;
        let error = is_static(&bytes, Arch::HOST).expect_err("is dynamic");
        assert!(error.to_string().contains("dynamic loader"), "{error}");
        let other = if Arch::HOST == Arch::Amd64 {
            Arch::Arm64
        } else {
            Arch::Amd64
        };
        let error = is_static(&bytes, other).expect_err("is of this machine");
        assert!(error.to_string().contains("another machine"), "{error}");
        Ok(())
    }

    #[test]
    fn tells_a_program_that_asks_for_names() {
        assert!(asks_nobody(b"\0getaddrinfo\0").is_err());
        assert!(asks_nobody(b"\0getaddrinfo failed\0socket\0").is_ok());
    }

    #[test]
    fn finds_a_path_in_a_program() {
        assert_eq!(find(b"..\0/home/a/b\0", b"/home/a/"), Some(3));
        assert_eq!(find(b"..\0/mesh/b\0", b"/home/a/"), None);
    }
}
