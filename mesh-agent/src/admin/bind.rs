//! From the options to listening sockets, or to an error that says what to do.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::{fs, process};

use super::SOCKET;
use super::token::TokenProblem;
use crate::config::Access;

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address is reachable from the network and nothing would ask who calls.
    #[error(
        "[admin] listen = \"{0}\" would open /metrics to the network: set a loopback address such as \"127.0.0.1:{port}\", or tls = true and a token_file or clients",
        port = .0.port()
    )]
    Open(SocketAddr),
    /// Something else has the address.
    #[error("{0} is in use: another agent? change [admin] listen")]
    InUse(SocketAddr),
    /// The address cannot be had for another reason.
    #[error("cannot listen on {address}: {source}; change [admin] listen")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// There is no token where it should be.
    #[error("[admin] token_file: {}: {problem}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: TokenProblem,
    },
    /// Another agent answers on the unix socket.
    #[error("{} is in use: another agent runs on this host; stop it first", .0.display())]
    Running(PathBuf),
    /// There is a file that is not a socket.
    #[error("{} exists and is no socket: remove it, or change [paths] run_dir", .0.display())]
    NotASocket(PathBuf),
    /// The unix socket cannot be made.
    #[error("cannot listen on {}: {source}; check [paths] run_dir", path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The server's thread or runtime cannot be had.
    #[error("cannot start the admin server: {0}")]
    Start(#[source] io::Error),
}

/// Listens on `address`, which must be a loopback one unless `access` is fit for a network.
pub(super) fn tcp(address: SocketAddr, access: &Access) -> Result<TcpListener, BindError> {
    if !address.ip().to_canonical().is_loopback() && !access.is_safe() {
        return Err(BindError::Open(address));
    }
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(address),
        _ => BindError::Tcp { address, source },
    })
}

/// A unix socket that is removed when dropped, unless another has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Listens on the socket in `run_dir`; a stale one is replaced.
pub(super) fn unix(run_dir: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    let path = run_dir.join(SOCKET);
    match fs::symlink_metadata(&path) {
        Ok(file) if !file.file_type().is_socket() => return Err(BindError::NotASocket(path)),
        Ok(_) if UnixStream::connect(&path).is_ok() => return Err(BindError::Running(path)),
        _ => {}
    }
    // The mode is set before the name is known to anyone.
    let hidden = run_dir.join(format!(".{SOCKET}.{}", process::id()));
    let placed = place(&hidden, &path);
    placed.map_err(|source| {
        // Nothing to add where even this fails: the first error says why.
        let _ = fs::remove_file(&hidden);
        BindError::Unix { path, source }
    })
}

fn place(hidden: &Path, path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    match fs::remove_file(hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(hidden)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(hidden, fs::Permissions::from_mode(0o600))?;
    let inode = fs::symlink_metadata(hidden)?.ino();
    fs::rename(hidden, path)?;
    let path = path.to_path_buf();
    Ok((listener, SocketFile { path, inode }))
}
