//! What a sandbox's mesh has in the kernel, without asking the agent.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::Hash;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::Pod;
use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError, PerCpuHashMap};
use aya::programs::links::{FdLink, PinnedLink};
use mesh_common::{Active, PolicyHeader, SLOTS};
use mesh_sys::{AttachType, effective_programs};

use crate::sandbox::Sandbox;

/// A pinned link and the program it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linked {
    /// Id of the link.
    pub link: u32,
    /// Id of the program.
    pub program: u32,
}

/// The hooks whose programs decide.
pub const DECIDING: [AttachType; 4] = [
    AttachType::BPF_CGROUP_INET4_CONNECT,
    AttachType::BPF_CGROUP_INET6_CONNECT,
    AttachType::BPF_CGROUP_UDP4_SENDMSG,
    AttachType::BPF_CGROUP_UDP6_SENDMSG,
];

/// The pinned links by name; none if nothing is pinned.
///
/// # Errors
///
/// The kernel's.
pub fn links(sandbox: &Sandbox) -> io::Result<BTreeMap<String, Linked>> {
    let directory = match fs::read_dir(sandbox.link_pins()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        directory => directory?,
    };
    let mut links = BTreeMap::new();
    for entry in directory {
        let entry = entry?;
        let pinned = PinnedLink::from_pin(entry.path()).map_err(io::Error::other)?;
        let info = FdLink::from(pinned).info().map_err(io::Error::other)?;
        let linked = Linked {
            link: info.id(),
            program: info.program_id(),
        };
        links.insert(entry.file_name().to_string_lossy().into_owned(), linked);
    }
    Ok(links)
}

/// Ids of the programs that run for `hook` in the sandbox.
///
/// # Errors
///
/// The kernel's.
pub fn programs(sandbox: &Sandbox, hook: AttachType) -> io::Result<Vec<u32>> {
    let directory = File::open(sandbox.cgroup.path())?;
    effective_programs(directory.as_fd(), hook)
}

/// Whether every hook that decides has a program.
///
/// # Errors
///
/// The kernel's.
pub fn enforces(sandbox: &Sandbox) -> io::Result<bool> {
    for hook in DECIDING {
        if programs(sandbox, hook)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Summary of the policy in force; `None` before the first.
///
/// # Errors
///
/// The kernel's.
pub fn policy(sandbox: &Sandbox) -> io::Result<Option<PolicyHeader>> {
    let open = |name: &str| MapData::from_pin(sandbox.map_pin(name)).map(Map::Array);
    let (active, headers) = (open("ACTIVE"), open("HEADERS"));
    let active = Array::<_, Active>::try_from(active.map_err(io::Error::other)?);
    let headers = Array::<_, PolicyHeader>::try_from(headers.map_err(io::Error::other)?);
    let active = active.map_err(io::Error::other)?.get(&0, 0);
    let Some(slot) = active
        .map_err(io::Error::other)?
        .slot_plus_one
        .checked_sub(1)
    else {
        return Ok(None);
    };
    let header = headers.map_err(io::Error::other)?.get(&slot, 0);
    header.map(Some).map_err(io::Error::other)
}

/// Memory of a pinned map of maps with all that is in it, bytes.
///
/// # Errors
///
/// The kernel's, or it is of another type.
pub fn memory_with_inner(sandbox: &Sandbox, name: &str) -> io::Result<u64> {
    let data = MapData::from_pin(sandbox.map_pin(name)).map_err(io::Error::other)?;
    let outer = memory(data.fd().as_fd())?;
    let map: ArrayOfMaps<MapData> = Map::ArrayOfMaps(data)
        .try_into()
        .map_err(io::Error::other)?;
    let mut all = outer;
    for slot in 0..SLOTS {
        match map.get(&slot, 0) {
            Ok(inner) => all += memory(inner.fd().as_fd())?,
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    Ok(all)
}

/// Memory of a map as the kernel accounts it, bytes.
fn memory(map: BorrowedFd<'_>) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes = line.and_then(|bytes| bytes.trim().parse().ok());
    bytes.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A pinned hash map.
///
/// # Errors
///
/// The kernel's, or it is of another type.
pub fn hash<K: Pod + Eq + Hash, V: Pod>(
    sandbox: &Sandbox,
    name: &str,
) -> io::Result<HashMap<MapData, K, V>> {
    let data = MapData::from_pin(sandbox.map_pin(name)).map_err(io::Error::other)?;
    HashMap::try_from(Map::HashMap(data)).map_err(io::Error::other)
}

/// A pinned hash map with a value for each CPU.
///
/// # Errors
///
/// The kernel's, or it is of another type.
pub fn per_cpu_hash<K: Pod, V: Pod>(
    sandbox: &Sandbox,
    name: &str,
) -> io::Result<PerCpuHashMap<MapData, K, V>> {
    let data = MapData::from_pin(sandbox.map_pin(name)).map_err(io::Error::other)?;
    PerCpuHashMap::try_from(Map::PerCpuHashMap(data)).map_err(io::Error::other)
}

/// Removes a cgroup whose processes have just ended, as soon as the kernel lets go of them.
///
/// # Errors
///
/// It does not within two seconds.
pub fn remove_cgroup(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match fs::remove_dir(path) {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(1)),
            Ok(()) => return Ok(()),
        }
    }
}

/// How many cgroups there are at `path` and below.
pub fn count_cgroups(path: &Path) -> usize {
    let below = fs::read_dir(path).into_iter().flatten().flatten();
    let directories = below.map(|entry| entry.path()).filter(|path| path.is_dir());
    1 + directories.map(|path| count_cgroups(&path)).sum::<usize>()
}
