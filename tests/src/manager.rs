//! A service manager as far as the agent needs one: it keeps file descriptors and passes them on, as
//! systemd does (`sd_notify(3)`, `sd_listen_fds(3)`).

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::close;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::agent::{self, AgentProcess};
use crate::cgroup;
use crate::peer;
use crate::sandbox::Sandbox;

/// The first argument of a process that takes descriptors and becomes the agent.
pub(crate) const MANAGED: &str = "managed";
/// How often it is looked whether the manager is to end.
const LOOK: Duration = Duration::from_millis(50);

/// What is kept: names and descriptors, in the order they came.
type Kept = Vec<(String, OwnedFd)>;

/// See the module.
#[derive(Debug)]
pub struct Manager {
    path: PathBuf,
    kept: Arc<Mutex<Kept>>,
    /// What agents have said besides, line by line.
    said: Arc<Mutex<BTreeMap<String, usize>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Manager {
    /// One that listens at `path`.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn new(path: PathBuf) -> io::Result<Self> {
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(LOOK))?;
        let (kept, stop) = (Arc::<Mutex<Kept>>::default(), Arc::<AtomicBool>::default());
        let said = Arc::<Mutex<BTreeMap<String, usize>>>::default();
        let heard = Arc::clone(&said);
        let (theirs, told) = (Arc::clone(&kept), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                // Nothing has come meanwhile.
                let Ok((text, fd)) = receive(&socket) else {
                    continue;
                };
                for line in text.lines() {
                    *lock(&heard).entry(line.into()).or_default() += 1;
                }
                take_in(&mut lock(&theirs), &text, fd);
            }
        });
        Ok(Self {
            path,
            kept,
            said,
            stop,
            thread: Some(thread),
        })
    }

    /// The names of what is kept, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = lock(&self.kept)
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        names.sort_unstable();
        names
    }

    /// How often agents have said this so far.
    pub fn said(&self, line: &str) -> usize {
        lock(&self.said).get(line).copied().unwrap_or_default()
    }

    /// Keeps something that no agent has sent.
    pub fn plant(&self, name: &str, fd: OwnedFd) {
        lock(&self.kept).push((name.into(), fd));
    }

    /// Starts the agent with what is kept, as [`AgentProcess::start_below`] does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn start(&self, sandbox: &Sandbox) -> io::Result<AgentProcess> {
        let cgroup = sandbox.cgroup.child("system.slice/mesh-agent.service")?;
        let (ours, theirs) = UnixStream::pair()?;
        let kept = lock(&self.kept);
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        let mut command = Command::new(peer::binary());
        command
            .arg(MANAGED)
            .arg(cgroup)
            .arg(agent::binary())
            .env("NOTIFY_SOCKET", &self.path)
            .stdin(OwnedFd::from(theirs));
        if !kept.is_empty() {
            command
                .env("LISTEN_FDS", kept.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"));
        }
        let agent = AgentProcess::run(sandbox, command)?;
        for (_, fd) in kept.iter() {
            pass(&ours, fd)?;
        }
        drop(kept);
        agent.wait_until_ready(sandbox)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has said itself why, if it panicked.
            let _ = thread.join();
        }
    }
}

/// Does what a message says.
fn take_in(kept: &mut Kept, text: &str, fd: Option<OwnedFd>) {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    let name = value("FDNAME=").unwrap_or("stored");
    if value("FDSTOREREMOVE=") == Some("1") {
        kept.retain(|(other, _)| other != name);
    } else if value("FDSTORE=") == Some("1")
        && let Some(fd) = fd
    {
        kept.push((name.into(), fd));
    }
}

fn receive(socket: impl AsFd) -> io::Result<(String, Option<OwnedFd>)> {
    receive_with(socket, RecvFlags::CMSG_CLOEXEC)
}

fn receive_with(socket: impl AsFd, flags: RecvFlags) -> io::Result<(String, Option<OwnedFd>)> {
    let mut bytes = [0; 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut bytes)];
    let length = recvmsg(socket, into, &mut control, flags)?.bytes;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let said = bytes.get(..length).unwrap_or_default();
    Ok((String::from_utf8_lossy(said).into_owned(), fd))
}

fn pass(to: &UnixStream, fd: &OwnedFd) -> io::Result<()> {
    let passed = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&passed));
    sendmsg(to, &[IoSlice::new(b".")], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Takes as many descriptors from standard input as `LISTEN_FDS` says and becomes the agent:
/// `mesh-peer managed CGROUP AGENT ARGUMENT..`.
///
/// # Errors
///
/// They do not come, or the agent is not there.
pub(crate) fn become_agent(arguments: &[String]) -> Result<()> {
    let [cgroup, agent, arguments @ ..] = arguments else {
        bail!("which cgroup, which agent?");
    };
    cgroup::join(Path::new(cgroup)).with_context(|| format!("cannot join {cgroup}"))?;
    let count: usize = env::var("LISTEN_FDS").map_or(Ok(0), |count| count.parse())?;
    close_inherited()?;
    let mut fds = Vec::new();
    for expected in (3..).take(count) {
        // The lowest that is free, and not closed when the agent begins.
        let (_, fd) = receive_with(io::stdin(), RecvFlags::empty())?;
        let fd = fd.context("no descriptor")?;
        ensure!(fd.as_raw_fd() == expected, "{fd:?} instead of {expected}");
        fds.push(fd);
    }
    let error = Command::new(agent)
        .args(arguments)
        .env("LISTEN_PID", process::id().to_string())
        .stdin(Stdio::null())
        .exec();
    Err(error).with_context(|| format!("cannot become {agent}"))
}

/// Closes what whoever runs the tests has left open, so that numbers begin with 3.
fn close_inherited() -> Result<()> {
    let open = fs::read_dir("/proc/self/fd")?.flatten();
    let numbers: Vec<RawFd> = open
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // The directory itself is closed already.
        let _ = close(number);
    }
    Ok(())
}

fn lock<T>(kept: &Mutex<T>) -> MutexGuard<'_, T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
