//! What was linked, as CycloneDX: cargo-cyclonedx's list for the agent and for its kernel programs, in one.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Source, VERSION, arch::Arch, run_command, standard::Compiler};
use crate::{host, step::cargo};

/// Writes the list for `arch`, which also names the digest of `binary`.
pub(super) fn write(arch: Arch, source: &Source, binary: &Path, to: &Path) -> Result<PathBuf> {
    let mut command = cargo(&["cyclonedx", "--quiet", "--format", "json"]);
    command.args(["--spec-version", "1.5", "--no-build-deps"]);
    command.args(["--target", arch.target(), "--override-filename", SCRATCH]);
    command.args(["--manifest-path", "mesh-agent/Cargo.toml"]);
    command.env("SOURCE_DATE_EPOCH", &source.epoch);
    let _scratch = Scratch;
    run_command(&format!("what was linked for {}", arch.name()), command)?;
    let mut list = read("mesh-agent")?;
    merge(&mut list, read("mesh-ebpf")?)?;
    let components = array(&mut list, "components")?;
    components.extend(runtime(arch)?);
    list["metadata"]["component"]["hashes"] = digest(binary)?;
    if let Some(component) = list["metadata"]["component"].as_object_mut() {
        component.remove("components");
    }
    let file = to.join(format!("mesh-agent-{VERSION}-{}.sbom.json", arch.name()));
    let text = serde_json::to_string_pretty(&list)?;
    // Workspace members are named by their directory.
    let workspace = env::current_dir()?;
    let text = text.replace(&format!("file://{}", workspace.display()), "file:///mesh");
    fs::write(&file, text + "\n")?;
    Ok(file)
}

fn read(package: &str) -> Result<Value> {
    let path = Path::new(package).join(format!("{SCRATCH}.json"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_str(&text)?)
}

/// Adds to `list` what only `other` has, and what that is about.
fn merge(list: &mut Value, mut other: Value) -> Result<()> {
    let mut about = other["metadata"]["component"].take();
    about["type"] = json!("library");
    if let Some(component) = about.as_object_mut() {
        component.remove("components");
    }
    for (key, id) in [("components", "bom-ref"), ("dependencies", "ref")] {
        let have = array(list, key)?;
        let mut known: BTreeSet<String> = have.iter().map(|item| name(item, id)).collect();
        if key == "components" {
            known.insert(name(&about, id));
            have.push(about.take());
        }
        for item in array(&mut other, key)?.drain(..) {
            if known.insert(name(&item, id)) {
                have.push(item);
            }
        }
    }
    Ok(())
}

fn name(item: &Value, id: &str) -> String {
    item[id].as_str().unwrap_or_default().to_owned()
}

fn array<'a>(value: &'a mut Value, key: &str) -> Result<&'a mut Vec<Value>> {
    let array = value[key].as_array_mut();
    array.with_context(|| format!("cargo-cyclonedx wrote no {key}"))
}

/// What the linker adds that cargo does not know.
fn runtime(arch: Arch) -> Result<Vec<Value>> {
    let rustc = host::output(Compiler::find(arch)?.rustc, &["--version"]);
    let rustc = rustc.context("rustc does not run")?;
    let rust = rustc.split(' ').nth(1).unwrap_or_default();
    let package = if arch == Arch::HOST {
        "libc6-dev".to_owned()
    } else {
        format!("libc6-dev-{}-cross", arch.name())
    };
    // Elsewhere than on Debian its version stays unknown.
    let version = host::output("dpkg-query", &["-W", "-f", "${Version}", &package]);
    let mut glibc = json!({
        "type": "library", "bom-ref": "glibc", "name": "glibc", "scope": "required",
        "licenses": [{ "expression": "LGPL-2.1-or-later" }],
    });
    if let Some(version) = version {
        glibc["version"] = json!(version);
        glibc["purl"] = json!(format!("pkg:deb/debian/{package}@{version}"));
    }
    let std = json!({
        "type": "library", "bom-ref": "rust-std", "name": "std", "version": rust, "scope": "required",
        "licenses": [{ "expression": "MIT OR Apache-2.0" }],
    });
    Ok(vec![glibc, std])
}

fn digest(binary: &Path) -> Result<Value> {
    let path = binary.to_str().context("a path is not text")?;
    let line = host::output("sha256sum", &[path]).context("sha256sum failed")?;
    let digest = line.split(' ').next().unwrap_or_default();
    Ok(json!([{ "alg": "SHA-256", "content": digest }]))
}

/// cargo-cyclonedx writes beside every manifest of the workspace; nothing of it stays.
struct Scratch;

impl Drop for Scratch {
    fn drop(&mut self) {
        let members = host::output("git", &["ls-files", "*Cargo.toml"]).unwrap_or_default();
        for manifest in members.lines() {
            let file = Path::new(manifest).with_file_name(format!("{SCRATCH}.json"));
            if file.exists()
                && let Err(error) = fs::remove_file(&file)
            {
                eprintln!("warning: remove {} by hand: {error}", file.display());
            }
        }
    }
}

const SCRATCH: &str = "mesh-sbom-scratch";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_one_without_what_both_have() -> Result<()> {
        let part = |about: &str, components: &[&str]| {
            let of = |id: &str| {
                components
                    .iter()
                    .map(|name| json!({ id: name }))
                    .collect::<Value>()
            };
            json!({
                "metadata": { "component": { "bom-ref": about, "type": "application", "components": [] } },
                "components": of("bom-ref"),
                "dependencies": of("ref"),
            })
        };
        let mut list = part("agent", &["a", "b"]);
        merge(&mut list, part("programs", &["b", "c"]))?;
        let names = |key: &str, id: &str| {
            let items = list[key].as_array().into_iter().flatten();
            items.map(|item| name(item, id)).collect::<Vec<_>>()
        };
        assert_eq!(names("components", "bom-ref"), ["a", "b", "programs", "c"]);
        assert_eq!(names("dependencies", "ref"), ["a", "b", "c"]);
        assert_eq!(list["metadata"]["component"]["bom-ref"], "agent");
        Ok(())
    }

    #[test]
    fn a_list_without_components_is_an_error() {
        let error = merge(&mut json!({}), json!({})).expect_err("nothing to merge");
        assert!(error.to_string().contains("components"), "{error}");
    }
}
