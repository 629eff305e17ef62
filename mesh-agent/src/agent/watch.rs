//! Notices changes of the configuration directory.
//!
//! Goes out: "something changed and nobody is in the middle of writing". The directory is
//! watched, not the files: editors replace files by renaming.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::dataplane::Hierarchy;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// A watched directory.
pub(super) struct Watch {
    inotify: Inotify,
    directory: PathBuf,
    descriptor: Option<WatchDescriptor>,
    writing: HashSet<OsString>,
}

impl Watch {
    pub(super) fn new(directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let directory = directory.to_owned();
        let mut watch = Self {
            inotify,
            directory,
            descriptor: None,
            writing: HashSet::new(),
        };
        watch.renew();
        Ok(watch)
    }

    /// Watches the directory that is there now, which may have come or been replaced.
    pub(super) fn renew(&mut self) {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let descriptor = self.inotify.add_watch(&self.directory, flags).ok();
        if let (Some(old), true) = (self.descriptor, descriptor != self.descriptor) {
            // It may have gone with its directory.
            let _ = self.inotify.rm_watch(old);
            self.writing.clear();
        }
        self.descriptor = descriptor;
    }

    /// Takes in what happened. Returns whether anything did.
    pub(super) fn take_events(&mut self) -> bool {
        let mut changed = false;
        while let Ok(events) = self.inotify.read_events() {
            changed |= !events.is_empty();
            events.iter().for_each(|event| self.take(event));
        }
        changed
    }

    fn take(&mut self, event: &InotifyEvent) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            // Events are lost: what is being written is no longer known, and the rescan that
            // follows reads everything anyway.
            self.writing.clear();
            return;
        }
        let Some(name) = &event.name else {
            return;
        };
        let ends = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE;
        if event.mask.intersects(ends) {
            self.writing.remove(name);
        } else if event.mask.contains(AddWatchFlags::IN_MODIFY) && is_ours(name) {
            self.writing.insert(name.clone());
        }
    }

    /// A file that somebody has written to and not closed yet.
    pub(super) fn being_written(&self) -> Option<String> {
        self.writing
            .iter()
            .next()
            .map(|name| name.to_string_lossy().into_owned())
    }
}

fn is_ours(name: &OsString) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "toml")
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Notices changes of certificates, wherever in their directories.
pub(super) struct CertificateWatch {
    inotify: Inotify,
}

impl CertificateWatch {
    pub(super) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self { inotify })
    }

    /// Watches these directories, and that the first one comes or is replaced; what is watched
    /// already stays so.
    pub(super) fn renew(&self, directories: &[PathBuf]) {
        let ways_in = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let changes = ways_in
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        // Those that are not there are found by the rescan.
        if let Some(parent) = directories.first().and_then(|first| first.parent()) {
            let _ = self
                .inotify
                .add_watch(parent, ways_in | AddWatchFlags::IN_ONLYDIR);
        }
        for directory in directories {
            let _ = self
                .inotify
                .add_watch(directory, changes | AddWatchFlags::IN_ONLYDIR);
        }
    }

    /// Whether anything changed.
    pub(super) fn take_events(&self) -> bool {
        let mut changed = false;
        while let Ok(events) = self.inotify.read_events() {
            changed |= !events.is_empty();
        }
        changed
    }
}

impl AsFd for CertificateWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Notices new cgroups by their directories, for kernels that do not tell by a tracepoint.
pub(super) struct CgroupWatch {
    inotify: Inotify,
}

impl CgroupWatch {
    pub(super) fn new(hierarchy: &Hierarchy) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let watch = Self { inotify };
        watch.renew(hierarchy);
        Ok(watch)
    }

    /// Watches every cgroup there is; one that is watched already stays so.
    fn renew(&self, hierarchy: &Hierarchy) {
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        for directory in hierarchy.directories() {
            // It may be gone already.
            let _ = self.inotify.add_watch(&directory, flags);
        }
    }

    /// Whether cgroups came or went; new ones are watched from now on.
    pub(super) fn take_events(&mut self, hierarchy: &Hierarchy) -> bool {
        let mut changed = false;
        while let Ok(events) = self.inotify.read_events() {
            changed |= !events.is_empty();
        }
        if changed {
            self.renew(hierarchy);
        }
        changed
    }
}

impl AsFd for CgroupWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_being_written_until_it_is_closed() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut watch = Watch::new(directory.path()).expect("inotify");
        assert!(!watch.take_events());
        let mut file = fs::File::create(directory.path().join("a.toml")).expect("created");
        file.write_all(b"[mesh]").expect("written");
        assert!(watch.take_events());
        assert_eq!(watch.being_written().as_deref(), Some("a.toml"));
        drop(file);
        assert!(watch.take_events());
        assert_eq!(watch.being_written(), None);
        fs::rename(
            directory.path().join("a.toml"),
            directory.path().join("b.toml"),
        )
        .expect("renamed");
        assert!(watch.take_events());
    }

    #[test]
    fn a_directory_that_comes_back_is_watched_again() {
        let parent = tempfile::tempdir().expect("a directory");
        let directory = parent.path().join("conf.d");
        let mut watch = Watch::new(&directory).expect("inotify");
        fs::create_dir(&directory).expect("created");
        watch.renew();
        fs::write(directory.join("a.toml"), "").expect("written");
        assert!(watch.take_events());
        fs::remove_dir_all(&directory).expect("removed");
        assert!(watch.take_events());
        fs::create_dir(&directory).expect("created");
        watch.renew();
        watch.take_events();
        fs::write(directory.join("b.toml"), "").expect("written");
        assert!(watch.take_events());
    }
}
