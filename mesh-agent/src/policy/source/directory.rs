//! Lists the configuration directory and reads what belongs to it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::file::{kind_name, read_file};
use super::{Belief, LARGEST_SET, MOST_FILES, ReadError, SourceFile, SourceSet};
use crate::policy::diagnostic::{Diagnostic, Label, Problems};

/// Reads every `*.toml` of `path` whose name does not begin with a dot.
///
/// # Errors
///
/// A missing or writable-by-anyone directory, and every file that is not a plain file of a
/// trusted owner, too large, or not UTF-8. All of them are reported.
pub fn read(path: &Path) -> Result<SourceSet, Box<ReadError>> {
    read_believing(path, Belief::TrustedOwners).map(|(sources, _)| sources)
}

/// As [`read`], with a say in whose files are believed; with the warnings about those that
/// [`Belief::Anybody`] lets pass.
///
/// # Errors
///
/// Those of [`read`].
pub fn read_believing(
    path: &Path,
    belief: Belief,
) -> Result<(SourceSet, Vec<Diagnostic>), Box<ReadError>> {
    let mut problems = Problems::default();
    let files = match open_directory(path, belief, &mut problems) {
        Ok(directory) => read_files(&directory, path, belief, &mut problems),
        Err(diagnostic) => {
            problems.push(diagnostic);
            Vec::new()
        }
    };
    let mut readable = SourceSet::from(files);
    if !problems.has_errors() {
        return Ok((readable, problems.into_sorted()));
    }
    readable.incomplete = true;
    Err(Box::new(ReadError {
        diagnostics: problems.into_sorted(),
        readable,
    }))
}

fn open_directory(
    path: &Path,
    belief: Belief,
    problems: &mut Problems,
) -> Result<OwnedFd, Diagnostic> {
    let name = path.display().to_string();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let unreadable = |errno: Errno| directory_error(errno, &name);
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(unreadable)?;
    let stat = rustix::fs::fstat(&directory).map_err(unreadable)?;
    match belief.objection("unsafe-directory", "the directory", &stat, name.into()) {
        Some(objection) if objection.is_error() => Err(objection),
        objection => {
            problems.extend(objection);
            Ok(directory)
        }
    }
}

fn directory_error(errno: Errno, name: &str) -> Diagnostic {
    let label = Label::on_file(name, "");
    match errno {
        Errno::NOENT => Diagnostic::error(
            "missing-directory",
            "the configuration directory does not exist",
        )
        .label(label)
        .help(format!(
            "create it with `install -d -m 0755 {name}`, or name another \
                one: `[paths] config_dir` in agent.toml"
        )),
        Errno::NOTDIR => {
            Diagnostic::error("not-a-directory", "the configuration directory is not one")
                .label(label)
                .help("name the directory that holds the *.toml files")
        }
        _ => Diagnostic::error(
            "unreadable",
            format!("the directory cannot be read: {errno}"),
        )
        .label(label)
        .help("make it readable for the user that runs the agent"),
    }
}

fn read_files(
    directory: &OwnedFd,
    path: &Path,
    belief: Belief,
    problems: &mut Problems,
) -> Vec<SourceFile> {
    let mut names = match list(directory, problems) {
        Ok(names) => names,
        Err(errno) => {
            problems.push(directory_error(errno, &path.display().to_string()));
            return Vec::new();
        }
    };
    if names.len() > MOST_FILES {
        problems.push(
            Diagnostic::error("too-many-files", format!("more than {MOST_FILES} files"))
                .label(Label::on_file(path.display().to_string(), ""))
                .help("put several services into one file"),
        );
        return Vec::new();
    }
    names.sort();
    let mut total = 0;
    let mut files = Vec::new();
    for name in names {
        let opened = open_entry(directory, &name);
        let read = opened.and_then(|file| read_file(file, Arc::clone(&name), belief, problems));
        let Some(text) = problems.ok(read) else {
            continue;
        };
        total += text.len();
        if total > LARGEST_SET {
            problems.push(
                Diagnostic::error(
                    "files-too-large",
                    format!(
                        "the files together are larger than {} MiB",
                        LARGEST_SET >> 20
                    ),
                )
                .label(Label::on_file(name, "this one goes beyond it"))
                .help("remove what is not needed from the directory"),
            );
            break;
        }
        files.push(SourceFile {
            name,
            text: text.into(),
        });
    }
    files
}

/// Names of the files that belong to the policy, one more than allowed at most.
fn list(directory: &OwnedFd, problems: &mut Problems) -> rustix::io::Result<Vec<Arc<str>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes.starts_with(b".") || !bytes.ends_with(b".toml") {
            continue;
        }
        match str::from_utf8(bytes) {
            Ok(name) => names.push(Arc::from(name)),
            Err(_) => problems.push(
                Diagnostic::error("not-utf8", "the name of a file is not UTF-8")
                    .label(Label::on_file(String::from_utf8_lossy(bytes).as_ref(), ""))
                    .help("rename the file"),
            ),
        }
        if names.len() > MOST_FILES {
            break;
        }
    }
    Ok(names)
}

fn open_entry(directory: &OwnedFd, name: &Arc<str>) -> Result<OwnedFd, Diagnostic> {
    let unreadable = |errno: Errno| {
        Diagnostic::error("unreadable", format!("the file cannot be read: {errno}"))
            .label(Label::on_file(Arc::clone(name), ""))
            .help("make it readable for the user that runs the agent, or remove it")
    };
    // Opening a device can already do something, so its kind is looked at first; what is read
    // is what was opened, whatever happens to the name in between.
    let stat =
        rustix::fs::statat(directory, &**name, AtFlags::SYMLINK_NOFOLLOW).map_err(unreadable)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Symlink) {
        return Err(not_a_file(name, kind_name(kind)));
    }
    match open_beneath(directory.as_fd(), name) {
        Ok(file) => Ok(file),
        Err(Errno::XDEV | Errno::LOOP) if kind == FileType::Symlink => Err(outside(name)),
        Err(Errno::NOENT) if kind == FileType::Symlink => Err(dangling(name)),
        Err(errno) => Err(unreadable(errno)),
    }
}

fn open_beneath(directory: rustix::fd::BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => {
            rustix::fs::openat(directory, name, flags | OFlags::NOFOLLOW, Mode::empty())
        }
        result => result,
    }
}

fn not_a_file(name: &Arc<str>, kind: &str) -> Diagnostic {
    Diagnostic::error("not-a-file", format!("this is {kind}, not a file"))
        .label(Label::on_file(Arc::clone(name), "not read"))
        .help("remove it, or give it a name that does not end in .toml")
}

fn outside(name: &Arc<str>) -> Diagnostic {
    Diagnostic::error(
        "symlink-outside",
        "the symbolic link leaves the configuration directory",
    )
    .label(Label::on_file(Arc::clone(name), "not read"))
    .help("copy the file here, or link to a file in this directory by a relative path")
}

fn dangling(name: &Arc<str>) -> Diagnostic {
    Diagnostic::error("dangling-symlink", "the symbolic link points to nothing")
        .label(Label::on_file(Arc::clone(name), "not read"))
        .help("remove the link, or create what it points to")
}
