//! Listeners that the service manager keeps while no agent runs: systemd's file descriptor store.
//!
//! Comes in: what an earlier agent has left there. Goes out: `FDSTORE=1` and `FDSTOREREMOVE=1`
//! (`sd_pid_notify_with_fds(3)`). What waits in the backlog of a kept listener is the next agent's.
//! A kept listener keeps its network namespace, so none may be forgotten there.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::str::FromStr;

use mesh_sys::netns_cookie_of;
use rustix::net::ipproto;
use rustix::net::sockopt::{socket_acceptconn, socket_protocol};
use sd_notify::NotifyState;

/// Most that are kept: as many as there can be, and what the unit has for `FileDescriptorStoreMax=`.
const MOST: usize = 4100;
/// How many the service manager keeps, if it says so (systemd 254).
const LIMIT: &str = "FDSTORE";
/// Where the service manager is told things, if there is one.
const MANAGER: &str = "NOTIFY_SOCKET";
/// Longest name of a descriptor (`sd_notify(3)`).
const LONGEST: usize = 255;

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Calls to other nodes.
    Calls,
    /// Connections of other nodes.
    Peers,
}

/// What a listener is for, and in which network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Whose {
    pub(super) kind: Kind,
    /// Cookie of the namespace.
    pub(super) netns: u64,
}

/// The name of a listener: `mesh-calls-4711-15001-4-0`, the last being its number among those that
/// share the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    whose: Whose,
    port: u16,
    ipv6: bool,
    index: u16,
}

/// See the module.
#[derive(Debug)]
pub(super) struct FdStore {
    /// Whether there is a service manager.
    manager: bool,
    limit: usize,
    /// What an earlier agent has left and nobody has taken.
    offered: Vec<(Name, TcpListener)>,
    /// What the service manager has.
    kept: BTreeSet<Name>,
    /// Whether it was said that it has not all.
    warned: bool,
    /// How many listeners it has not.
    unkept: BTreeMap<Whose, u64>,
}

impl FdStore {
    /// With what the service manager has passed on. What is not what its name says is removed.
    pub(super) fn new(inherited: Vec<(OwnedFd, String)>) -> Self {
        let limit = env::var(LIMIT).ok().and_then(|limit| limit.parse().ok());
        let mut store = Self {
            manager: env::var_os(MANAGER).is_some_and(|path| !path.is_empty()),
            limit: limit.unwrap_or(MOST).min(MOST),
            offered: Vec::new(),
            kept: BTreeSet::new(),
            warned: false,
            unkept: BTreeMap::new(),
        };
        if store.manager && limit.is_none() && inherited.is_empty() {
            tracing::info!(
                "the service manager does not say whether it keeps sockets over a restart: \
                 systemd 254 does where FileDescriptorStoreMax= is set"
            );
        }
        let strange = store.accept(inherited);
        store.remove_strange(&strange);
        if !store.offered.is_empty() {
            let listeners = store.offered.len();
            tracing::info!(listeners, "listeners of the agent before taken over");
        }
        store
    }

    /// Sorts out what is ours; the names of the rest.
    fn accept(&mut self, inherited: Vec<(OwnedFd, String)>) -> BTreeSet<String> {
        let mut strange = BTreeSet::new();
        for (fd, text) in inherited {
            match recognise(fd, &text) {
                Ok((name, listener)) if self.kept.insert(name) => {
                    self.offered.push((name, listener));
                }
                Ok(_) => drop(strange.insert(text)),
                Err(why) => {
                    tracing::warn!(name = text, %why, "a file descriptor of the service manager is closed");
                    strange.insert(text);
                }
            }
        }
        strange
    }

    fn remove_strange(&self, strange: &BTreeSet<String>) {
        let sayable = |name: &&String| {
            (1..=LONGEST).contains(&name.len())
                && name.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        };
        for name in strange.iter().filter(sayable) {
            remove(name);
        }
        // Of the same name as a strange one, so it is not there any more either.
        let lost = |(name, _): &&(Name, TcpListener)| strange.contains(&name.to_string());
        for (name, listener) in self.offered.iter().filter(lost) {
            if let Err(error) = send(name, listener) {
                tracing::warn!(%name, %error, "the service manager does not keep a listener");
            }
        }
    }

    /// Ports at which an earlier agent has left listeners.
    pub(super) fn ports(&self, whose: Whose) -> Vec<u16> {
        let of = self.offered.iter().filter(|(name, _)| name.whose == whose);
        of.map(|(name, _)| name.port).collect()
    }

    /// The listeners that an earlier agent has left at an address.
    pub(super) fn take(&mut self, whose: Whose, at: SocketAddr) -> Vec<TcpListener> {
        let fits = |(name, listener): &mut (Name, TcpListener)| {
            name.whose == whose && listener.local_addr().is_ok_and(|local| local == at)
        };
        let taken = self.offered.extract_if(.., fits);
        taken.map(|(_, listener)| listener).collect()
    }

    /// Has a listener kept.
    pub(super) fn keep(&mut self, whose: Whose, at: SocketAddr, listener: &TcpListener) {
        if !self.manager {
            return;
        }
        let name = |index| Name {
            whose,
            port: at.port(),
            ipv6: at.is_ipv6(),
            index,
        };
        let free = (0..=u16::MAX)
            .map(name)
            .find(|name| !self.kept.contains(name))
            .filter(|_| self.kept.len() < self.limit);
        let sent = match free {
            Some(name) => send(&name, listener).map(|()| self.kept.insert(name)),
            None => Err(io::Error::other("it has too many")),
        };
        if let Err(error) = sent {
            if !std::mem::replace(&mut self.warned, true) {
                tracing::warn!(%error, "the service manager does not keep all listeners over a restart");
            }
            *self.unkept.entry(whose).or_default() += 1;
        }
    }

    /// Has listeners kept no longer, because they are closed. Those that were left and nobody has taken
    /// are closed, too.
    pub(super) fn forget(&mut self, which: impl Fn(Whose) -> bool) {
        self.offered.retain(|(name, _)| !which(name.whose));
        self.unkept.retain(|whose, _| !which(*whose));
        for name in self.kept.extract_if(.., |name| which(name.whose)) {
            remove(&name.to_string());
        }
    }

    /// Closes what an earlier agent has left and nobody has taken.
    pub(super) fn forget_rest(&mut self) {
        for (name, _) in std::mem::take(&mut self.offered) {
            self.kept.remove(&name);
            remove(&name.to_string());
        }
    }

    /// What is wrong, and what to do.
    pub(super) fn problem(&self) -> Option<String> {
        let unkept: u64 = self.unkept.values().sum();
        (unkept > 0).then(|| {
            format!(
                "{unkept} listeners are not kept while the agent restarts, and calls to other nodes fail then: \
                 see the log; FileDescriptorStoreMax={MOST} in the unit is enough"
            )
        })
    }
}

/// The listener, if it is what its name says.
fn recognise(fd: OwnedFd, text: &str) -> io::Result<(Name, TcpListener)> {
    let wrong = |what: &str| Err(io::Error::other(what.to_owned()));
    let Ok(name) = text.parse::<Name>() else {
        return wrong("its name is none of ours");
    };
    if !socket_acceptconn(&fd)? || socket_protocol(&fd)? != Some(ipproto::TCP) {
        return wrong("it is no TCP listener");
    }
    if netns_cookie_of(fd.as_fd())? != name.whose.netns {
        return wrong("it is in another network namespace");
    }
    let listener = TcpListener::from(fd);
    let at = listener.local_addr()?;
    if (at.port(), at.is_ipv6()) != (name.port, name.ipv6) {
        return wrong("it listens elsewhere");
    }
    listener.set_nonblocking(true)?;
    Ok((name, listener))
}

fn send(name: &Name, listener: &TcpListener) -> io::Result<()> {
    let name = name.to_string();
    let states = [NotifyState::FdStore, NotifyState::FdName(&name)];
    let fds: [BorrowedFd<'_>; 1] = [listener.as_fd()];
    sd_notify::notify_with_fds(&states, &fds)
}

fn remove(name: &str) {
    let states = [NotifyState::FdStoreRemove, NotifyState::FdName(name)];
    if let Err(error) = sd_notify::notify(&states) {
        tracing::warn!(name, %error, "the service manager may still keep a file descriptor");
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            whose: Whose { kind, netns },
            port,
            ipv6,
            index,
        } = self;
        let kind = match kind {
            Kind::Calls => "calls",
            Kind::Peers => "peers",
        };
        let family = if *ipv6 { 6 } else { 4 };
        write!(f, "mesh-{kind}-{netns}-{port}-{family}-{index}")
    }
}

impl FromStr for Name {
    type Err = ();

    /// Takes what [`fmt::Display`] writes and nothing else.
    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split('-').collect();
        let ["mesh", kind, netns, port, family, index] = parts[..] else {
            return Err(());
        };
        let kind = match kind {
            "calls" => Kind::Calls,
            "peers" => Kind::Peers,
            _ => return Err(()),
        };
        let netns = number(netns)?;
        let name = Self {
            whose: Whose { kind, netns },
            port: number(port)?,
            ipv6: family == "6",
            index: number(index)?,
        };
        Some(name).filter(|name| name.to_string() == text).ok_or(())
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, ()> {
    text.parse().ok().ok_or(())
}

#[cfg(test)]
mod tests {
    use mesh_sys::netns_cookie;

    use super::*;

    fn name(text: &str) -> Option<Name> {
        text.parse().ok()
    }

    fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        (listener, port)
    }

    /// Without a service manager: nothing is sent.
    fn store(inherited: Vec<(OwnedFd, String)>) -> FdStore {
        FdStore::new(inherited)
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let longest = Name {
            whose: Whose {
                kind: Kind::Calls,
                netns: u64::MAX,
            },
            port: u16::MAX,
            ipv6: true,
            index: u16::MAX,
        };
        assert_eq!(name(&longest.to_string()), Some(longest));
        assert!(longest.to_string().len() <= LONGEST);
        assert!(name("mesh-peers-7-15008-4-0").is_some());
        for text in [
            "",
            "stored",
            "mesh-calls-7-15001-4",
            "mesh-calls-7-15001-4-0-0",
            "mesh-calls-07-15001-4-0",
            "mesh-calls-+7-15001-4-0",
            "mesh-calls-7-15001-5-0",
            "mesh-calls-7-65536-4-0",
            "mesh-other-7-15001-4-0",
            "mesh-calls-7-15001-4-0\n",
        ] {
            assert_eq!(name(text), None, "{text:?}");
        }
    }

    #[test]
    fn only_what_is_what_its_name_says_is_taken_over() {
        let netns = netns_cookie().expect("a cookie");
        let whose = Whose {
            kind: Kind::Calls,
            netns,
        };
        let (good, port) = listener();
        let at = good.local_addr().expect("an address");
        let unbound = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let file = std::fs::File::open("/dev/null").expect("a file");
        let (other, elsewhere) = listener();
        let (strange, _) = listener();
        let (again, same) = listener();
        let called = |netns: u64, port: u16| format!("mesh-calls-{netns}-{port}-4-0");
        let store = store(vec![
            (good.into(), called(netns, port)),
            (unbound.into(), called(netns, 1)),
            (file.into(), called(netns, 2)),
            (other.into(), called(netns + 1, elsewhere)),
            (strange.into(), "stored".into()),
            (again.into(), called(netns, same.wrapping_add(1).max(1))),
        ]);
        assert_eq!(store.ports(whose), [port]);
        let mut store = store;
        assert_eq!(store.take(whose, at).len(), 1);
        assert!(store.take(whose, at).is_empty());
    }

    #[test]
    fn what_nobody_has_taken_is_closed() {
        let netns = netns_cookie().expect("a cookie");
        let (left, port) = listener();
        let at = left.local_addr().expect("an address");
        let mut store = store(vec![(
            left.into(),
            format!("mesh-peers-{netns}-{port}-4-0"),
        )]);
        assert!(std::net::TcpStream::connect(at).is_ok());
        store.forget_rest();
        assert!(std::net::TcpStream::connect(at).is_err());
        assert!(store.kept.is_empty());
    }

    #[test]
    fn the_unit_keeps_as_many_as_there_can_be() {
        let unit = include_str!("../../../../packaging/systemd/mesh-agent.service");
        let line = format!("FileDescriptorStoreMax={MOST}");
        assert!(unit.lines().any(|other| other == line), "{line}");
    }
}
