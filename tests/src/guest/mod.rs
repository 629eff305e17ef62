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

/// What the first process of a guest is called.
const INIT: &str = "/init";

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
    if fs::read_link("/proc/1/exe").is_ok_and(|path| path == Path::new(INIT)) {
        Ok(())
    } else {
        Err(io::Error::other("only in a guest of cargo xtask vm"))
    }
}
