//! Reads one file that decides about the host: trusted owner, bounded size, UTF-8.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::{Belief, LARGEST_FILE};
use crate::policy::diagnostic::{Diagnostic, Label, Problems};

impl Belief {
    /// What speaks against believing what `stat` describes: an error, or with
    /// [`Belief::Anybody`] a warning.
    pub(super) fn objection(
        self,
        code: &'static str,
        what: &str,
        stat: &Stat,
        name: Arc<str>,
    ) -> Option<Diagnostic> {
        let (problem, command) = distrust(stat)?;
        let message = format!("{what} {problem}");
        let (diagnostic, text) = match self {
            Self::TrustedOwners => (Diagnostic::error(code, message), "not read"),
            Self::Anybody => (Diagnostic::warning(code, message), "the agent refuses this"),
        };
        let help = format!("who can write it decides the policy: run `{command} {name}`");
        Some(diagnostic.label(Label::on_file(name, text)).help(help))
    }
}

/// Why an owner or mode is not trusted, and the command that makes it right.
fn distrust(stat: &Stat) -> Option<(String, &'static str)> {
    let (user, group, mode) = (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
    let own_user = rustix::process::geteuid().as_raw();
    let own_group = rustix::process::getegid().as_raw();
    if user != 0 && user != own_user {
        let problem = format!("belongs to user {user}, neither root nor the one that runs this");
        return Some((problem, "chown root"));
    }
    if mode & 0o002 != 0 {
        let problem = format!("can be written by everyone (mode {mode:04o})");
        return Some((problem, "chmod go-w"));
    }
    (mode & 0o020 != 0 && group != 0 && group != own_group).then(|| {
        let problem = format!("can be written by group {group} (mode {mode:04o})");
        (problem, "chmod g-w")
    })
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
        Ok(file) => {
            let mut no_warnings = Problems::default();
            read_file(file, name, Belief::TrustedOwners, &mut no_warnings).map(Some)
        }
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(unreadable(&name, errno)),
    }
}

/// Reads an open file once; nothing is read unless owner, mode, kind and size are right.
pub(super) fn read_file(
    file: OwnedFd,
    name: Arc<str>,
    belief: Belief,
    problems: &mut Problems,
) -> Result<String, Diagnostic> {
    let stat = rustix::fs::fstat(&file).map_err(|errno| unreadable(&name, errno))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        let message = format!("this is {}, not a file", kind_name(kind));
        return Err(Diagnostic::error("not-a-file", message)
            .label(Label::on_file(name, "not read"))
            .help("put a plain file here"));
    }
    match belief.objection("unsafe-file", "the file", &stat, Arc::clone(&name)) {
        Some(objection) if objection.is_error() => return Err(objection),
        objection => problems.extend(objection),
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
