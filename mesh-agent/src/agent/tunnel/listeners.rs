//! Where calls to other nodes are taken: a port of loopback in every network namespace.
//!
//! One thread. It opens listeners where processes are, on sockets that the usher makes there, gives
//! each worker its own, tells the kernel side, and closes them when the namespace has nobody left: a
//! listener would keep it alive. The service manager keeps them while no agent runs, so that calls wait
//! for the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use mesh_sys::netns_cookie_of;
use nix::errno::Errno;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr, set_socket_reuseport};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use super::fdstore::{FdStore, Kind, Whose};
use super::wanted::{Findings, Wanted};
use crate::dataplane::netns::Netns;
use crate::dataplane::{TunnelMaps, Usher};

/// Ports that are tried, outside the range the kernel gives to clients.
const PORTS: std::ops::RangeInclusive<u16> = 15_001..=15_007;
/// Most namespaces that have listeners.
const MOST: usize = 512;
/// Connections that wait for a worker, for each listener.
const BACKLOG: i32 = 1024;

/// What a worker does with listeners.
#[derive(Debug)]
pub(super) enum Order {
    /// Takes connections of a namespace.
    Take {
        /// Cookie of the namespace.
        netns: u64,
        /// IPv4, and IPv6 where there is any.
        listeners: Vec<TcpListener>,
    },
    /// Closes them.
    Close {
        /// Cookie of the namespace.
        netns: u64,
    },
    /// Takes connections of other nodes, in place of the listeners before.
    Serve {
        /// One, or none.
        listeners: Vec<TcpListener>,
    },
    /// Takes no more connections of other nodes.
    Deny,
}

/// Listeners of each worker.
type Sets = Vec<Vec<TcpListener>>;
/// Hands an order to worker number so and so; whether it took it.
type Hand = Box<dyn Fn(usize, Order) -> bool + Send>;

/// The thread's own.
pub(super) struct Listeners {
    wanted: Arc<Wanted>,
    maps: TunnelMaps,
    usher: Option<Arc<Usher>>,
    /// Path of the cgroup the mesh is limited to; empty for the whole host.
    below: String,
    workers: usize,
    hand: Hand,
    /// Cookie of each namespace with listeners, by inode.
    open: BTreeMap<u64, u64>,
    /// What an earlier agent has left, and what the next one will find.
    kept: FdStore,
    /// Where connections of other nodes are taken.
    serving: Option<SocketAddr>,
    deaf: Option<String>,
    /// The namespace that the agent is in, by inode.
    own: u64,
    /// The one that sockets are made in.
    place: u64,
    /// Namespaces where none could be opened; said once.
    failed: BTreeMap<u64, String>,
}

impl Listeners {
    pub(super) fn new(
        wanted: Arc<Wanted>,
        maps: TunnelMaps,
        usher: Option<Arc<Usher>>,
        below: String,
        workers: usize,
        kept: FdStore,
        hand: Hand,
    ) -> Self {
        Self {
            wanted,
            maps,
            usher,
            below,
            workers,
            hand,
            open: BTreeMap::new(),
            kept,
            serving: None,
            deaf: None,
            own: 0,
            place: 0,
            failed: BTreeMap::new(),
        }
    }

    /// Works until it is told to stop. Calls go on to the same ports then, where they wait if the
    /// service manager keeps the listeners, and are refused if it does not.
    pub(super) fn run(mut self) {
        self.own = Netns::current().map_or(0, |own| own.inode);
        let mut first = true;
        while let Some(want) = self.wanted.next() {
            self.serve(want.peers);
            let found = if want.calls {
                self.namespaces()
            } else {
                BTreeSet::new()
            };
            self.close_others(&found);
            for inode in found {
                if !self.open.contains_key(&inode) {
                    self.try_open(inode);
                }
            }
            if std::mem::take(&mut first) {
                self.forget_strangers();
                self.kept.forget_rest();
            }
            self.wanted.done(Findings {
                open: self.open.len() as u64,
                failed: self.failed.len() as u64,
                deaf: self.deaf.clone(),
                unkept: self.kept.problem(),
            });
        }
    }

    /// The namespaces that processes of the mesh are in; where nobody can tell, those with listeners and
    /// the agent's own.
    fn namespaces(&self) -> BTreeSet<u64> {
        match self
            .usher()
            .and_then(|usher| usher.of_processes(&self.below))
        {
            Ok(found) => found.into_iter().collect(),
            Err(error) => {
                tracing::error!(%error, "cannot look for network namespaces");
                self.open.keys().copied().chain([self.own]).collect()
            }
        }
    }

    /// Takes connections of other nodes at `address`, or none.
    fn serve(&mut self, address: Option<SocketAddr>) {
        if self.serving == address {
            return;
        }
        let Some(at) = address else {
            self.serving = None;
            self.kept.forget(|whose| whose.kind == Kind::Peers);
            for worker in 0..self.workers {
                // One that has ended takes none either.
                let _ = (self.hand)(worker, Order::Deny);
            }
            return;
        };
        match self.try_serve(at) {
            Ok(()) => (self.serving, self.deaf) = (address, None),
            Err(error) => {
                let error = format!("cannot listen on {at} for other nodes: {error}");
                if self.deaf.as_ref() != Some(&error) {
                    tracing::error!("{error}");
                }
                self.deaf = Some(error);
            }
        }
    }

    fn try_serve(&mut self, at: SocketAddr) -> io::Result<()> {
        self.place = self.own;
        let whose = Whose {
            kind: Kind::Peers,
            netns: netns_cookie_of(self.socket(false)?.as_fd())?,
        };
        let there = self.kept.take(whose, at);
        if there.is_empty() {
            // Those for another address may be in the way.
            self.kept.forget(|other| other == whose);
            // Alone first: now nobody else has it, and the workers can share it.
            drop(self.listener(at, false)?);
        }
        let mut sets = self.empty_sets();
        if let Err(error) = self.share(whose, at, there, &mut sets) {
            self.kept.forget(|other| other == whose);
            return Err(error);
        }
        for (worker, listeners) in sets.into_iter().enumerate() {
            if !(self.hand)(worker, Order::Serve { listeners }) {
                return Err(io::Error::other("a worker has ended"));
            }
        }
        Ok(())
    }

    fn close_others(&mut self, found: &BTreeSet<u64>) {
        self.failed.retain(|inode, _| found.contains(inode));
        let gone = |inode: &u64| !found.contains(inode);
        let gone: Vec<u64> = self.open.keys().copied().filter(gone).collect();
        for inode in gone {
            if let Some(netns) = self.open.remove(&inode) {
                self.maps.withdraw(netns);
                self.kept.forget(|whose| whose == calls(netns));
                for worker in 0..self.workers {
                    (self.hand)(worker, Order::Close { netns });
                }
            }
        }
    }

    /// Entries that an earlier agent has left for namespaces that are gone.
    fn forget_strangers(&mut self) {
        for (netns, _) in self.maps.announced() {
            if !self.open.values().any(|open| *open == netns) {
                self.maps.withdraw(netns);
            }
        }
    }

    fn try_open(&mut self, inode: u64) {
        if self.open.len() >= MOST {
            self.failed.entry(inode).or_default();
            return;
        }
        match self.open(inode) {
            Ok(Some(netns)) => {
                self.failed.remove(&inode);
                self.open.insert(inode, netns);
            }
            // It has gone meanwhile.
            Ok(None) => {}
            Err(error) => {
                let error = error.to_string();
                if self.failed.get(&inode) != Some(&error) {
                    tracing::error!(
                        netns = inode,
                        error,
                        "calls from this network namespace to other nodes are refused"
                    );
                }
                self.failed.insert(inode, error);
            }
        }
    }

    /// Opens listeners in a namespace and sends its calls there.
    fn open(&mut self, inode: u64) -> io::Result<Option<u64>> {
        self.place = inode;
        let cookie = match self.socket(false) {
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(None),
            socket => netns_cookie_of(socket?.as_fd())?,
        };
        let (port, sets) = self.bind(cookie)?;
        for (worker, listeners) in sets.into_iter().enumerate() {
            let netns = cookie;
            if !(self.hand)(worker, Order::Take { netns, listeners }) {
                return Err(io::Error::other("a worker has ended"));
            }
        }
        self.maps.announce(cookie, port).map_err(io::Error::other)?;
        Ok(Some(cookie))
    }

    /// Listeners for each worker, all on one port: that of the listeners which an earlier agent has left,
    /// or else the first that is free, beginning with the one that calls went to before.
    fn bind(&mut self, cookie: u64) -> io::Result<(u16, Sets)> {
        let announced = self.maps.announced().into_iter();
        let mut before = announced.filter(|(netns, _)| *netns == cookie);
        let before = before.next().map(|(_, port)| port);
        let left = self.kept.ports(calls(cookie));
        let found = before.filter(|port| left.contains(port));
        if let Some(port) = found.or_else(|| left.into_iter().find(|port| PORTS.contains(port))) {
            return Ok((port, self.bind_beside(cookie, port)));
        }
        for port in before.into_iter().chain(PORTS) {
            match self.bind_alone(cookie, port) {
                Err(error) if is_taken(&error) => {}
                sets => return Ok((port, sets?)),
            }
        }
        let message = format!(
            "ports {} to {} of loopback are all taken",
            PORTS.start(),
            PORTS.end()
        );
        Err(io::Error::other(message))
    }

    /// The listeners that an earlier agent has left, and more for workers that get none of them.
    fn bind_beside(&mut self, cookie: u64, port: u16) -> Sets {
        let mut sets = self.empty_sets();
        for at in loopback(port) {
            let there = self.kept.take(calls(cookie), at);
            // Whatever it is, calls that wait in the others are to be taken.
            if let Err(error) = self.share(calls(cookie), at, there, &mut sets)
                && !lacks_ipv6(&error)
            {
                tracing::warn!(%at, %error, "cannot listen beside what the agent before has left");
            }
        }
        sets
    }

    /// New listeners at a port that nobody else has.
    fn bind_alone(&mut self, cookie: u64, port: u16) -> io::Result<Sets> {
        let mut sets = self.empty_sets();
        for at in loopback(port) {
            // Alone first: a port that is shared is shared with whoever has it.
            let alone = self.listener(at, false).map(drop);
            match alone.and_then(|()| self.share(calls(cookie), at, Vec::new(), &mut sets)) {
                Err(error) if at.is_ipv6() && lacks_ipv6(&error) => {}
                Err(error) => {
                    self.kept.forget(|whose| whose == calls(cookie));
                    return Err(error);
                }
                Ok(()) => {}
            }
        }
        Ok(sets)
    }

    /// Gives the listeners that are there to the workers, and opens more for those that get none, if it
    /// can. Who has several takes from all: connections may wait in any.
    fn share(
        &mut self,
        whose: Whose,
        at: SocketAddr,
        there: Vec<TcpListener>,
        sets: &mut [Vec<TcpListener>],
    ) -> io::Result<()> {
        let served = there.len();
        for (set, listener) in (0..sets.len()).cycle().zip(there) {
            sets[set].push(listener);
        }
        for set in sets.iter_mut().skip(served) {
            let listener = match self.listener(at, true) {
                Ok(listener) => listener,
                Err(error) if served > 0 => {
                    tracing::warn!(%at, %error, "not every worker has a listener");
                    break;
                }
                Err(error) => return Err(error),
            };
            self.kept.keep(whose, at, &listener);
            set.push(listener);
        }
        Ok(())
    }

    /// No listeners for any worker.
    fn empty_sets(&self) -> Sets {
        (0..self.workers).map(|_| Vec::new()).collect()
    }

    fn listener(&mut self, at: SocketAddr, shared: bool) -> io::Result<TcpListener> {
        let socket = self.socket(at.is_ipv6())?;
        set_socket_reuseaddr(&socket, true)?;
        set_socket_reuseport(&socket, shared)?;
        if at.is_ipv6() {
            set_ipv6_v6only(&socket, true)?;
        }
        self.maps.mark_listener(&socket).map_err(io::Error::other)?;
        bind(&socket, &at)?;
        listen(&socket, BACKLOG)?;
        Ok(socket.into())
    }

    fn usher(&self) -> io::Result<&Usher> {
        self.usher
            .as_deref()
            .ok_or_else(|| io::Error::other("there is nobody to look for them"))
    }

    /// A socket where they are made now.
    fn socket(&self, ipv6: bool) -> io::Result<OwnedFd> {
        if self.place != self.own {
            return self.usher()?.stream(self.place, ipv6);
        }
        let family = match ipv6 {
            false => AddressFamily::INET,
            true => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(socket_with(family, SocketType::STREAM, flags, None)?)
    }
}

fn calls(netns: u64) -> Whose {
    let kind = Kind::Calls;
    Whose { kind, netns }
}

fn loopback(port: u16) -> [SocketAddr; 2] {
    [
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv6Addr::LOCALHOST, port).into(),
    ]
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

fn lacks_ipv6(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
}
