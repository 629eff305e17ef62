//! The usher's end.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use mesh_sys::memory;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::wire::{Answer, Question, receive, send_answer};
use crate::dataplane::cgroup::Hierarchy;
use crate::dataplane::netns::{self, Netns, client_ports};
use crate::dataplane::pins::mount_bpf;
use crate::dataplane::{programs, tracefs};
use crate::sandbox;
use crate::telemetry::status::anonymous_bytes;

/// Answers what is asked on `connection` until it is closed. `bpffs` is where a BPF file system may be mounted;
/// `None` under a service manager, where it would be the usher's alone.
///
/// # Errors
///
/// It cannot confine itself, or does not know its own network namespace.
pub fn serve(connection: impl AsFd, bpffs: Option<PathBuf>) -> io::Result<()> {
    // Started from /proc/self/exe it would be shown as "exe".
    rustix::thread::set_name(c"mesh-usher")?;
    if bpffs.is_some() {
        // Whoever ends all of a session or a service means the agent, which may need a moment.
        let mut ends = SigSet::empty();
        for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT] {
            ends.add(signal);
        }
        ends.thread_block()?;
    }
    let mut usher = Server {
        own: Netns::current()?,
        known: BTreeMap::new(),
        hierarchy: Hierarchy::find(None).ok(),
        bpffs,
        tracepoints: tracefs::open(programs::tracepoints().map(|hooked| hooked.hook)),
    };
    sandbox::enter_as_usher().map_err(io::Error::other)?;
    memory::forget_code();
    loop {
        let (bytes, _) = receive(&connection)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let answer = match Question::from_bytes(&bytes) {
            Some(question) => usher.answer(question),
            None => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        send_answer(&connection, answer)?;
    }
}

struct Server {
    /// The namespace it is in between questions: it keeps none alive.
    own: Netns,
    /// Where namespaces can be opened, by inode.
    known: BTreeMap<u64, PathBuf>,
    hierarchy: Option<Hierarchy>,
    bpffs: Option<PathBuf>,
    /// Opened while that is allowed; or why not.
    tracepoints: BTreeMap<&'static str, io::Result<OwnedFd>>,
}

impl Server {
    fn answer(&mut self, question: Question) -> io::Result<Answer> {
        match question {
            Question::OfProcesses(below) => Ok(self.found(netns::of_processes(&below))),
            Question::All => Ok(self.found(netns::all())),
            Question::Stream { netns, ipv6 } => self.inside(netns, || stream(ipv6)),
            Question::Diag(netns) => self.inside(netns, diag),
            Question::Cgroup(id) => {
                let path = self.hierarchy.as_ref().and_then(|all| all.path_of(id));
                let bytes = path.ok_or_else(gone)?.into_bytes();
                Ok(Answer { bytes, fd: None })
            }
            Question::MountBpf => {
                let refused = || io::Error::from_raw_os_error(libc::EPERM);
                mount_bpf(self.bpffs.as_deref().ok_or_else(refused)?)?;
                Ok(Answer::default())
            }
            Question::Tracepoint(name) => {
                let fd = match self.tracepoints.get(name.as_str()).ok_or_else(gone)? {
                    Ok(fd) => fd.try_clone()?,
                    Err(error) => return Err(same(error)),
                };
                Ok(Answer {
                    bytes: Vec::new(),
                    fd: Some(fd),
                })
            }
            Question::Memory => {
                memory::give_back();
                memory::forget_code();
                let bytes = anonymous_bytes().unwrap_or_default();
                Ok(Answer {
                    bytes: bytes.to_ne_bytes().to_vec(),
                    fd: None,
                })
            }
        }
    }

    /// Remembers where to open namespaces; several threads of the agent ask, for all or for some.
    fn found(&mut self, found: BTreeMap<u64, PathBuf>) -> Answer {
        let bytes = found.keys().flat_map(|inode| inode.to_ne_bytes()).collect();
        if self.known.len() > netns::MOST {
            self.known.clear();
        }
        self.known.extend(found);
        Answer { bytes, fd: None }
    }

    /// Does something in another namespace, and returns.
    fn inside(
        &mut self,
        inode: u64,
        what: impl FnOnce() -> io::Result<Answer>,
    ) -> io::Result<Answer> {
        let path = self.known.get(&inode).ok_or_else(gone)?;
        let Some(netns) = netns::open(inode, path) else {
            self.known.remove(&inode);
            return Err(gone());
        };
        netns.enter()?;
        let answer = what();
        self.own.enter()?;
        answer
    }
}

/// An error once more.
fn same(error: &io::Error) -> io::Error {
    io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

fn stream(ipv6: bool) -> io::Result<Answer> {
    let family = match ipv6 {
        false => AddressFamily::Inet,
        true => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    Ok(Answer {
        bytes: Vec::new(),
        fd: Some(fd),
    })
}

fn diag() -> io::Result<Answer> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let ports = client_ports();
    let bounds = [ports.start().to_ne_bytes(), ports.end().to_ne_bytes()];
    Ok(Answer {
        bytes: bounds.concat(),
        fd: Some(fd),
    })
}
