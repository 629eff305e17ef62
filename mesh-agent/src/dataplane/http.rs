//! The programs that read requests: on the cgroups of workloads that speak HTTP, and nowhere else.
//!
//! Comes in: the policy in force, which cgroups there are. Goes out: one pinned link for each
//! cgroup and direction. Where a link cannot be had, nothing is denied or delayed; connections
//! there are counted as not seen.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::Program;
use mesh_common::{Destination, Selector, SocketKey, destination_flag};
use mesh_sys::{AttachType, attach_program, effective_programs, open_pin, pin, replace_program};

use super::cgroup::{Cgroup, Hierarchy};
use super::pins::Pins;
use super::policy_maps::attribute;

/// Most cgroups that the programs are put on.
const MAX_CGROUPS: usize = 256;

/// A program and its side.
#[derive(Debug)]
pub struct HttpHook {
    /// Its name in the object.
    pub program: &'static str,
    /// The hook's name as people know it.
    pub hook: &'static str,
    attach_type: AttachType,
}

/// Both programs.
pub const HTTP_HOOKS: [HttpHook; 2] = [
    HttpHook {
        program: "mesh_http_ingress",
        hook: "http_ingress",
        attach_type: AttachType::BPF_CGROUP_INET_INGRESS,
    },
    HttpHook {
        program: "mesh_http_egress",
        hook: "http_egress",
        attach_type: AttachType::BPF_CGROUP_INET_EGRESS,
    },
];

/// How the programs are attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpState {
    /// Whether a service of this node speaks HTTP or gRPC.
    pub wanted: bool,
    /// Cgroups they are on.
    pub cgroups: u64,
    /// Cgroups they should be on and are not.
    pub missing: u64,
    /// Why.
    pub error: Option<String>,
}

/// The programs and where they are.
pub(super) struct HttpPrograms {
    loaded: Option<[Loaded; 2]>,
    /// By id of the cgroup.
    attached: BTreeMap<u64, [OwnedFd; 2]>,
    state: HttpState,
}

/// A program in the kernel.
struct Loaded {
    id: u32,
    fd: OwnedFd,
}

impl HttpPrograms {
    /// Takes hold of the loaded programs. A kernel that refuses them has a mesh all the same.
    pub(super) fn new(ebpf: &mut Ebpf) -> Self {
        let loaded = HTTP_HOOKS.each_ref().map(|hook| load(ebpf, hook.program));
        let (loaded, error) = match loaded {
            [Ok(ingress), Ok(egress)] => (Some([ingress, egress]), None),
            [Err(error), _] | [_, Err(error)] => (None, Some(error.to_string())),
        };
        if let Some(error) = &error {
            tracing::warn!(
                error,
                "this kernel cannot read requests; they are not measured"
            );
        }
        Self {
            loaded,
            attached: BTreeMap::new(),
            state: HttpState {
                error,
                ..HttpState::default()
            },
        }
    }

    pub(super) fn state(&self) -> HttpState {
        self.state.clone()
    }

    /// Puts the programs on `wanted`, and takes them away elsewhere. What an earlier agent has
    /// pinned is taken over.
    pub(super) fn sync(&mut self, pins: &Pins, hierarchy: &Hierarchy, wanted: Option<&[Cgroup]>) {
        self.state.wanted = wanted.is_some();
        let Some(loaded) = &self.loaded else {
            self.state.missing = wanted.map_or(0, <[Cgroup]>::len) as u64;
            return;
        };
        let wanted = wanted.unwrap_or_default();
        let fits = &wanted[..wanted.len().min(MAX_CGROUPS)];
        let ids: HashSet<u64> = fits.iter().map(|cgroup| cgroup.id).collect();
        self.attached.retain(|id, _| ids.contains(id));
        remove_others(pins, &ids);
        let mut error = (fits.len() < wanted.len())
            .then(|| format!("more than {MAX_CGROUPS} cgroups speak HTTP"));
        for cgroup in fits {
            match put(loaded, pins, hierarchy, cgroup) {
                Ok(links) => {
                    self.attached.insert(cgroup.id, links);
                }
                // A cgroup that has gone meanwhile is not missed.
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
                Err(failed) => {
                    let path = &cgroup.path;
                    error.get_or_insert_with(|| format!("cannot attach to {path}: {failed}"));
                }
            }
        }
        if error.is_some() && error != self.state.error {
            tracing::error!(error, "requests of some workloads are not measured");
        }
        self.state.cgroups = self.attached.len() as u64;
        self.state.missing = match error {
            Some(_) => (wanted.len() - self.attached.len()) as u64,
            None => 0,
        };
        self.state.error = error;
    }
}

/// The topmost cgroups of services with an endpoint here that speaks HTTP: what is below them is
/// covered. `None` if there is no such service.
pub(super) fn wanted(
    destinations: &[(SocketKey, Destination)],
    selectors: &[Selector],
    hierarchy: &Hierarchy,
) -> Option<Vec<Cgroup>> {
    const SPEAKS: u32 = destination_flag::HTTP | destination_flag::GRPC;
    let here = destinations.iter().filter(|(_, destination)| {
        destination.flags & destination_flag::THIS_NODE != 0 && destination.flags & SPEAKS != 0
    });
    let services: HashSet<u32> = here.map(|(_, destination)| destination.service).collect();
    if services.is_empty() {
        return None;
    }
    let root = hierarchy.prefix().len();
    let mut cgroups = hierarchy.walk();
    cgroups.retain(|cgroup| services.contains(&attribute(cgroup, selectors, root).0));
    // Before what is below it, and that before anything else.
    cgroups.sort_by(|a, b| a.path.split('/').cmp(b.path.split('/')));
    cgroups.dedup_by(|below, above| Path::new(&below.path).starts_with(&above.path));
    Some(cgroups)
}

fn load(ebpf: &mut Ebpf, name: &str) -> io::Result<Loaded> {
    let Some(Program::CgroupSkb(program)) = ebpf.program_mut(name) else {
        return Err(io::Error::other(format!(
            "the object has no program {name}"
        )));
    };
    program.load().map_err(io::Error::other)?;
    let id = program.info().map_err(io::Error::other)?.id();
    let fd = program.fd().map_err(io::Error::other)?;
    Ok(Loaded {
        id,
        fd: fd.as_fd().try_clone_to_owned()?,
    })
}

/// Puts both programs on a cgroup, unless they are.
fn put(
    loaded: &[Loaded; 2],
    pins: &Pins,
    hierarchy: &Hierarchy,
    cgroup: &Cgroup,
) -> io::Result<[OwnedFd; 2]> {
    let directory = File::open(hierarchy.path(cgroup))?;
    let [ingress, egress] = &HTTP_HOOKS;
    Ok([
        put_one(
            &loaded[0],
            ingress,
            &pin_of(pins, cgroup.id, ingress),
            &directory,
        )?,
        put_one(
            &loaded[1],
            egress,
            &pin_of(pins, cgroup.id, egress),
            &directory,
        )?,
    ])
}

/// Makes a pinned link run this agent's program, or makes a link.
fn put_one(loaded: &Loaded, hook: &HttpHook, path: &Path, directory: &File) -> io::Result<OwnedFd> {
    let acts = || {
        let effective = effective_programs(directory.as_fd(), hook.attach_type)?;
        Ok::<_, io::Error>(effective.contains(&loaded.id))
    };
    if let Ok(link) = open_pin(path) {
        if acts()? {
            return Ok(link);
        }
        replace_program(link.as_fd(), loaded.fd.as_fd())?;
        if acts()? {
            return Ok(link);
        }
        // The link is of a cgroup that is gone.
        fs::remove_file(path)?;
    }
    let link = attach_program(directory.as_fd(), loaded.fd.as_fd(), hook.attach_type)?;
    pin(link.as_fd(), path)?;
    Ok(link)
}

const PREFIX: &str = "http-";

fn pin_of(pins: &Pins, cgroup: u64, hook: &HttpHook) -> PathBuf {
    pins.link(&format!("{PREFIX}{cgroup}-{}", hook.hook))
}

/// Removes pins of cgroups that are not among `ids`: the links go with them.
fn remove_others(pins: &Pins, ids: &HashSet<u64>) {
    for entry in fs::read_dir(pins.link("")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| {
            let (id, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
            id.parse().ok()
        });
        if id.is_some_and(|id: u64| !ids.contains(&id)) {
            // It may be gone.
            let _ = fs::remove_file(entry.path());
        }
    }
}
