//! From one version of the binary interface to another, without a moment of no enforcement.
//!
//! Pins of another version live in a directory of their own. What this version can use is taken
//! over: links, whose programs are then swapped in place, and the maps that hold what no file
//! says (counters, sockets' state), as far as their shape is the same. Policy maps are made anew
//! and filled before any program is swapped.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData};
use aya_obj::Object;
use mesh_common::{ABI_VERSION, Active, PolicyHeader};
use mesh_sys::pin;

use super::DataplaneError;
use super::pins::Pins;
use super::programs::{HOOKS, OBJECT};

/// Maps that are worth keeping.
const KEPT: &[&str] = &[
    "AFFINITY",
    "COUNTERS",
    "DECISIONS",
    "FLOWS",
    "HTTP_SOCKETS",
    "REQUESTS",
    "SHARED_SPLIT_COUNTERS",
    "SOCKETS",
    "SPLIT_COUNTERS",
    "UDP_SOCKETS",
    "UNPARSED",
];

/// What another version has left in force.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// Its directories.
    others: Vec<PathBuf>,
    /// The highest revision of a policy it has put in force: sockets remember under which one
    /// they were allowed, so numbers must not come twice.
    pub(super) revision: u64,
}

impl Inherited {
    /// Finds other versions, and pins those of their maps here that this version can use.
    pub(super) fn take(pins: &Pins) -> Result<Self, DataplaneError> {
        let mut inherited = Self {
            others: others(pins.root())?,
            revision: 0,
        };
        let shapes = match inherited.others.as_slice() {
            [] => return Ok(inherited),
            _ => Shapes::of_this_version()?,
        };
        for other in inherited.others.clone() {
            tracing::info!(from = %other.display(), to = ABI_VERSION, "taking over from another version");
            inherited.revision = inherited.revision.max(revision(&other.join("maps")));
            for map in KEPT {
                let (old, new) = (other.join("maps").join(map), pins.map(map));
                if new.exists() || !old.exists() {
                    continue;
                }
                let data = MapData::from_pin(&old)?;
                if shapes.fits(map, &data) {
                    pin(data.fd().as_fd(), &new)?;
                } else {
                    tracing::warn!(map, "the map has another shape; it starts empty");
                }
            }
        }
        Ok(inherited)
    }

    /// Moves links here, so that their programs are swapped instead of attached beside them.
    pub(super) fn move_links(&self, pins: &Pins) -> io::Result<()> {
        for other in &self.others {
            for hooked in HOOKS {
                let (old, new) = (
                    other.join("links").join(hooked.program),
                    pins.link(hooked.program),
                );
                if old.exists() && !new.exists() {
                    fs::rename(old, new)?;
                }
            }
        }
        Ok(())
    }

    /// Removes what is left of the other versions. Every hook runs this version's program now.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        for other in self.others.drain(..) {
            fs::remove_dir_all(other)?;
        }
        Ok(())
    }
}

/// Directories of other versions.
fn others(root: &Path) -> io::Result<Vec<PathBuf>> {
    let own = ABI_VERSION.to_string();
    let mut others = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name() != *own && entry.path().join("links").is_dir() {
            others.push(entry.path());
        }
    }
    others.sort();
    Ok(others)
}

/// The revision in force by the maps in a directory; 0 if they do not say.
fn revision(maps: &Path) -> u64 {
    let array = |name: &str| MapData::from_pin(maps.join(name)).ok().map(Map::Array);
    let read = || {
        let active: Array<_, Active> = array("ACTIVE")?.try_into().ok()?;
        let headers: Array<_, PolicyHeader> = array("HEADERS")?.try_into().ok()?;
        let slot = active.get(&0, 0).ok()?.slot_plus_one.checked_sub(1)?;
        Some(headers.get(&slot, 0).ok()?.revision)
    };
    read().unwrap_or_default()
}

/// The maps of this version's object.
struct Shapes(Object);

impl Shapes {
    fn of_this_version() -> Result<Self, DataplaneError> {
        Object::parse(OBJECT)
            .map(Self)
            .map_err(|error| io::Error::other(error).into())
    }

    /// Whether `data` can be this version's `map`.
    fn fits(&self, map: &str, data: &MapData) -> bool {
        let (Some(wanted), Ok(found)) = (self.0.maps.get(map), data.info()) else {
            return false;
        };
        found
            .map_type()
            .is_ok_and(|kind| kind as u32 == wanted.map_type())
            && found.key_size() == wanted.key_size()
            && found.value_size() == wanted.value_size()
            && found.max_entries() == wanted.max_entries()
    }
}
