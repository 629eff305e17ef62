//! The few bpf(2) calls the agent needs and aya 0.14 does not offer, its heap, and what it inherits.
//!
//! Comes in: file descriptors and paths. Goes out: file descriptors and program ids. This is
//! the only userspace crate with `unsafe` code, so that the agent can forbid it.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod batch;
pub mod inherited;
pub mod memory;

use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya_obj::generated::{
    PERF_FLAG_FD_CLOEXEC, bpf_attach_type, bpf_attr, bpf_cmd, bpf_map_type, perf_event_attr,
    perf_type_id,
};

/// From include/uapi/asm-generic/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;
/// Asks for the programs that run, inherited ones included (`BPF_F_QUERY_EFFECTIVE`).
const QUERY_EFFECTIVE: u32 = 1;
/// More programs than a cgroup can have for one hook (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;

/// A cgroup hook that programs attach to.
pub use aya_obj::generated::bpf_attach_type as AttachType;

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a fully initialised union of the size given, and every pointer its
    // callers put in it outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            attr,
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn empty_attr() -> bpf_attr {
    // SAFETY: a union of plain integers, for which zero is a value and the kernel's default.
    unsafe { zeroed() }
}

/// Opens what is pinned at `path` (`BPF_OBJ_GET`).
///
/// # Errors
///
/// `NotFound` if nothing is there; the kernel's error otherwise.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut attr = empty_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    // SAFETY: a new file descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes a map of `slots` maps that are like `inner` (`BPF_MAP_CREATE`).
///
/// # Errors
///
/// The kernel's error.
pub fn create_array_of_maps(slots: u32, inner: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    attr.__bindgen_anon_1.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS as u32;
    attr.__bindgen_anon_1.key_size = size_of::<u32>() as u32;
    attr.__bindgen_anon_1.value_size = size_of::<u32>() as u32;
    attr.__bindgen_anon_1.max_entries = slots;
    attr.__bindgen_anon_1.inner_map_fd = inner.as_raw_fd() as u32;
    let fd = bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)?;
    // SAFETY: a new file descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Opens the cgroup with this id; `directory` is any cgroup of the hierarchy
/// (`open_by_handle_at`, with handles as cgroup2 makes them since Linux 5.5).
///
/// # Errors
///
/// `ESTALE` if it is gone; `EPERM` without `CAP_DAC_READ_SEARCH`.
pub fn open_cgroup(directory: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    /// `struct file_handle` of fcntl.h with room for an id.
    #[repr(C)]
    struct Handle {
        handle_bytes: u32,
        handle_type: i32,
        id: [u8; 8],
    }
    /// From include/linux/exportfs.h.
    const FILEID_KERNFS: i32 = 0xfe;
    let mut handle = Handle {
        handle_bytes: size_of::<u64>() as u32,
        handle_type: FILEID_KERNFS,
        id: id.to_ne_bytes(),
    };
    // SAFETY: the kernel reads the handle, whose length it says itself, and keeps no pointer.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            directory.as_raw_fd(),
            &raw mut handle,
            libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new file descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes `link` run `program` instead of what it runs now, in one step (`BPF_LINK_UPDATE`,
/// Linux 5.7).
///
/// # Errors
///
/// The kernel's error, such as `EINVAL` for a program of another type.
pub fn replace_program(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty_attr();
    attr.link_update.link_fd = link.as_raw_fd() as u32;
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Opens the tracepoint with this number, for programs that are attached to it (`perf_event_open`). Nothing is
/// counted or recorded.
///
/// # Errors
///
/// The kernel's error: `EACCES` without `CAP_PERFMON`, and on Debian, whose `kernel.perf_event_paranoid` is 3, without
/// `CAP_SYS_ADMIN`.
pub fn open_tracepoint(number: u64) -> io::Result<OwnedFd> {
    /// Every process, as seen from one processor: programs run on all of them.
    const ANY_PROCESS: libc::pid_t = -1;
    const CPU: libc::c_int = 0;
    const NO_GROUP: libc::c_int = -1;
    // SAFETY: plain integers, for which zero is a value and the kernel's default.
    let mut attr: perf_event_attr = unsafe { zeroed() };
    attr.type_ = perf_type_id::PERF_TYPE_TRACEPOINT as u32;
    attr.size = size_of::<perf_event_attr>() as u32;
    attr.config = number;
    attr.set_disabled(1);
    // SAFETY: `attr` is initialised and of the size that it says; the kernel keeps no pointer.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            ANY_PROCESS,
            CPU,
            NO_GROUP,
            PERF_FLAG_FD_CLOEXEC as libc::c_ulong,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new file descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches `program` to `hook` of what `target` is, a cgroup (beside others) or an opened tracepoint
/// (`BPF_LINK_CREATE`, Linux 5.7, for tracepoints 5.15).
///
/// # Errors
///
/// The kernel's error.
pub fn attach_program(
    target: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    hook: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_fd = target.as_raw_fd() as u32;
    attr.link_create.attach_type = hook as u32;
    let fd = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: a new file descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Detaches `link`, whoever else holds it (`BPF_LINK_DETACH`, Linux 5.9).
///
/// # Errors
///
/// The kernel's error.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty_attr();
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Pins a program, map or link at `path`, on a BPF file system (`BPF_OBJ_PIN`).
///
/// # Errors
///
/// The kernel's error, `AlreadyExists` if something is there.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut attr = empty_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = object.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Cookie of the network namespace of the calling thread (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
///
/// The kernel's error.
pub fn netns_cookie() -> io::Result<u64> {
    netns_cookie_of(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.as_fd())
}

/// Cookie of the network namespace that a socket is in (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
///
/// `ENOTSOCK` if it is none; the kernel's error otherwise.
pub fn netns_cookie_of(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(cookie)
    }
}

/// Ids of the programs that run for `hook` in `cgroup`, in order, those attached to its
/// ancestors included (`BPF_PROG_QUERY`).
///
/// # Errors
///
/// The kernel's error.
pub fn effective_programs(cgroup: BorrowedFd<'_>, hook: bpf_attach_type) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MAX_PROGRAMS];
    let mut attr = empty_attr();
    attr.query.__bindgen_anon_1.target_fd = cgroup.as_raw_fd() as u32;
    attr.query.attach_type = hook as u32;
    attr.query.query_flags = QUERY_EFFECTIVE;
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = MAX_PROGRAMS as u32;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: every field of the union is plain integers.
    let query = unsafe { attr.query };
    // SAFETY: the kernel has written this field of the union.
    let count = unsafe { query.__bindgen_anon_2.prog_cnt };
    Ok(ids.into_iter().take(count as usize).collect())
}
