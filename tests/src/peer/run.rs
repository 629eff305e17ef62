//! The process: takes requests from its standard input until that ends.

use std::collections::HashMap;
use std::env;
use std::io::{self, BufRead as _, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, bail};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketType, connect_unspec, recvmsg, sendmsg,
};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use serde_json::Value;

use super::protocol::{Dial, Outcome, PATIENCE, Request, Socket};
use super::{dial, script, serve, unit};
use crate::cgroup;
use crate::manager::{MANAGED, become_agent};
use crate::netns;
use crate::patience::scaled;

/// The first argument of a process that only dials once.
const CHILD: &str = "dial";

/// Runs a peer: `mesh-peer CGROUP [--netns] [--user UID:GID]`. What units run begins with a word:
/// `dial REQUEST`, `probe REQUEST FILE`, `serve ADDRESS LABEL`.
///
/// # Errors
///
/// The arguments or the standard streams are unusable.
pub fn run() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [CHILD, request] => return dial_as_child(request),
        ["probe", request, file] => return unit::probe(request, Path::new(file)),
        ["serve", address, label] => return unit::serve(address, label),
        _ => {}
    }
    if let [first, rest @ ..] = arguments.as_slice()
        && first == MANAGED
    {
        return become_agent(rest);
    }
    let (cgroup, options) = arguments.split_first().context("which cgroup?")?;
    cgroup::join(Path::new(cgroup)).with_context(|| format!("cannot join {cgroup}"))?;
    let mut limits = getrlimit(Resource::Nofile);
    limits.current = limits.maximum;
    setrlimit(Resource::Nofile, limits)?;
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match option.as_str() {
            "--netns" => netns::enter_new()?,
            "--user" => {
                let ids = options.next().and_then(|ids| ids.split_once(':'));
                let (uid, gid) = ids.context("--user UID:GID")?;
                change_user(uid.parse()?, gid.parse()?)?;
            }
            other => bail!("unknown option {other}"),
        }
    }
    let mut output = io::stdout().lock();
    writeln!(output, "ready")?;
    output.flush()?;
    let mut hands = Hands::default();
    for line in io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        if matches!(request, Request::Exit) {
            break;
        }
        let answer = hands.serve(request).map_err(|error| format!("{error:#}"));
        serde_json::to_writer(&mut output, &answer)?;
        writeln!(output)?;
        output.flush()?;
    }
    Ok(())
}

fn dial_as_child(request: &str) -> Result<()> {
    let request: Dial = serde_json::from_str(request)?;
    let outcomes: Vec<Outcome> = (0..request.count)
        .map(|_| dial::once(&request).outcome)
        .collect();
    println!("{}", serde_json::to_string(&outcomes)?);
    Ok(())
}

fn change_user(uid: u32, gid: u32) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[gid])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// What a peer holds.
#[derive(Default)]
struct Hands {
    tally: Arc<serve::Tally>,
    sockets: HashMap<Socket, OwnedFd>,
    next: u32,
    inbox: Option<UnixDatagram>,
}

impl Hands {
    fn serve(&mut self, request: Request) -> Result<Value> {
        match request {
            Request::ServeTcp { address, label } => {
                json(serve::tcp(address, label, Arc::clone(&self.tally))?)
            }
            Request::ServeUdp { address, label } => {
                json(serve::udp(address, label, Arc::clone(&self.tally))?)
            }
            Request::Served => json(self.tally.served.load(Ordering::Relaxed)),
            Request::Aborted => json(self.tally.aborted.load(Ordering::Relaxed)),
            Request::Dial(dial) => json(self.dial(&dial)),
            Request::DialFromChild(dial) => from_child(&dial),
            Request::Open(kind) => {
                let socket = dial::open(kind)?;
                json(self.keep(socket))
            }
            Request::Make {
                ipv6,
                kind,
                protocol,
            } => json(dial::make(ipv6, kind, protocol)),
            Request::Echo { raw } => json(dial::echo(raw)?),
            Request::Bind { socket, address } => json(dial::bind_to(self.socket(socket)?, address)),
            Request::Listen(socket) => json(rustix::net::listen(self.socket(socket)?, 16)?),
            Request::Connect {
                socket,
                to,
                payload,
            } => json(self.connect(socket, to, &payload)?),
            Request::Disconnect(socket) => json(connect_unspec(self.socket(socket)?)?),
            Request::Exchange { sockets, payload } => json(self.exchange(&sockets, &payload)?),
            Request::SendTo {
                socket,
                to,
                payload,
            } => json(dial::send_one(self.socket(socket)?, to, &payload)),
            Request::Receive(socket) => json(dial::receive_one(self.socket(socket)?)),
            Request::PeerName(socket) => json(dial::peer(self.socket(socket)?)?),
            Request::Close(sockets) => {
                self.sockets.retain(|name, _| !sockets.contains(name));
                json(())
            }
            Request::Inbox(path) => json(self.make_inbox(&path)?),
            Request::Pass { socket, inbox } => json(self.pass(socket, &inbox)?),
            Request::Take => json(self.take()?),
            Request::Join(path) => json(cgroup::join(&path)?),
            Request::Become { uid, gid } => json(change_user(uid, gid)?),
            Request::Play { to, steps } => json(script::play(TcpStream::connect(to)?, &steps)),
            Request::PlayServer { address, steps } => json(serve::script(address, steps)?),
            Request::Exit => json(()),
        }
    }

    fn socket(&self, name: Socket) -> Result<&OwnedFd> {
        self.sockets.get(&name).context("no such socket")
    }

    fn is_udp(&self, name: Socket) -> Result<bool> {
        let kind = rustix::net::sockopt::socket_type(self.socket(name)?)?;
        Ok(kind == SocketType::DGRAM)
    }

    fn keep(&mut self, socket: OwnedFd) -> Socket {
        let name = Socket(self.next);
        self.next += 1;
        self.sockets.insert(name, socket);
        name
    }

    fn dial(&mut self, dial: &Dial) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for _ in 0..dial.count {
            let attempt = dial::once(dial);
            let mut outcome = attempt.outcome;
            outcome.socket = attempt.kept.map(|socket| self.keep(socket));
            outcomes.push(outcome);
        }
        outcomes
    }

    fn connect(&mut self, name: Socket, to: SocketAddr, payload: &str) -> Result<Outcome> {
        let udp = self.is_udp(name)?;
        Ok(dial::connect_and_say(self.socket(name)?, to, udp, payload))
    }

    fn exchange(&self, names: &[Socket], payload: &str) -> Result<Vec<Outcome>> {
        let said = |name: &Socket| {
            let udp = self.is_udp(*name)?;
            Ok(dial::say(self.socket(*name)?, udp, payload))
        };
        names.iter().map(said).collect()
    }

    fn make_inbox(&mut self, path: &PathBuf) -> Result<()> {
        let inbox = UnixDatagram::bind(path)?;
        inbox.set_read_timeout(Some(scaled(PATIENCE)))?;
        self.inbox = Some(inbox);
        Ok(())
    }

    fn pass(&self, name: Socket, inbox: &PathBuf) -> Result<()> {
        let passed = [self.socket(name)?.as_fd()];
        let outbox = UnixDatagram::unbound()?;
        outbox.connect(inbox)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&passed));
        sendmsg(
            &outbox,
            &[IoSlice::new(b"a socket")],
            &mut control,
            SendFlags::empty(),
        )?;
        Ok(())
    }

    fn take(&mut self) -> Result<Socket> {
        let inbox = self.inbox.as_ref().context("no inbox")?;
        let mut bytes = [0; 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(
            inbox,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let passed = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        Ok(self.keep(passed.context("the message has no socket")?))
    }
}

fn from_child(dial: &Dial) -> Result<Value> {
    let output = Command::new("/proc/self/exe")
        .args([CHILD, &serde_json::to_string(dial)?])
        .output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn json(value: impl Serialize) -> Result<Value> {
    Ok(serde_json::to_value(value)?)
}
