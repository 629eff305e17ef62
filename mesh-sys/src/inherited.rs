//! File descriptors that the service manager passes on, as sd_listen_fds(3) says.

use std::env;
use std::fs;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::process;

/// What the service manager says of them; for this process alone, so nothing it starts gets to see it.
const VARIABLES: [&str; 4] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
];
/// The first of them (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;
/// More than a process can have, unless somebody has raised `fs.nr_open`.
const MOST: RawFd = 1 << 20;
/// What one is called that the service manager has no name for.
const UNNAMED: &str = "unknown";

/// Takes them, with their names, and forgets that there were any. They are not passed on to what
/// this process starts. To be called before threads are started.
///
/// # Errors
///
/// There are other threads, or no `/proc` to tell.
pub fn take() -> io::Result<Vec<(OwnedFd, String)>> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("there are threads already"));
    }
    let [pid, count, names, _] = VARIABLES.map(|name| env::var(name).unwrap_or_default());
    for variable in VARIABLES {
        // SAFETY: this is the only thread, so nobody reads the environment meanwhile.
        unsafe { env::remove_var(variable) };
    }
    if pid.parse() != Ok(process::id()) {
        return Ok(Vec::new());
    }
    let count: RawFd = count.parse().unwrap_or_default();
    let names = names.split(':').chain(std::iter::repeat(UNNAMED));
    let all = (FIRST..FIRST + count.clamp(0, MOST)).zip(names);
    Ok(all
        .filter_map(|(fd, name)| Some((inherited(fd)?, name.to_owned())))
        .collect())
}

/// The file descriptor, if it is open and has come through `execve()`.
fn inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: it reads a flag, and fails for what is not open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return None;
    }
    // SAFETY: it sets a flag, so that it is not taken twice.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: it was open when this program began, because what the program opens itself has
    // `FD_CLOEXEC`. The service manager has said that it is ours, and nobody else has asked.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
