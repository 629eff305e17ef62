//! Access to tracefs, which says what number a tracepoint has, without leaving a mount behind.

use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const TRACEFS: &str = "/sys/kernel/tracing";

/// Runs `work` where tracefs is visible. Where it is not mounted, that is a thread with a mount
/// namespace of its own, which ends with it.
pub(super) fn with_tracefs<T: Send>(work: impl FnOnce() -> T + Send) -> T {
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
