//! Keeps enforcement where it is: what somebody removes is put back.
//!
//! The agent holds every link, program and map itself, so a pin that is removed takes nothing out of
//! force; it is made again. A link that no longer acts (detached, or its cgroup removed and made
//! again) is replaced by a new one.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use aya::Ebpf;
use mesh_sys::{AttachType, attach_program, effective_programs, open_pin, pin};

use super::DataplaneError;
use super::cgroup::Hierarchy;
use super::pins::Pins;
use super::programs::{HOOKS, Hooked, MAPS, loaded, pinned_program};

/// What is held.
pub(super) struct Guard {
    hooks: Vec<Held>,
    maps: Vec<(&'static str, OwnedFd)>,
}

/// A hook's program and link.
struct Held {
    hooked: &'static Hooked,
    id: u32,
    /// `None` for a tracepoint, which is not attached again.
    program: Option<OwnedFd>,
    link: OwnedFd,
}

impl Guard {
    /// Takes hold of what is pinned. Tracepoints that this kernel does not offer are left out.
    pub(super) fn new(pins: &Pins, ebpf: &Ebpf) -> Result<Self, DataplaneError> {
        let mut hooks = Vec::new();
        for hooked in HOOKS {
            match Held::new(pins, ebpf, hooked) {
                Ok(held) => hooks.push(held),
                Err(error) if hooked.attach_type.is_some() => return Err(error.into()),
                Err(_) => {}
            }
        }
        let maps = MAPS.iter().map(|map| Ok((*map, open_pin(&pins.map(map))?)));
        Ok(Self {
            hooks,
            maps: maps.collect::<io::Result<_>>()?,
        })
    }

    /// Puts back what is missing; what that was.
    pub(super) fn repair(
        &mut self,
        pins: &mut Pins,
        hierarchy: &Hierarchy,
    ) -> Result<Vec<String>, DataplaneError> {
        let mut repaired = Vec::new();
        if pins.restore()? {
            repaired.push("the pin directory".to_owned());
        }
        for (map, fd) in &self.maps {
            if restore_pin(fd, &pins.map(map))? {
                repaired.push(format!("the pin of map {map}"));
            }
        }
        let directory = hierarchy.open()?;
        for held in &mut self.hooks {
            if held.attach_again(&directory)? {
                let path = pins.link(held.hooked.program);
                remove_pin(&path)?;
                pin(held.link.as_fd(), &path)?;
                repaired.push(format!("the program of {}", held.hooked.hook));
            } else if restore_pin(&held.link, &pins.link(held.hooked.program))? {
                repaired.push(format!("the pin of {}", held.hooked.hook));
            }
        }
        Ok(repaired)
    }
}

impl Held {
    fn new(pins: &Pins, ebpf: &Ebpf, hooked: &'static Hooked) -> io::Result<Self> {
        let gone = || io::Error::other(format!("the link of {} is gone", hooked.hook));
        let id = pinned_program(pins, hooked.program).ok_or_else(gone)?;
        Ok(Self {
            hooked,
            id,
            program: match hooked.attach_type {
                Some(_) => Some(loaded(ebpf, hooked.program)?),
                None => None,
            },
            link: open_pin(&pins.link(hooked.program))?,
        })
    }

    /// Attaches the program anew if it does not act on `cgroup`; whether it had to be.
    fn attach_again(&mut self, cgroup: &File) -> io::Result<bool> {
        let (Some(hook), Some(program)) = (self.hooked.attach_type, &self.program) else {
            return Ok(false);
        };
        if self.acts(cgroup, hook)? {
            return Ok(false);
        }
        self.link = attach_program(cgroup.as_fd(), program.as_fd(), hook)?;
        Ok(true)
    }

    fn acts(&self, cgroup: &File, hook: AttachType) -> io::Result<bool> {
        Ok(effective_programs(cgroup.as_fd(), hook)?.contains(&self.id))
    }
}

/// Pins `object` at `path` if nothing is there; whether that was so.
fn restore_pin(object: &OwnedFd, path: &Path) -> io::Result<bool> {
    if path.exists() {
        return Ok(false);
    }
    pin(object.as_fd(), path)?;
    Ok(true)
}

fn remove_pin(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
