//! The kernel side as the agent handles it: load, attach, apply a policy, read counters.
//!
//! Comes in: entries from [`crate::policy::compile`]. Goes out: map contents and records, with
//! ids still being numbers. aya's types do not leave this module.

mod cgroup;
mod pins;
mod policy_maps;
mod programs;
mod table;
mod tracefs;

use std::io;

pub use cgroup::{Cgroup, Hierarchy};
pub use pins::{Pins, PinsError};
pub use programs::{Globals, HOOKS, attach, load};
pub use table::Touched;

/// Why the kernel side does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The pin directory.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// The object does not load as such.
    #[error("cannot load the kernel object: {0}")]
    Object(#[from] aya::EbpfError),
    /// The verifier refused a program.
    #[error("this kernel refuses the program {program}: {error} (see mesh-agent doctor)")]
    Load {
        /// Which one.
        program: &'static str,
        /// What it said.
        error: aya::programs::ProgramError,
    },
    /// A hook cannot be attached to.
    #[error("cannot attach to {hook}: {error} (see mesh-agent doctor)")]
    Attach {
        /// Which one.
        hook: &'static str,
        /// What the kernel said.
        error: AttachError,
    },
    /// A link cannot be pinned.
    #[error("cannot pin: {0}")]
    Pin(#[from] aya::pin::PinError),
    /// The object lacks a map.
    #[error("the kernel object has no map {0}")]
    NoMap(&'static str),
    /// A map refuses.
    #[error("a BPF map refuses: {0}")]
    Map(#[from] aya::maps::MapError),
    /// Anything else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a hook cannot be attached to.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The program.
    #[error(transparent)]
    Program(#[from] aya::programs::ProgramError),
    /// The link.
    #[error(transparent)]
    Link(#[from] aya::programs::links::LinkError),
}
