//! A guest of `cargo xtask vm`, from the inside: its first process and what that runs.
//!
//! Comes in: a [`Plan`], a file of the initial file system. Goes out: [`Event`]s over a serial
//! line, then the machine is switched off, whatever happened.

mod init;
mod plan;
mod suite;

use std::fs;
use std::io;
use std::path::Path;
use std::process;

use anyhow::Result;

pub use self::plan::{Event, Outcome, Plan, Planned};

/// What the first process of a guest is called: in memory, and on a disk.
const INIT: [&str; 2] = ["/init", "/mesh/mesh-guest"];
/// What the kernel of a guest with systemd is told, so that tests know where they are.
const MARK: &str = "mesh.guest";

/// Is the first process if it is the first process, else runs the plan.
///
/// # Errors
///
/// The plan cannot be read or the line not be written.
pub fn run() -> Result<()> {
    if process::id() == 1 {
        init::run()
    } else {
        suite::run()
    }
}

/// Makes sure that this machine is such a guest, which nobody else uses.
///
/// # Errors
///
/// It is not.
pub fn required() -> io::Result<()> {
    let first = fs::read_link("/proc/1/exe");
    if first.is_ok_and(|path| INIT.iter().any(|init| path == Path::new(init))) {
        Ok(())
    } else {
        Err(io::Error::other("only in a guest of cargo xtask vm"))
    }
}

/// Makes sure that this machine is a guest whose first process is systemd, and which nobody else uses.
///
/// # Errors
///
/// It is not.
pub fn systemd_required() -> io::Result<()> {
    let told = fs::read_to_string("/proc/cmdline")?;
    if told.split_whitespace().any(|word| word == MARK) && Path::new("/run/systemd/system").exists()
    {
        Ok(())
    } else {
        Err(io::Error::other(
            "only in a guest of cargo xtask vm --systemd",
        ))
    }
}
