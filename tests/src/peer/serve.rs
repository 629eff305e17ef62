//! Echo servers, each on a thread of its own.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::script::{Step, play};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

/// Longest queue of connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// Marks the listener among the connections.
const LISTENER: u64 = u64::MAX;

/// What servers have seen.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Connections and datagrams that were taken in.
    pub(super) served: AtomicU64,
    /// Connections that ended in an error.
    pub(super) aborted: AtomicU64,
}

/// Answers every line on every connection to `address`.
pub(super) fn tcp(address: SocketAddr, label: String, tally: Arc<Tally>) -> io::Result<SocketAddr> {
    let socket = bound(address, SocketType::STREAM)?;
    listen(&socket, BACKLOG)?;
    tcp_at(TcpListener::from(socket), label, tally)
}

/// The same on a socket that listens already.
pub(super) fn tcp_at(
    listener: TcpListener,
    label: String,
    tally: Arc<Tally>,
) -> io::Result<SocketAddr> {
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let events = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(
        &events,
        &listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    let server = Server {
        listener,
        events,
        label,
        tally,
        connections: HashMap::new(),
        next: 0,
    };
    thread::spawn(move || server.run());
    Ok(address)
}

/// Plays `steps` on the first connection to `address`.
pub(super) fn script(address: SocketAddr, steps: Vec<Step>) -> io::Result<SocketAddr> {
    let socket = bound(address, SocketType::STREAM)?;
    listen(&socket, 1)?;
    let listener = TcpListener::from(socket);
    let address = listener.local_addr()?;
    thread::spawn(move || {
        let accepted = listener.accept();
        // Another script may be played at the address.
        drop(listener);
        if let Ok((stream, _)) = accepted {
            // The other end tells what came of it.
            let _ = play(stream, &steps);
        }
    });
    Ok(address)
}

/// Answers every datagram to `address`.
pub(super) fn udp(address: SocketAddr, label: String, tally: Arc<Tally>) -> io::Result<SocketAddr> {
    let socket = UdpSocket::from(bound(address, SocketType::DGRAM)?);
    let address = socket.local_addr()?;
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, sender)) = socket.recv_from(&mut buffer) {
            tally.served.fetch_add(1, Ordering::Relaxed);
            let answer = [label.as_bytes(), b" ", &buffer[..length]].concat();
            // The sender may be gone.
            let _ = socket.send_to(&answer, sender);
        }
    });
    Ok(address)
}

/// A socket on `address`; on `::` an IPv6 one takes IPv4 as well.
fn bound(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let socket = socket(family, kind, None)?;
    set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

struct Server {
    listener: TcpListener,
    events: OwnedFd,
    label: String,
    tally: Arc<Tally>,
    connections: HashMap<u64, Connection>,
    next: u64,
}

struct Connection {
    stream: TcpStream,
    /// Begin of a line whose end has not arrived.
    rest: Vec<u8>,
}

impl Server {
    fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            match epoll::wait(&self.events, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    number => self.answer(number),
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Ok((stream, _)) = self.listener.accept() {
            self.tally.served.fetch_add(1, Ordering::Relaxed);
            stream.set_nodelay(true)?;
            let data = EventData::new_u64(self.next);
            epoll::add(&self.events, &stream, data, EventFlags::IN)?;
            let rest = Vec::new();
            self.connections
                .insert(self.next, Connection { stream, rest });
            self.next += 1;
        }
        Ok(())
    }

    fn answer(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let taken = connection.take(&self.label);
        if taken.is_err() {
            self.tally.aborted.fetch_add(1, Ordering::Relaxed);
        }
        if !taken.unwrap_or(false) {
            self.connections.remove(&number);
        }
    }
}

impl Connection {
    /// Answers what has arrived; `false` at the end.
    fn take(&mut self, label: &str) -> io::Result<bool> {
        let mut buffer = [0; 16_384];
        let length = self.stream.read(&mut buffer)?;
        self.rest.extend_from_slice(&buffer[..length]);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let answer = [label.as_bytes(), b" ", &line].concat();
            self.stream.write_all(&answer)?;
        }
        Ok(length > 0)
    }
}
