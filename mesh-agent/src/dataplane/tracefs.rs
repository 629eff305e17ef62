//! Tracepoints, whose numbers tracefs knows, without leaving a mount of that behind.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;

use mesh_sys::open_tracepoint;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const TRACEFS: &str = "/sys/kernel/tracing";

/// Opens the tracepoints of cgroups that have these names.
pub(super) fn open(
    names: impl Iterator<Item = &'static str>,
) -> BTreeMap<&'static str, io::Result<OwnedFd>> {
    let names: Vec<_> = names.collect();
    let numbers = with_tracefs(|| names.iter().map(|name| number(name)).collect::<Vec<_>>());
    let opened = numbers
        .into_iter()
        .map(|number| number.and_then(open_tracepoint));
    names.iter().copied().zip(opened).collect()
}

fn number(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(format!("{TRACEFS}/events/cgroup/{name}/id"))?;
    text.trim().parse().map_err(io::Error::other)
}

/// Runs `work` where tracefs is visible. Where it is not mounted, that is a thread with a mount
/// namespace of its own, which ends with it.
fn with_tracefs<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    if Path::new(TRACEFS).join("events").is_dir() {
        return work();
    }
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(error) = mount_privately() {
                tracing::debug!(%error, "tracefs cannot be mounted");
            }
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn mount_privately() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    mount(
        Some("tracefs"),
        TRACEFS,
        Some("tracefs"),
        MsFlags::empty(),
        None::<&str>,
    )
}
