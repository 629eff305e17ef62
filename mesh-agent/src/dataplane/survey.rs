//! What is pinned, as the kernel has it: with or without an agent.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::programs::links::{FdLink, PinnedLink};

use super::stats::memory;

/// Links and maps of every version that is pinned below `bpffs`, as text.
pub fn survey(bpffs: &Path) -> String {
    let versions = entries(&bpffs.join("mesh"));
    if versions.is_empty() {
        return format!("nothing is pinned below {}\n", bpffs.display());
    }
    let mut out = String::new();
    for version in versions.iter().filter(|path| path.is_dir()) {
        out += &format!("{}\n", version.display());
        for pin in entries(&version.join("links")) {
            out += &format!("  link {}: {}\n", name(&pin), link(&pin));
        }
        for pin in entries(&version.join("maps")) {
            out += &format!("  map {}: {}\n", name(&pin), map(&pin));
        }
    }
    out
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn link(pin: &Path) -> String {
    let link = PinnedLink::from_pin(pin).map(FdLink::from);
    match link
        .map_err(|error| error.to_string())
        .and_then(|link| link.info().map_err(|error| error.to_string()))
    {
        Ok(info) => format!("id {}, runs program {}", info.id(), info.program_id()),
        Err(error) => format!("unreadable: {error}"),
    }
}

fn map(pin: &Path) -> String {
    let read = || {
        let map = MapData::from_pin(pin)?;
        Ok::<_, aya::maps::MapError>((map.info()?, memory(map.fd().as_fd())))
    };
    match read() {
        Ok((info, bytes)) => format!(
            "id {}, {:?}, key {} and value {} bytes, at most {} entries, {bytes} bytes of memory",
            info.id(),
            info.map_type(),
            info.key_size(),
            info.value_size(),
            info.max_entries()
        ),
        Err(error) => format!("unreadable: {error}"),
    }
}
