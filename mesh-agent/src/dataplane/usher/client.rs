//! The agent's end.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, connect, setsockopt, shutdown, socket,
    socketpair,
};
use nix::sys::time::TimeVal;

use super::wire::{Answer, Question, read_answer, receive, send};

/// Where the service manager has an usher listen, if it does: a socket's path.
const SOCKET: &str = "MESH_USHER";
/// How long an answer may take: at boot the service manager may have to start the usher first. Whoever waits for it
/// longer, does without.
const PATIENCE: TimeVal = TimeVal::new(60, 0);
/// This program.
const SELF: &str = "/proc/self/exe";

/// A connection to the usher.
#[derive(Debug)]
pub struct Usher {
    socket: Mutex<OwnedFd>,
}

impl Usher {
    /// The one that the service manager has, or else a new one, which ends with this process.
    /// `bpffs` is where it may mount a BPF file system.
    ///
    /// # Errors
    ///
    /// There is none, and none can be started.
    pub fn find(bpffs: &Path) -> io::Result<Arc<Self>> {
        let socket = match std::env::var_os(SOCKET) {
            Some(path) => listening(Path::new(&path))?,
            None => started(bpffs)?,
        };
        Ok(Arc::new(Self::over(socket, PATIENCE)?))
    }

    fn over(socket: OwnedFd, patience: TimeVal) -> io::Result<Self> {
        setsockopt(&socket, ReceiveTimeout, &patience)?;
        Ok(Self {
            socket: Mutex::new(socket),
        })
    }

    /// Inodes of the network namespaces that a process below the cgroup `below` is in.
    ///
    /// # Errors
    ///
    /// There is no usher any more.
    pub fn of_processes(&self, below: &str) -> io::Result<Vec<u64>> {
        self.namespaces(&Question::OfProcesses(below.into()))
    }

    /// Inodes of the network namespaces that a process is in or that are mounted.
    ///
    /// # Errors
    ///
    /// There is no usher any more.
    pub fn all(&self) -> io::Result<Vec<u64>> {
        self.namespaces(&Question::All)
    }

    fn namespaces(&self, question: &Question) -> io::Result<Vec<u64>> {
        let Answer { bytes, .. } = self.ask(question)?;
        let (inodes, _) = bytes.as_chunks();
        Ok(inodes.iter().copied().map(u64::from_ne_bytes).collect())
    }

    /// A TCP socket, not blocking, in the network namespace with this inode.
    ///
    /// # Errors
    ///
    /// `NotFound` if the namespace is gone; the kernel's otherwise.
    pub fn stream(&self, netns: u64, ipv6: bool) -> io::Result<OwnedFd> {
        let answer = self.ask(&Question::Stream { netns, ipv6 })?;
        answer.fd.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// A `NETLINK_SOCK_DIAG` socket in the network namespace with this inode, and the ports that the
    /// kernel gives to clients there.
    ///
    /// # Errors
    ///
    /// As [`Self::stream`].
    pub fn diag(&self, netns: u64) -> io::Result<(OwnedFd, RangeInclusive<u16>)> {
        let Answer { bytes, fd } = self.ask(&Question::Diag(netns))?;
        let ports = match bytes[..] {
            [a, b, c, d] => u16::from_ne_bytes([a, b])..=u16::from_ne_bytes([c, d]),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let fd = fd.ok_or(io::ErrorKind::InvalidData)?;
        Ok((fd, ports))
    }

    /// Path of the cgroup with this id from the root of the hierarchy; `None` if it is gone.
    pub fn cgroup(&self, id: u64) -> Option<String> {
        let answer = self.ask(&Question::Cgroup(id)).ok()?;
        String::from_utf8(answer.bytes).ok()
    }

    /// Mounts a BPF file system where the agent's pins are to be.
    ///
    /// # Errors
    ///
    /// The kernel's; `EPERM` where the service manager has the usher: what it mounts, nobody else sees.
    pub fn mount_bpf(&self) -> io::Result<()> {
        self.ask(&Question::MountBpf).map(drop)
    }

    /// The tracepoint of cgroups that is called `name`, for programs to be attached to.
    ///
    /// # Errors
    ///
    /// `NotFound` if this kernel has none; the kernel's otherwise.
    pub fn tracepoint(&self, name: &str) -> io::Result<OwnedFd> {
        let answer = self.ask(&Question::Tracepoint(name.into()))?;
        answer.fd.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Memory that is the usher's alone, bytes; its code is the agent's. 0 if there is no usher any more.
    pub fn memory(&self) -> u64 {
        let answer = self.ask(&Question::Memory).ok();
        let bytes = answer.and_then(|answer| answer.bytes.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    }

    /// Whether there still is an usher.
    pub fn is_there(&self) -> bool {
        self.ask(&Question::Cgroup(0))
            .err()
            .is_none_or(|error| error.kind() == io::ErrorKind::NotFound)
    }

    fn ask(&self, question: &Question) -> io::Result<Answer> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        send(&*socket, &question.to_bytes(), None)?;
        let received = receive(&*socket);
        if received.is_err() {
            // An answer that comes late would be taken for one to the next question.
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
        }
        read_answer(received?)
    }
}

/// Connects to the usher that the service manager starts.
fn listening(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

/// Starts an usher; it ends when the socket is closed.
fn started(bpffs: &Path) -> io::Result<OwnedFd> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    Command::new(SELF)
        .arg("usher")
        .arg("--bpffs")
        .arg(bpffs)
        .stdin(theirs)
        .stdout(Stdio::null())
        .spawn()?;
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::wire::send_answer;
    use super::*;

    fn pair() -> (Usher, OwnedFd) {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .expect("a pair");
        let patience = TimeVal::new(0, 50_000);
        (Usher::over(ours, patience).expect("an usher"), theirs)
    }

    #[test]
    fn one_that_does_not_answer_is_done_without() {
        let (usher, theirs) = pair();
        assert_eq!(usher.memory(), 0);
        // What comes late answers nothing any more.
        let late = Answer {
            bytes: 7u64.to_ne_bytes().to_vec(),
            fd: None,
        };
        assert!(send_answer(&theirs, Ok(late)).is_err());
        let started = Instant::now();
        assert_eq!(usher.memory(), 0);
        assert!(!usher.is_there() && started.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn an_error_is_an_answer() {
        let (usher, theirs) = pair();
        for _ in 0..2 {
            let again = io::Error::from_raw_os_error(libc::EAGAIN);
            send_answer(&theirs, Err(again)).expect("sent");
            let error = usher.all().expect_err("an error");
            assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        }
        assert!(receive(&theirs).is_ok(), "it was asked");
    }
}
