//! `unload`: ends enforcement.

use std::path::Path;

use crate::dataplane::Pins;

/// Removes every pin below `bpffs`. Returns the exit code: 0, also if there was nothing; 1 if
/// an agent is running, something cannot be removed, or nothing is there although it may be elsewhere because the settings
/// are not `certain`.
pub fn run(bpffs: &Path, certain: bool) -> u8 {
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
        Ok(false) if certain => println!("nothing to unload below {}", bpffs.display()),
        Ok(false) => {
            eprintln!(
                "cannot unload: there is nothing below {}, and the settings, which may name another bpffs, are broken: mend them, or remove the file for the defaults",
                bpffs.display()
            );
            return 1;
        }
        Err(error) => {
            eprintln!("cannot unload: {error}");
            return 1;
        }
    }
    0
}
