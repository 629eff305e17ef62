//! Reads one file that decides about the host: trusted owner, bounded size, UTF-8.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::LARGEST_FILE;
use crate::policy::diagnostic::{Diagnostic, Label};

/// Whose files are believed: those of root and of this process's own user.
#[derive(Clone, Copy)]
pub(super) struct Trust {
    user: u32,
    group: u32,
}

/// What is wrong with a file's owner or mode, and what would make it right.
pub(super) struct Objection {
    pub(super) what: String,
    pub(super) command: String,
}

impl Trust {
    pub(super) fn of_this_process() -> Self {
        Self {
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
        }
    }

    pub(super) fn objection(self, stat: &Stat) -> Option<Objection> {
        let (user, group, mode) = (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
        if user != 0 && user != self.user {
            let what = format!("belongs to user {user}, neither root nor the one that runs this");
            let command = "chown root".to_owned();
            return Some(Objection { what, command });
        }
        if mode & 0o002 != 0 {
            let what = format!("can be written by everyone (mode {mode:04o})");
            let command = "chmod go-w".to_owned();
            return Some(Objection { what, command });
        }
        if mode & 0o020 != 0 && group != 0 && group != self.group {
            let what = format!("can be written by group {group} (mode {mode:04o})");
            let command = "chmod g-w".to_owned();
            return Some(Objection { what, command });
        }
        None
    }
}

/// Reads the file at `path`, following symbolic links; `None` if there is none.
///
/// # Errors
///
/// As [`read_file`].
pub(crate) fn read_path(path: &Path) -> Result<Option<String>, Diagnostic> {
    let name: Arc<str> = path.display().to_string().into();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => read_file(file, name).map(Some),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(unreadable(&name, errno)),
    }
}

/// Reads an open file once; nothing is read unless owner, mode, kind and size are right.
pub(super) fn read_file(file: OwnedFd, name: Arc<str>) -> Result<String, Diagnostic> {
    let stat = rustix::fs::fstat(&file).map_err(|errno| unreadable(&name, errno))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        let message = format!("this is {}, not a file", kind_name(kind));
        return Err(Diagnostic::error("not-a-file", message)
            .label(Label::on_file(name, "not read"))
            .help("put a plain file here"));
    }
    if let Some(objection) = Trust::of_this_process().objection(&stat) {
        let help = format!("run `{} {name}`", objection.command);
        return Err(
            Diagnostic::error("unsafe-file", format!("the file {}", objection.what))
                .label(Label::on_file(
                    name,
                    "not read: who can write it decides the policy",
                ))
                .help(help),
        );
    }
    let bytes = read_bounded(file).map_err(|error| unreadable(&name, error))?;
    if bytes.len() > LARGEST_FILE {
        let message = format!("the file is larger than {} MiB", LARGEST_FILE >> 20);
        return Err(Diagnostic::error("file-too-large", message)
            .label(Label::on_file(name, ""))
            .help("split it into several files"));
    }
    String::from_utf8(bytes).map_err(|error| not_utf8(&name, &error))
}

fn read_bounded(file: OwnedFd) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = LARGEST_FILE as u64 + 1;
    File::from(file).take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn not_utf8(name: &Arc<str>, error: &std::string::FromUtf8Error) -> Diagnostic {
    let valid = error.utf8_error().valid_up_to();
    let text = error.as_bytes().get(..valid).unwrap_or_default();
    let line = text.iter().filter(|byte| **byte == b'\n').count() + 1;
    let last = text
        .rsplit(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let column = String::from_utf8_lossy(last).chars().count() + 1;
    let label = Label {
        line: line as u32,
        column: column as u32,
        ..Label::on_file(Arc::clone(name), "this byte is not part of a character")
    };
    Diagnostic::error("not-utf8", "the file is not UTF-8 text")
        .label(label)
        .help("save it as UTF-8")
}

fn unreadable(name: &Arc<str>, error: impl std::fmt::Display) -> Diagnostic {
    Diagnostic::error("unreadable", format!("the file cannot be read: {error}"))
        .label(Label::on_file(Arc::clone(name), ""))
        .help("make it readable for the user that runs the agent")
}

pub(super) fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "of an unknown kind",
    }
}
