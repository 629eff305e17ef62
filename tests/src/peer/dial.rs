//! The client side of a peer: sockets, and what is tried with them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpFastOpenConnect;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::{
    Timeout, set_ipv6_v6only, set_socket_linger, set_socket_reuseaddr, set_socket_reuseport,
    set_socket_timeout, socket_error,
};
use rustix::net::{
    AddressFamily, Protocol, RawProtocol, RecvFlags, SendFlags, SocketFlags, SocketType, connect,
    getpeername, recv, recvfrom, send, sendto, socket_with,
};

use super::protocol::{After, Dial, Failure, Kind, Outcome, PATIENCE, Way};
use super::uring::{self, Mode};
use crate::patience::scaled;

/// `MSG_FASTOPEN`, which rustix does not name.
const FAST_OPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);

/// An attempt, and the socket if it is to be kept.
pub(super) struct Attempt {
    pub(super) outcome: Outcome,
    pub(super) kept: Option<OwnedFd>,
}

/// A socket of a kind, which waits no longer than [`PATIENCE`].
pub(super) fn open(kind: Kind) -> io::Result<OwnedFd> {
    let family = if kind.ipv6 {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let transport = if kind.udp {
        SocketType::DGRAM
    } else {
        SocketType::STREAM
    };
    let socket = socket_with(family, transport, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(scaled(PATIENCE)))?;
    set_socket_timeout(&socket, Timeout::Send, Some(scaled(PATIENCE)))?;
    if kind.v6_only {
        set_ipv6_v6only(&socket, true)?;
    }
    if kind.reuse {
        set_socket_reuseaddr(&socket, true)?;
        set_socket_reuseport(&socket, true)?;
    }
    Ok(socket)
}

/// Name of the error that making a socket of a kind ends with.
pub(super) fn make(ipv6: bool, kind: u32, protocol: u32) -> Option<String> {
    let family = if ipv6 {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let protocol = RawProtocol::new(protocol).map(Protocol::from_raw);
    let kind = SocketType::from_raw(kind);
    let made = socket_with(family, kind, SocketFlags::CLOEXEC, protocol);
    named("socket", made).err().map(|failure| failure.errno)
}

/// Whether 127.0.0.1 answers an ICMP echo request (RFC 792).
pub(super) fn echo(raw: bool) -> io::Result<bool> {
    const REQUEST: [u8; 8] = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    const REPLY: u8 = 0;
    let kind = if raw {
        SocketType::RAW
    } else {
        SocketType::DGRAM
    };
    let icmp = RawProtocol::new(1).map(Protocol::from_raw);
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, icmp)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(500)))?;
    let to = SocketAddr::from(([127, 0, 0, 1], 0));
    sendto(&socket, &REQUEST, SendFlags::empty(), &to)?;
    let mut buffer = [0; 64];
    // A raw socket gets the IP header, and what others ask for.
    let header = if raw { 20 } else { 0 };
    while let Ok((_, length)) = recv(&socket, &mut buffer, RecvFlags::empty()) {
        if buffer[..length].get(header) == Some(&REPLY) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Name of the error that binding ends with.
pub(super) fn bind_to(socket: &OwnedFd, address: SocketAddr) -> Option<String> {
    let bound = rustix::net::bind(socket, &address);
    named("bind", bound).err().map(|failure| failure.errno)
}

/// Makes one connection as `dial` says.
pub(super) fn once(dial: &Dial) -> Attempt {
    let mut outcome = Outcome::default();
    let kept = match attempt(dial, &mut outcome) {
        Ok(kept) => kept,
        Err(failure) => {
            outcome.failure = Some(failure);
            None
        }
    };
    Attempt { outcome, kept }
}

fn attempt(dial: &Dial, outcome: &mut Outcome) -> Result<Option<OwnedFd>, Failure> {
    let socket = named("socket", open(dial.kind))?;
    for waiting in [Timeout::Recv, Timeout::Send] {
        let set = set_socket_timeout(&socket, waiting, Some(dial.patience));
        named("setsockopt", set)?;
    }
    start(&socket, dial, outcome)?;
    let unconnected = matches!(dial.way, Way::SendTo | Way::UringSendTo);
    if unconnected {
        receive(&socket, outcome)?;
    } else {
        let said = dial.way == Way::FastOpen;
        converse(&socket, dial.kind.udp, &dial.payload, said, outcome)?;
        // Not before: with TCP_FASTOPEN_CONNECT there is a peer once something is sent.
        outcome.peer = named("getpeername", peer(&socket))?;
    }
    match dial.after {
        After::Close => Ok(None),
        After::Abort => {
            named(
                "setsockopt",
                set_socket_linger(&socket, Some(Duration::ZERO)),
            )?;
            Ok(None)
        }
        After::Keep => Ok(Some(socket)),
    }
}

/// The call that a mesh judges.
fn start(socket: &OwnedFd, dial: &Dial, outcome: &mut Outcome) -> Result<(), Failure> {
    let fd = socket.as_fd();
    let line = line(&dial.payload, dial.kind.udp);
    if dial.way == Way::FastOpenConnect {
        named("setsockopt", setsockopt(socket, TcpFastOpenConnect, &true))?;
    }
    let started = Instant::now();
    let to = &dial.to;
    let result = match dial.way {
        Way::Connect | Way::FastOpenConnect => connect(fd, to).map_err(io::Error::from),
        Way::NonBlocking => connect_without_blocking(socket, to),
        Way::SendTo => sent(sendto(fd, &line, SendFlags::empty(), to)),
        Way::FastOpen => sent(sendto(fd, &line, FAST_OPEN, to)),
        Way::Uring => uring::apart(|| uring::connect(fd, *to, Mode::Inline)),
        Way::UringAsync => uring::apart(|| uring::connect(fd, *to, Mode::Async)),
        Way::UringPolled => uring::apart(|| uring::connect(fd, *to, Mode::Polled)),
        Way::UringSendTo => uring::apart(|| uring::send_to(fd, *to, &line)),
    };
    outcome.micros = started.elapsed().as_micros() as u64;
    let call = match dial.way {
        Way::SendTo | Way::FastOpen | Way::UringSendTo => "sendto",
        _ => "connect",
    };
    named(call, result)
}

fn sent(result: rustix::io::Result<usize>) -> io::Result<()> {
    Ok(result.map(drop)?)
}

fn connect_without_blocking(socket: &OwnedFd, to: &SocketAddr) -> io::Result<()> {
    rustix::io::ioctl_fionbio(socket, true)?;
    let result = match connect(socket, to) {
        Err(rustix::io::Errno::INPROGRESS) => {
            let patience = Timespec::try_from(scaled(PATIENCE)).map_err(io::Error::other)?;
            poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&patience))?;
            socket_error(socket)?
        }
        other => other,
    };
    rustix::io::ioctl_fionbio(socket, false)?;
    Ok(result?)
}

/// Connects `socket` and exchanges `payload`.
pub(super) fn connect_and_say(
    socket: &OwnedFd,
    to: SocketAddr,
    udp: bool,
    payload: &str,
) -> Outcome {
    let mut outcome = Outcome::default();
    let started = Instant::now();
    let result = named("connect", connect(socket, &to).map_err(io::Error::from));
    outcome.micros = started.elapsed().as_micros() as u64;
    let result = result.and_then(|()| {
        converse(socket, udp, payload, false, &mut outcome)?;
        outcome.peer = named("getpeername", peer(socket))?;
        Ok(())
    });
    outcome.failure = result.err();
    outcome
}

/// Says `payload` on a connected socket.
pub(super) fn say(socket: &OwnedFd, udp: bool, payload: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let started = Instant::now();
    let result = converse(socket, udp, payload, false, &mut outcome);
    outcome.micros = started.elapsed().as_micros() as u64;
    outcome.failure = result.err();
    outcome
}

/// Sends one datagram.
pub(super) fn send_one(socket: &OwnedFd, to: SocketAddr, payload: &str) -> Outcome {
    let started = Instant::now();
    let result = sent(sendto(socket, payload.as_bytes(), SendFlags::empty(), &to));
    Outcome {
        micros: started.elapsed().as_micros() as u64,
        failure: named("sendto", result).err(),
        ..Outcome::default()
    }
}

/// Takes one datagram in.
pub(super) fn receive_one(socket: &OwnedFd) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.failure = receive(socket, &mut outcome).err();
    outcome
}

/// The peer of a socket.
pub(super) fn peer(socket: &OwnedFd) -> io::Result<Option<SocketAddr>> {
    let peer = getpeername(socket)?;
    peer.map(|peer| SocketAddr::try_from(peer).map_err(io::Error::from))
        .transpose()
}

/// Sends `payload`, unless it is empty or was sent already, and reads who answers.
fn converse(
    socket: &OwnedFd,
    udp: bool,
    payload: &str,
    said: bool,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    if payload.is_empty() {
        return Ok(());
    }
    if !said {
        let line = line(payload, udp);
        let result = retry_on_intr(|| send(socket, &line, SendFlags::NOSIGNAL));
        named("send", sent(result))?;
    }
    if udp {
        return receive(socket, outcome);
    }
    let mut answer = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let received = retry_on_intr(|| recv(socket, &mut buffer, RecvFlags::empty()));
        let (_, length) = named("recv", received)?;
        answer.extend_from_slice(&buffer[..length]);
        if length == 0 || answer.ends_with(b"\n") {
            break;
        }
    }
    outcome.label = label(&answer);
    Ok(())
}

fn receive(socket: &OwnedFd, outcome: &mut Outcome) -> Result<(), Failure> {
    let mut buffer = [0; 4096];
    let received = retry_on_intr(|| recvfrom(socket, &mut buffer, RecvFlags::empty()));
    let (_, length, sender) = named("recvfrom", received)?;
    outcome.label = label(&buffer[..length]);
    outcome.peer = sender.and_then(|sender| SocketAddr::try_from(sender).ok());
    Ok(())
}

/// What a server put before the payload.
fn label(answer: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(answer);
    text.split_once(' ').map(|(label, _)| label.to_owned())
}

fn line(payload: &str, udp: bool) -> Vec<u8> {
    let end: &[u8] = if udp { b"" } else { b"\n" };
    [payload.as_bytes(), end].concat()
}

fn named<T, E: Into<io::Error>>(call: &str, result: Result<T, E>) -> Result<T, Failure> {
    result.map_err(|error| {
        let error = error.into();
        Failure {
            call: call.into(),
            errno: match error.raw_os_error() {
                Some(code) => format!("{:?}", Errno::from_raw(code)),
                None => error.to_string(),
            },
        }
    })
}
