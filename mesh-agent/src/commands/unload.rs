//! `unload`: ends enforcement.

use std::path::Path;

use crate::dataplane::Pins;

/// Removes every pin below `bpffs`. Returns the exit code: 0, also if there was nothing; 1 if
/// an agent is running or something cannot be removed.
pub fn run(bpffs: &Path) -> u8 {
    let removed = match Pins::take_existing(bpffs) {
        Ok(Some(pins)) => pins
            .remove_all()
            .map(|()| true)
            .map_err(|error| error.to_string()),
        Ok(None) => Ok(false),
        Err(error) => Err(error.to_string()),
    };
    match removed {
        Ok(true) => println!("unloaded: the mesh no longer enforces anything on this host"),
        Ok(false) => println!("nothing to unload below {}", bpffs.display()),
        Err(error) => {
            eprintln!("cannot unload: {error}");
            return 1;
        }
    }
    0
}
