//! Loads the kernel programs and keeps them attached, from the first start to an upgrade.
//!
//! Every start loads the programs of this build on the pinned maps. Where a pinned link exists
//! the kernel swaps its program in one step, so there is never a moment without enforcement.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Program,
    ProgramError, SockOps,
};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use mesh_common::global;
use mesh_sys::{AttachType, attach_program, effective_programs, open_pin, pin, replace_program};

use super::cgroup::Hierarchy;
use super::pins::Pins;
use super::{AttachError, DataplaneError, Usher};

/// A program and the hook it belongs on.
#[derive(Debug)]
pub struct Hooked {
    /// Its name in the object, and that of its pin.
    pub program: &'static str,
    /// The hook's name as people know it.
    pub hook: &'static str,
    /// The cgroup hook; `None` for a tracepoint.
    pub attach_type: Option<AttachType>,
}

const fn cgroup(program: &'static str, hook: &'static str, attach_type: AttachType) -> Hooked {
    Hooked {
        program,
        hook,
        attach_type: Some(attach_type),
    }
}

/// All programs.
pub const HOOKS: &[Hooked] = &[
    cgroup(
        "mesh_connect4",
        "connect4",
        AttachType::BPF_CGROUP_INET4_CONNECT,
    ),
    cgroup(
        "mesh_connect6",
        "connect6",
        AttachType::BPF_CGROUP_INET6_CONNECT,
    ),
    cgroup(
        "mesh_sendmsg4",
        "sendmsg4",
        AttachType::BPF_CGROUP_UDP4_SENDMSG,
    ),
    cgroup(
        "mesh_sendmsg6",
        "sendmsg6",
        AttachType::BPF_CGROUP_UDP6_SENDMSG,
    ),
    cgroup(
        "mesh_recvmsg4",
        "recvmsg4",
        AttachType::BPF_CGROUP_UDP4_RECVMSG,
    ),
    cgroup(
        "mesh_recvmsg6",
        "recvmsg6",
        AttachType::BPF_CGROUP_UDP6_RECVMSG,
    ),
    cgroup(
        "mesh_getpeername4",
        "getpeername4",
        AttachType::BPF_CGROUP_INET4_GETPEERNAME,
    ),
    cgroup(
        "mesh_getpeername6",
        "getpeername6",
        AttachType::BPF_CGROUP_INET6_GETPEERNAME,
    ),
    cgroup("mesh_bind4", "bind4", AttachType::BPF_CGROUP_INET4_BIND),
    cgroup("mesh_bind6", "bind6", AttachType::BPF_CGROUP_INET6_BIND),
    cgroup(
        "mesh_sock_create",
        "sock_create",
        AttachType::BPF_CGROUP_INET_SOCK_CREATE,
    ),
    cgroup("mesh_sock_ops", "sock_ops", AttachType::BPF_CGROUP_SOCK_OPS),
    cgroup(
        "mesh_ingress",
        "ingress",
        AttachType::BPF_CGROUP_INET_INGRESS,
    ),
    Hooked {
        program: "mesh_cgroup_mkdir",
        hook: "cgroup_mkdir",
        attach_type: None,
    },
    Hooked {
        program: "mesh_cgroup_rmdir",
        hook: "cgroup_rmdir",
        attach_type: None,
    },
];

/// Maps that are pinned: all but the compiler's own and the log ring.
pub(super) const MAPS: &[&str] = &[
    "ACTIVE",
    "AFFINITY",
    "CGROUPS",
    "COUNTERS",
    "DECISIONS",
    "DESTINATIONS",
    "EGRESS",
    "ENDPOINTS",
    "FLOWS",
    "FLOWS_FOLLOWED",
    "FLOW_RECORDS",
    "HEADERS",
    "HTTP_CALLERS",
    "HTTP_HEADS",
    "HTTP_SOCKETS",
    "HTTP_WORK",
    "LISTENERS",
    "LOCAL_ADDRESSES",
    "RECORDS",
    "REDIRECTS",
    "REQUESTS",
    "ROOM",
    "RULES",
    "SCHEDULE",
    "SELECTORS",
    "SHARED_SPLIT_COUNTERS",
    "SOCKETS",
    "SOURCES",
    "SPLITS",
    "SPLIT_COUNTERS",
    "SUBJECTS",
    "TICKETS",
    "UDP_SOCKETS",
    "UIDS",
    "UNPARSED",
    "WALK",
];

/// Size of the ring of the programs' own log, which is mapped twice into the agent's memory. The
/// largest entry takes half of it.
const LOG_RING_BYTES: u32 = 16 << 10;

pub(super) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf"));

/// What the programs are told before they are loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Globals<'a> {
    /// Cookie of the agent's network namespace.
    pub(super) netns_cookie: u64,
    /// Path of the cgroup the mesh is limited to; empty for the whole host.
    pub(super) root: &'a str,
    /// Level of the programs' own log, 0 (off) to 5 (trace).
    pub(super) log_level: u8,
}

/// Loads this build's programs on the pinned maps, making those that are missing.
pub(super) fn load(pins: &Pins, globals: Globals<'_>) -> Result<Ebpf, DataplaneError> {
    let mut root = [0u8; global::ROOT_MAX];
    root[..globals.root.len()].copy_from_slice(globals.root.as_bytes());
    let root_length = globals.root.len() as u32;
    let mut loader = EbpfLoader::new();
    loader
        .btf(None)
        .override_global(global::NETNS_COOKIE, &globals.netns_cookie, true)
        .override_global(global::ROOT_LENGTH, &root_length, true)
        .override_global(global::ROOT, &root, true)
        .override_global("AYA_LOG_LEVEL", &globals.log_level, false)
        .map_max_entries("AYA_LOGS", LOG_RING_BYTES);
    for map in MAPS {
        loader.map_pin_path(map, pins.map(map));
    }
    let mut ebpf = loader.load(OBJECT)?;
    for hooked in HOOKS {
        match load_program(&mut ebpf, hooked.program) {
            Ok(()) => {}
            // The mesh can do without tracepoints; attaching this one fails, and says so.
            Err(error) if hooked.attach_type.is_none() => {
                tracing::debug!(hook = hooked.hook, %error, "the kernel refuses the program");
            }
            Err(error) => {
                let program = hooked.program;
                return Err(DataplaneError::Load { program, error });
            }
        }
    }
    Ok(ebpf)
}

fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<(), ProgramError> {
    match ebpf.program_mut(name) {
        Some(Program::CgroupSockAddr(program)) => program.load(),
        Some(Program::CgroupSock(program)) => program.load(),
        Some(Program::CgroupSkb(program)) => program.load(),
        Some(Program::SockOps(program)) => program.load(),
        Some(Program::TracePoint(program)) => program.load(),
        _ => Err(ProgramError::NotLoaded),
    }
}

/// Lets new cgroups be seen. Returns the hooks this kernel does not offer, and why: the mesh can
/// do without, watching directories instead.
pub(super) fn attach_tracepoints(
    ebpf: &Ebpf,
    pins: &Pins,
    usher: Option<&Usher>,
) -> Vec<(&'static str, String)> {
    let failed = tracepoints().filter_map(|hooked| {
        let error = attach_tracepoint(ebpf, pins, usher, hooked).err()?;
        Some((hooked.hook, error.to_string()))
    });
    failed.collect()
}

/// The programs of tracepoints.
pub(super) fn tracepoints() -> impl Iterator<Item = &'static Hooked> {
    HOOKS.iter().filter(|hooked| hooked.attach_type.is_none())
}

/// Puts every loaded program in force below `hierarchy`.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: &Pins,
    hierarchy: &Hierarchy,
) -> Result<(), DataplaneError> {
    let directory = hierarchy.open()?;
    for hooked in HOOKS {
        if let Some(attach_type) = hooked.attach_type {
            attach_cgroup(ebpf, pins, &directory, hooked, attach_type)?;
        }
    }
    Ok(())
}

/// Id of the program that the pinned link of `program` runs.
pub(super) fn pinned_program(pins: &Pins, program: &str) -> Option<u32> {
    let link = PinnedLink::from_pin(pins.link(program)).ok()?;
    FdLink::from(link).info().ok().map(|info| info.program_id())
}

/// Swaps the program of the pinned link if that still acts on our cgroup, else attaches anew.
fn attach_cgroup(
    ebpf: &mut Ebpf,
    pins: &Pins,
    directory: &File,
    hooked: &Hooked,
    attach_type: AttachType,
) -> Result<(), DataplaneError> {
    let failed = |error: AttachError| DataplaneError::Attach {
        hook: hooked.hook,
        error,
    };
    let pin = pins.link(hooked.program);
    let program = ebpf
        .program_mut(hooked.program)
        .ok_or_else(|| failed(ProgramError::NotLoaded.into()))?;
    if let Ok(link) = open_pin(&pin) {
        let id = program.info().map_err(|error| failed(error.into()))?.id();
        replace_program(
            link.as_fd(),
            program.fd().map_err(|error| failed(error.into()))?.as_fd(),
        )?;
        if effective_programs(directory.as_fd(), attach_type)?.contains(&id) {
            return Ok(());
        }
        // A link of a cgroup that is gone (or another one) enforces nothing here.
        tracing::warn!(
            hook = hooked.hook,
            "the pinned link acts elsewhere; attaching anew"
        );
        fs::remove_file(&pin)?;
    }
    let link = match program {
        Program::CgroupSockAddr(program) => attach_sock_addr(program, directory),
        Program::CgroupSock(program) => attach_sock(program, directory),
        Program::CgroupSkb(program) => attach_skb(program, directory),
        Program::SockOps(program) => attach_sock_ops(program, directory),
        _ => Err(ProgramError::NotLoaded.into()),
    };
    pin_link(link.map_err(failed)?, &pin)
}

fn attach_sock_addr(program: &mut CgroupSockAddr, directory: &File) -> Result<FdLink, AttachError> {
    let id = program.attach(directory, CgroupAttachMode::Single)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn attach_sock(program: &mut CgroupSock, directory: &File) -> Result<FdLink, AttachError> {
    let id = program.attach(directory, CgroupAttachMode::Single)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn attach_skb(program: &mut CgroupSkb, directory: &File) -> Result<FdLink, AttachError> {
    let kind = CgroupSkbAttachType::Ingress;
    let id = program.attach(directory, kind, CgroupAttachMode::Single)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn attach_sock_ops(program: &mut SockOps, directory: &File) -> Result<FdLink, AttachError> {
    let id = program.attach(directory, CgroupAttachMode::Single)?;
    Ok(program.take_link(id)?.try_into()?)
}

/// Attaches a tracepoint program beside the one that may be there, then removes that: their
/// links cannot be updated, and seeing a cgroup twice does no harm.
fn attach_tracepoint(
    ebpf: &Ebpf,
    pins: &Pins,
    usher: Option<&Usher>,
    hooked: &Hooked,
) -> io::Result<()> {
    let usher = usher.ok_or_else(|| io::Error::other("there is nobody to open it"))?;
    let tracepoint = usher.tracepoint(hooked.hook)?;
    let program = loaded(ebpf, hooked.program)?;
    let hook = AttachType::BPF_PERF_EVENT;
    let link = attach_program(tracepoint.as_fd(), program.as_fd(), hook)?;
    let (there, next) = (
        pins.link(hooked.program),
        pins.link(&format!("next_{}", hooked.program)),
    );
    if next.exists() {
        fs::remove_file(&next)?;
    }
    pin(link.as_fd(), &next)?;
    fs::rename(&next, &there)
}

/// The program of this agent. Whoever asks for one by its id needs more rights.
pub(super) fn loaded(ebpf: &Ebpf, name: &str) -> io::Result<OwnedFd> {
    let program = ebpf.program(name);
    let program = program.ok_or_else(|| io::Error::other(format!("no program {name}")))?;
    let fd = program.fd().map_err(io::Error::other)?;
    fd.as_fd().try_clone_to_owned()
}

fn pin_link(link: FdLink, pin: &Path) -> Result<(), DataplaneError> {
    let pinned: PinnedLink = link.pin(pin)?;
    drop(pinned);
    Ok(())
}
