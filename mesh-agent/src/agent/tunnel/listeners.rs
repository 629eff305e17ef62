//! Where calls to other nodes are taken: a port of loopback in every network namespace.
//!
//! One thread, because it moves between network namespaces. It opens listeners where processes
//! are, gives each worker its own, tells the kernel side, and closes them when the namespace has
//! nobody left: a listener would keep it alive.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use mesh_sys::netns_cookie;
use nix::errno::Errno;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr, set_socket_reuseport};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use crate::agent::lock;
use crate::dataplane::TunnelMaps;
use crate::dataplane::netns::{self, Netns};

/// Ports that are tried, outside the range the kernel gives to clients.
const PORTS: std::ops::RangeInclusive<u16> = 15_001..=15_007;
/// Most namespaces that have listeners.
const MOST: usize = 512;
/// Connections that wait for a worker, for each listener.
const BACKLOG: i32 = 1024;
/// How often new namespaces are looked for when nothing says that there is one.
const REGULARLY: Duration = Duration::from_secs(5);

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

/// Tells the thread what is wanted.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    want: Want,
    look: bool,
    /// Whether everything that was wanted is done.
    done: bool,
    stop: bool,
    found: Findings,
}

/// What is to be listened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Want {
    /// Calls to other nodes.
    pub(super) calls: bool,
    /// Connections of other nodes, at this address.
    pub(super) peers: Option<SocketAddr>,
}

/// What there is to tell of listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Namespaces with listeners.
    pub(super) open: u64,
    /// Namespaces where none could be opened, or that were too many.
    pub(super) failed: u64,
    /// Why connections of other nodes are not taken.
    pub(super) deaf: Option<String>,
}

impl Wanted {
    /// Says what to listen for, and has it done.
    pub(super) fn set(&self, want: Want) {
        let mut state = lock(&self.state);
        state.want = want;
        state.look = true;
        state.done = false;
        self.changed.notify_all();
    }

    /// A call found no listener: its namespace may be new.
    pub(super) fn look(&self) {
        let mut state = lock(&self.state);
        if state.want.calls {
            state.look = true;
            self.changed.notify_all();
        }
    }

    /// Waits until what is wanted is done, but no longer than `limit`.
    pub(super) fn settle(&self, limit: Duration) {
        let waits = |state: &mut State| !state.done && !state.stop;
        // What is not done by then is refused until it is.
        let _ = self
            .changed
            .wait_timeout_while(lock(&self.state), limit, waits);
    }

    pub(super) fn stop(&self) {
        lock(&self.state).stop = true;
        self.changed.notify_all();
    }

    pub(super) fn findings(&self) -> Findings {
        lock(&self.state).found.clone()
    }

    /// Waits for something to do: what to listen for. `None` at the end.
    fn next(&self) -> Option<Want> {
        let idle = |state: &mut State| !state.look && !state.stop;
        let (mut state, _) = self
            .changed
            .wait_timeout_while(lock(&self.state), REGULARLY, idle)
            .unwrap_or_else(PoisonError::into_inner);
        state.look = false;
        (!state.stop).then_some(state.want)
    }
}

/// Hands an order to worker number so and so; whether it took it.
type Hand = Box<dyn Fn(usize, Order) -> bool + Send>;

/// The thread's own.
pub(super) struct Listeners {
    wanted: Arc<Wanted>,
    maps: TunnelMaps,
    /// Path of the cgroup the mesh is limited to; empty for the whole host.
    below: String,
    workers: usize,
    hand: Hand,
    /// Cookie of each namespace with listeners, by inode.
    open: BTreeMap<u64, u64>,
    /// Where connections of other nodes are taken.
    serving: Option<SocketAddr>,
    deaf: Option<String>,
    /// The namespace that the agent was started in.
    own: Option<Netns>,
    /// Namespaces where none could be opened; said once.
    failed: BTreeMap<u64, String>,
}

impl Listeners {
    pub(super) fn new(
        wanted: Arc<Wanted>,
        maps: TunnelMaps,
        below: String,
        workers: usize,
        hand: Hand,
    ) -> Self {
        Self {
            wanted,
            maps,
            below,
            workers,
            hand,
            open: BTreeMap::new(),
            serving: None,
            deaf: None,
            own: None,
            failed: BTreeMap::new(),
        }
    }

    /// Works until it is told to stop. Calls go on to the same ports then, where nobody answers.
    pub(super) fn run(mut self) {
        self.own = Netns::current().ok();
        let mut first = true;
        while let Some(want) = self.wanted.next() {
            self.serve(want.peers);
            let found = if want.calls {
                netns::of_processes(&self.below)
            } else {
                BTreeMap::new()
            };
            self.close_others(&found);
            for (inode, path) in &found {
                if !self.open.contains_key(inode) {
                    self.try_open(*inode, path);
                }
            }
            if std::mem::take(&mut first) {
                self.forget_strangers();
            }
            let mut state = lock(&self.wanted.state);
            state.found = Findings {
                open: self.open.len() as u64,
                failed: self.failed.len() as u64,
                deaf: self.deaf.clone(),
            };
            state.done = !state.look;
            self.wanted.changed.notify_all();
        }
    }

    /// Takes connections of other nodes at `address`, or none.
    fn serve(&mut self, address: Option<SocketAddr>) {
        if self.serving == address {
            return;
        }
        let Some(at) = address else {
            self.serving = None;
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
        if let Some(own) = &self.own {
            own.enter()?;
        }
        let alone = self.listener(at, false)?;
        // Now nobody else has it, and the workers can share it.
        drop(alone);
        for worker in 0..self.workers {
            let listeners = vec![self.listener(at, true)?];
            if !(self.hand)(worker, Order::Serve { listeners }) {
                return Err(io::Error::other("a worker has ended"));
            }
        }
        Ok(())
    }

    fn close_others(&mut self, found: &BTreeMap<u64, std::path::PathBuf>) {
        self.failed.retain(|inode, _| found.contains_key(inode));
        let gone = |inode: &u64| !found.contains_key(inode);
        let gone: Vec<u64> = self.open.keys().copied().filter(gone).collect();
        for inode in gone {
            if let Some(netns) = self.open.remove(&inode) {
                self.maps.withdraw(netns);
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

    fn try_open(&mut self, inode: u64, path: &Path) {
        if self.open.len() >= MOST {
            self.failed.entry(inode).or_default();
            return;
        }
        match self.open(inode, path) {
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
                        netns = %path.display(),
                        error,
                        "calls from this network namespace to other nodes are refused"
                    );
                }
                self.failed.insert(inode, error);
            }
        }
    }

    /// Opens listeners in a namespace and sends its calls there.
    fn open(&mut self, inode: u64, path: &Path) -> io::Result<Option<u64>> {
        let Some(netns) = netns::open(inode, path) else {
            return Ok(None);
        };
        netns.enter()?;
        let cookie = netns_cookie()?;
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

    /// Listeners for each worker, all on the first port that is free: the one that calls went to
    /// before, if any did.
    fn bind(&mut self, cookie: u64) -> io::Result<(u16, Vec<Vec<TcpListener>>)> {
        let announced = self.maps.announced().into_iter();
        let before = announced.filter(|(netns, _)| *netns == cookie);
        let ports: Vec<u16> = before.map(|(_, port)| port).chain(PORTS).collect();
        for port in ports {
            // Alone first: a port that is shared is shared with whoever has it.
            let alone = self.bind_at(port, false).map(drop);
            let mut all = || {
                (0..self.workers)
                    .map(|_| self.bind_at(port, true))
                    .collect()
            };
            match alone.and_then(|()| all()) {
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

    fn bind_at(&mut self, port: u16, shared: bool) -> io::Result<Vec<TcpListener>> {
        let v4 = self.listener((Ipv4Addr::LOCALHOST, port).into(), shared)?;
        match self.listener((Ipv6Addr::LOCALHOST, port).into(), shared) {
            Ok(v6) => Ok(vec![v4, v6]),
            Err(error) if lacks_ipv6(&error) => Ok(vec![v4]),
            Err(error) => Err(error),
        }
    }

    fn listener(&mut self, at: SocketAddr, shared: bool) -> io::Result<TcpListener> {
        let family = match at {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket: OwnedFd = socket_with(family, SocketType::STREAM, flags, None)?;
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
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

fn lacks_ipv6(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
}
