//! Compiles the kernel programs into `OUT_DIR/mesh-ebpf` and records what built them.
//!
//! The compiler is the first of these that can do it: a ready object (`MESH_BPF_OBJECT`), a rustc
//! that ships `core` for BPF (`MESH_BPF_RUSTC`, or the system's), rustup's nightly with rust-src.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Error, Result, anyhow, bail};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

fn main() {
    // An error fails the build by itself; a failing exit code would add a dump of this output.
    if let Err(error) = build() {
        println!("cargo::error={error:#}");
    }
}

fn build() -> Result<()> {
    let workspace = Path::new("..");
    let object = PathBuf::from(variable("OUT_DIR")?).join(PACKAGE);
    watch(workspace);
    record_origin(workspace)?;

    if let Some(prebuilt) = env::var_os("MESH_BPF_OBJECT").map(PathBuf::from) {
        println!("cargo::rerun-if-changed={}", prebuilt.display());
        fs::copy(&prebuilt, &object)
            .with_context(|| format!("MESH_BPF_OBJECT: cannot copy {}", prebuilt.display()))?;
        println!("cargo::rustc-env=MESH_BPF_TOOLCHAIN=prebuilt object");
        return Ok(());
    }

    let compiler = Compiler::find()?;
    let linker = Linker::find()?;
    println!("cargo::rustc-env=MESH_BPF_TOOLCHAIN={}", compiler.label());
    let built = compile(workspace, &compiler, &linker)?;
    let stripped = fs::read(&built)
        .map_err(Error::from)
        .and_then(|object| strip(&object));
    let stripped = stripped.with_context(|| format!("cannot strip {}", built.display()))?;
    fs::write(&object, stripped).with_context(|| format!("cannot write {}", object.display()))
}

/// Leaves out the DWARF, most of the object, which only the making of BTF needs: the agent
/// would hold it in memory.
fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in builder.sections.iter_mut() {
        let name = section.name.to_vec();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections among those of symbols, which the writer does not.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

/// Names everything outside this package that the result depends on.
fn watch(workspace: &Path) {
    for path in INPUTS {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    for name in ["MESH_BPF_OBJECT", "MESH_BPF_RUSTC"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
}

/// Sets `MESH_GIT_REVISION` and `MESH_RUSTC_VERSION` for the agent.
fn record_origin(workspace: &Path) -> Result<()> {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .current_dir(workspace)
            .args(args)
            .output();
        output.ok().and_then(|output| text(&output))
    };
    let revision = git(&["rev-parse", "--short=12", "HEAD"]);
    println!(
        "cargo::rustc-env=MESH_GIT_REVISION={}",
        revision.as_deref().unwrap_or("unknown")
    );
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        let log = workspace.join(log);
        // Cargo would rerun this script on every build if the path did not exist.
        if log.exists() {
            println!("cargo::rerun-if-changed={}", log.display());
        }
    }

    let version = Command::new(variable("RUSTC")?).arg("--version").output();
    let version = version.ok().and_then(|output| text(&output));
    let version = version.as_deref().map(short);
    println!(
        "cargo::rustc-env=MESH_RUSTC_VERSION={}",
        version.as_deref().unwrap_or("unknown")
    );
    Ok(())
}

/// A way to get `core` for the BPF target.
enum Compiler {
    /// A rustc with a ready `core`, driven by the cargo that runs this script.
    Ready { rustc: PathBuf, version: String },
    /// Rustup's nightly, which compiles `core` from rust-src.
    Nightly { version: String },
}

impl Compiler {
    fn find() -> Result<Self> {
        if let Some(rustc) = env::var_os("MESH_BPF_RUSTC").map(PathBuf::from) {
            return Self::ready(&rustc).with_context(|| {
                format!(
                    "MESH_BPF_RUSTC: {} has no `core` for {TARGET}",
                    rustc.display()
                )
            });
        }
        SYSTEM_RUSTC
            .iter()
            .find_map(|rustc| Self::ready(Path::new(rustc)))
            .or_else(Self::nightly)
            .with_context(|| format!("no Rust compiler has `core` for {TARGET}: {INSTALL}"))
    }

    fn ready(rustc: &Path) -> Option<Self> {
        let print = ["--target", TARGET, "--print", "target-libdir"];
        let libraries = text(&Command::new(rustc).args(print).output().ok()?)?;
        let mut files = fs::read_dir(libraries).ok()?.flatten();
        files.find(|file| file.file_name().to_string_lossy().starts_with("libcore-"))?;
        let version = short(&text(&Command::new(rustc).arg("--version").output().ok()?)?);
        println!("cargo::rerun-if-changed={}", rustc.display());
        Some(Self::Ready {
            rustc: rustc.to_owned(),
            version,
        })
    }

    fn nightly() -> Option<Self> {
        let rustc = |args: &[&str]| {
            let output = Command::new("rustup")
                .args(["run", "nightly", "rustc"])
                .args(args)
                .output();
            text(&output.ok()?)
        };
        let sysroot = rustc(&["--print", "sysroot"])?;
        let core = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core");
        let version = short(&rustc(&["--version"])?);
        core.exists().then_some(Self::Nightly { version })
    }

    fn label(&self) -> String {
        match self {
            Self::Ready { rustc, version } => format!("{version} ({})", rustc.display()),
            Self::Nightly { version } => format!("{version} (rustup)"),
        }
    }

    fn cargo(&self) -> Result<Command> {
        match self {
            Self::Ready { rustc, .. } => {
                let mut cargo = Command::new(variable("CARGO")?);
                // The compiler may be newer than cargo, and a distribution's calls itself stable.
                cargo
                    .arg("build")
                    .env("RUSTC", rustc)
                    .env("RUSTC_BOOTSTRAP", "1");
                Ok(cargo)
            }
            Self::Nightly { .. } => {
                let mut cargo = Command::new("rustup");
                cargo.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
                cargo.env_remove("RUSTC").env_remove("CARGO");
                Ok(cargo)
            }
        }
    }
}

/// The directory of `bpf-linker`, which rustc looks up on `PATH` by that name.
struct Linker(PathBuf);

impl Linker {
    fn find() -> Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let cargo_home = cargo_home.or_else(|| Some(env::home_dir()?.join(".cargo")));
        env::split_paths(&path)
            .chain(cargo_home.map(|home| home.join("bin")))
            .find(|directory| directory.join(LINKER).is_file())
            .map(Self)
            .with_context(|| format!("{LINKER} is neither on PATH nor in cargo's bin: {INSTALL}"))
    }

    fn path(&self) -> Result<OsString> {
        let rest = env::var_os("PATH").unwrap_or_default();
        let directories = [self.0.clone()].into_iter().chain(env::split_paths(&rest));
        env::join_paths(directories).context("PATH")
    }
}

fn compile(workspace: &Path, compiler: &Compiler, linker: &Linker) -> Result<PathBuf> {
    println!(
        "cargo::rerun-if-changed={}",
        linker.0.join(LINKER).display()
    );
    let target_dir = target_dir()?;
    let output = compiler
        .cargo()?
        .current_dir(workspace)
        .args(["--quiet", "--release", "--package", PACKAGE, "--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .env("PATH", linker.path()?)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags()?)
        // Set by `cargo clippy` and the like for the agent, not for this build.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CLIPPY_ARGS")
        .env_remove("RUSTFLAGS")
        .output()
        .context("cannot run cargo for the kernel programs")?;

    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(failure(&messages, compiler, linker));
    }
    for line in messages.lines().filter(|line| !line.is_empty()) {
        println!("cargo::warning={line}");
    }
    Ok(target_dir.join(TARGET).join("release").join(PACKAGE))
}

/// Says in one line why the inner build failed; its own messages come first where they help.
fn failure(messages: &str, compiler: &Compiler, linker: &Linker) -> Error {
    // LLVM names the producer of a bitcode file that it is too old to read.
    if messages.contains("Producer: 'LLVM") {
        let linker = linker.0.join(LINKER);
        return anyhow!(
            "{} has an older LLVM than {}: reinstall it with the LLVM that `rustc -vV` names",
            linker.display(),
            compiler.label()
        );
    }
    for line in messages.lines().filter(|line| !line.is_empty()) {
        println!("cargo::error={line}");
    }
    anyhow!("the kernel programs in {PACKAGE} do not build, see above")
}

/// One directory for all profiles of the agent, beside theirs: cargo locks the outer one.
fn target_dir() -> Result<PathBuf> {
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let Some(target) = out_dir.ancestors().nth(4) else {
        bail!(
            "OUT_DIR {} is not inside a target directory",
            out_dir.display()
        );
    };
    Ok(target.join("bpf"))
}

fn rustflags() -> Result<OsString> {
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let mut flags = OsString::from("--cfg=bpf_target_arch=\"");
    flags.push(arch);
    flags.push("\"");
    for flag in FLAGS {
        flags.push("\x1f");
        flags.push(flag);
    }
    for flag in remapped_paths() {
        flags.push("\x1f");
        flags.push(flag);
    }
    Ok(flags)
}

/// What the agent's build leaves out of paths does not get into the line information either.
fn remapped_paths() -> Vec<String> {
    let outer = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let flags = outer.split('\x1f').map(str::to_owned);
    flags
        .filter(|flag| flag.starts_with("--remap-path-prefix="))
        .collect()
}

fn variable(name: &str) -> Result<OsString> {
    env::var_os(name).with_context(|| format!("cargo did not set {name}"))
}

fn text(output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// `rustc 1.96.0` out of `rustc 1.96.0 (ac68faa20 2026-05-25) (built from ..)`.
fn short(version: &str) -> String {
    version.split(" (").take(1).collect()
}

const PACKAGE: &str = "mesh-ebpf";
const TARGET: &str = "bpfel-unknown-none";
const LINKER: &str = "bpf-linker";
const SYSTEM_RUSTC: [&str; 1] = ["/usr/bin/rustc"];
const INSTALL: &str = "run `cargo xtask setup`, which installs or names what is missing";

/// Instruction set v3 has the atomics that return the old value; kernels know it since 5.12.
const FLAGS: [&str; 3] = ["-Cdebuginfo=2", "-Ctarget-cpu=v3", "-Clink-arg=--btf"];

const INPUTS: [&str; 6] = [
    "Cargo.lock",
    "Cargo.toml",
    "mesh-common/Cargo.toml",
    "mesh-common/src",
    "mesh-ebpf/Cargo.toml",
    "mesh-ebpf/src",
];
