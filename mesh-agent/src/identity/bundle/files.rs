//! Reads the files of the directory, and of its directories, once and safely.

use std::fs::File as OpenFile;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::problem::{Problem, WHOLE};

/// A file that was read.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct File {
    /// Relative to the directory.
    pub(super) name: Arc<str>,
    /// As a command line would name it.
    pub(super) path: String,
    pub(super) bytes: Vec<u8>,
    /// Why a private key in it would not be private.
    pub(super) not_private: Option<String>,
}

/// Everything that was read, in the order of names.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Files {
    pub(super) files: Vec<File>,
    pub(super) problems: Vec<Problem>,
}

impl Files {
    /// Reads a directory. One that does not exist is one without files.
    pub(super) fn read(path: &Path) -> Self {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
        Self::read_with(path, credentials.map(PathBuf::from))
    }

    /// As [`Self::read`]; systemd's credentials are in `credentials`.
    pub(super) fn read_with(path: &Path, credentials: Option<PathBuf>) -> Self {
        let mut reader = Reader {
            directory: path,
            credentials,
            entries: 0,
            read: Self::default(),
        };
        match reader.read() {
            Ok(()) => reader.read.files.sort_by(|a, b| a.name.cmp(&b.name)),
            Err(problem) => {
                // A part of the files would look as if the others had been removed.
                reader.read.files.clear();
                reader.read.problems.push(problem);
            }
        }
        reader.read.problems.sort();
        reader.read
    }
}

struct Reader<'a> {
    directory: &'a Path,
    credentials: Option<PathBuf>,
    entries: usize,
    read: Files,
}

impl Reader<'_> {
    fn read(&mut self) -> Result<(), Problem> {
        let whole = Arc::from(WHOLE);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match rustix::fs::open(self.directory, flags, Mode::empty()) {
            Ok(root) => root,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(unreadable(&whole, errno)),
        };
        let stat = rustix::fs::fstat(&root).map_err(|errno| unreadable(&whole, errno))?;
        if let Some(problem) = distrust(&stat) {
            let help = format!(
                "run `chmod go-w {0}; chown root {0}`",
                self.directory.display()
            );
            return Err(Problem::error(&whole, "unsafe-directory", problem, help));
        }
        for (name, kind) in self.list(root.as_fd(), &whole)? {
            match self.kind(root.as_fd(), &name, kind) {
                Some(FileType::Directory) => self.read_below(root.as_fd(), &name)?,
                Some(_) => self.read_file(root.as_fd(), &name),
                None => {}
            }
        }
        Ok(())
    }

    fn read_below(&mut self, root: BorrowedFd<'_>, name: &str) -> Result<(), Problem> {
        let shown = Arc::from(format!("{name}/"));
        let (directory, stat) = match open_beneath(root, name, OFlags::DIRECTORY) {
            Ok(opened) => opened,
            Err(errno) => {
                self.read.problems.push(unreadable(&shown, errno));
                return Ok(());
            }
        };
        if let Some(problem) = distrust(&stat) {
            let help = format!("run `chmod go-w {0}; chown root {0}`", self.path(name));
            let problem = Problem::error(&shown, "unsafe-directory", problem, help);
            self.read.problems.push(problem);
            return Ok(());
        }
        for (file, kind) in self.list(directory.as_fd(), &shown)? {
            let file = format!("{name}/{file}");
            let kind = self.kind(root, &file, kind);
            if kind.is_some_and(|kind| kind != FileType::Directory) {
                self.read_file(root, &file);
            }
        }
        Ok(())
    }

    /// Names in a directory. Too many in all are an error for the whole.
    fn list(
        &mut self,
        directory: BorrowedFd<'_>,
        shown: &Arc<str>,
    ) -> Result<Vec<(String, FileType)>, Problem> {
        let mut names = Vec::new();
        let entries = Dir::read_from(directory).map_err(|errno| unreadable(shown, errno))?;
        for entry in entries {
            let entry = entry.map_err(|errno| unreadable(shown, errno))?;
            let Ok(name) = str::from_utf8(entry.file_name().to_bytes()) else {
                let file = Arc::from(entry.file_name().to_string_lossy());
                let problem =
                    Problem::error(&file, "not-utf8", "its name is not UTF-8", "rename it");
                self.read.problems.push(problem);
                continue;
            };
            if is_skipped(name) {
                continue;
            }
            self.entries += 1;
            if self.entries > MOST_FILES {
                let message = format!("there are more than {MOST_FILES} files");
                let help =
                    "keep only this node's certificates, keys, roots and revocation lists here";
                return Err(Problem::error(
                    &WHOLE.into(),
                    "too-many-files",
                    message,
                    help,
                ));
            }
            names.push((name.to_owned(), entry.file_type()));
        }
        names.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(names)
    }

    /// What an entry is or leads to; `None` with a problem if that is nothing to read.
    fn kind(&mut self, root: BorrowedFd<'_>, name: &str, listed: FileType) -> Option<FileType> {
        // A link out of the directory is found out by opening it.
        let stat = rustix::fs::statat(root, name, AtFlags::empty());
        let kind = match stat.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(kind) => kind,
            Err(_) => listed,
        };
        if matches!(
            kind,
            FileType::RegularFile | FileType::Directory | FileType::Symlink
        ) {
            return Some(kind);
        }
        let message = "this is a device, a pipe or a socket";
        let problem = Problem::error(&name.into(), "not-a-file", message, "remove it");
        self.read.problems.push(problem);
        None
    }

    fn read_file(&mut self, root: BorrowedFd<'_>, name: &str) {
        match self.try_read_file(root, &name.into()) {
            Ok(file) => self.read.files.push(file),
            Err(problem) => self.read.problems.push(problem),
        }
    }

    fn try_read_file(&self, root: BorrowedFd<'_>, name: &Arc<str>) -> Result<File, Problem> {
        let (file, stat, credential) = self.open(root, name)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Problem::error(
                name,
                "not-a-file",
                "this is no file",
                "remove it",
            ));
        }
        if let Some(problem) = distrust(&stat) {
            let help = format!("run `chmod go-w {0}; chown root {0}`", self.path(name));
            return Err(Problem::error(name, "unsafe-file", problem, help));
        }
        let mut bytes = Vec::new();
        let read = OpenFile::from(file)
            .take(LARGEST_FILE + 1)
            .read_to_end(&mut bytes);
        read.map_err(|error| unreadable(name, error))?;
        if bytes.len() as u64 > LARGEST_FILE {
            let message = format!("it is larger than {} MiB", LARGEST_FILE >> 20);
            return Err(Problem::error(
                name,
                "file-too-large",
                message,
                "remove it from here",
            ));
        }
        Ok(File {
            name: Arc::clone(name),
            path: self.path(name),
            bytes,
            not_private: not_private(&stat, credential),
        })
    }

    /// Opens a file of the directory, or one of systemd's credentials that it links to.
    fn open(
        &self,
        root: BorrowedFd<'_>,
        name: &Arc<str>,
    ) -> Result<(OwnedFd, Stat, bool), Problem> {
        match open_beneath(root, name, OFlags::empty()) {
            Ok((file, stat)) => Ok((file, stat, self.is_credential(self.directory))),
            Err(Errno::XDEV | Errno::LOOP) => self.open_credential(name),
            Err(errno) => Err(unreadable(name, errno)),
        }
    }

    fn open_credential(&self, name: &Arc<str>) -> Result<(OwnedFd, Stat, bool), Problem> {
        let outside = || {
            let message = "it is a symbolic link out of the directory";
            let help =
                "copy the file here, or link to one in this directory or in $CREDENTIALS_DIRECTORY";
            Problem::error(name, "symlink-outside", message, help)
        };
        let target = std::fs::canonicalize(self.directory.join(&**name));
        let target = target.ok().filter(|target| self.is_credential(target));
        let target = target.ok_or_else(outside)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::open(&target, flags | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|errno| unreadable(name, errno))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| unreadable(name, errno))?;
        Ok((file, stat, true))
    }

    fn is_credential(&self, path: &Path) -> bool {
        let within = |directory: &PathBuf| {
            let directory = std::fs::canonicalize(directory);
            directory.is_ok_and(|directory| path.starts_with(directory))
        };
        self.credentials.as_ref().is_some_and(within)
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

fn open_beneath(
    root: BorrowedFd<'_>,
    name: &str,
    kind: OFlags,
) -> rustix::io::Result<(OwnedFd, Stat)> {
    let flags = kind | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened = match rustix::fs::openat2(root, name, flags, Mode::empty(), resolve) {
        // A seccomp filter may not know the call; then no link is followed.
        Err(Errno::NOSYS | Errno::PERM) => {
            rustix::fs::openat(root, name, flags | OFlags::NOFOLLOW, Mode::empty())
        }
        result => result,
    }?;
    let stat = rustix::fs::fstat(&opened)?;
    Ok((opened, stat))
}

/// Why somebody else may have written it. Who writes roots here decides whom this node trusts.
fn distrust(stat: &Stat) -> Option<String> {
    let own = rustix::process::geteuid().as_raw();
    let (user, mode) = (stat.st_uid, stat.st_mode & 0o7777);
    if user != 0 && user != own {
        return Some(format!("it belongs to user {user}, not to root"));
    }
    (mode & 0o022 != 0).then(|| format!("others than its owner can write it (mode {mode:04o})"))
}

/// The group bits of a credential are the mask of its ACL; the directory keeps others out.
fn not_private(stat: &Stat, credential: bool) -> Option<String> {
    let mode = stat.st_mode & 0o7777;
    let forbidden = if credential { 0o007 } else { 0o077 };
    (mode & forbidden != 0).then(|| format!("others than its owner can read it (mode {mode:04o})"))
}

/// Hidden files, `..data` and what it leads to, and what editors leave.
fn is_skipped(name: &str) -> bool {
    let leftovers = ["~", ".tmp", ".swp"];
    name.starts_with('.') || leftovers.iter().any(|end| name.ends_with(end))
}

fn unreadable(file: &Arc<str>, error: impl std::fmt::Display) -> Problem {
    let message = format!("it cannot be read: {error}");
    let help = "make it readable for the user that runs the agent, or remove it";
    Problem::error(file, "unreadable", message, help)
}

/// Whether a name is one of a file that should hold what is read here.
pub(super) fn should_hold_something(name: &str) -> bool {
    let extension = Path::new(name).extension().map(OsStrExt::as_bytes);
    let known: [&[u8]; 6] = [b"crt", b"pem", b"cer", b"key", b"crl", b"der"];
    extension.is_some_and(|extension| known.contains(&extension))
}

const MOST_FILES: usize = 1024;
const LARGEST_FILE: u64 = 1 << 20;
