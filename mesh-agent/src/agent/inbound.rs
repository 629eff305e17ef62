//! Flows that come from other hosts: judged by address, once it is certain that they do.
//!
//! A server's end does not tell where its client is. If the client is in another network namespace
//! of this host, its own end is judged instead. So what is to be cut is put off until every
//! namespace was looked at, and until two sweeps agree: a client that connects while a sweep is
//! under way may be in a namespace that was looked at before.

use std::collections::HashSet;

use mesh_common::SocketKey;

use crate::dataplane::{Late, Socket};

/// Most clients and most suspects of one sweep.
const MOST: usize = 16_384;

/// A server's end whose peer no rule lets in.
#[derive(Clone, Copy)]
pub(super) struct Suspect {
    /// The network namespace it is in.
    pub(super) netns: u64,
    pub(super) socket: Socket,
    pub(super) late: Late,
}

/// See the module.
#[derive(Default)]
pub(super) struct Inbound {
    /// Local and remote address of clients on this host.
    clients: HashSet<(SocketKey, SocketKey)>,
    suspects: Vec<Suspect>,
    /// The suspects of the sweep before, by namespace and id.
    before: HashSet<(u64, SocketKey, SocketKey)>,
    /// Whether there were more clients than are remembered.
    overflown: bool,
}

impl Inbound {
    /// Begins a sweep.
    pub(super) fn begin(&mut self) {
        self.clients.clear();
        self.suspects.clear();
        self.overflown = false;
    }

    /// Remembers a client of this host.
    pub(super) fn client(&mut self, socket: &Socket) {
        self.overflown |= self.clients.len() >= MOST;
        if !self.overflown {
            self.clients.insert((socket.local, socket.remote));
        }
    }

    /// Remembers a server's end. One more than there is room for waits for a later sweep.
    pub(super) fn suspect(&mut self, suspect: Suspect) {
        if self.suspects.len() < MOST {
            self.suspects.push(suspect);
        }
    }

    /// What is to be cut, now that all namespaces were looked at.
    pub(super) fn end(&mut self) -> Found {
        let clients = &self.clients;
        let from_outside =
            |suspect: &Suspect| !clients.contains(&(suspect.socket.remote, suspect.socket.local));
        let suspects = std::mem::take(&mut self.suspects);
        let suspects: Vec<_> = suspects.into_iter().filter(from_outside).collect();
        if self.overflown {
            return Found {
                unsure: suspects.len() as u64,
                ..Found::default()
            };
        }
        let key = |suspect: &Suspect| (suspect.netns, suspect.socket.local, suspect.socket.remote);
        let now: HashSet<_> = suspects.iter().map(key).collect();
        let before = std::mem::replace(&mut self.before, now);
        let (certain, new): (Vec<_>, Vec<_>) = suspects
            .into_iter()
            .partition(|suspect| before.contains(&key(suspect)));
        Found {
            certain,
            again: !new.is_empty(),
            unsure: 0,
        }
    }
}

/// What a sweep found.
#[derive(Default)]
pub(super) struct Found {
    /// What is to be cut.
    pub(super) certain: Vec<Suspect>,
    /// Whether another sweep is needed to tell.
    pub(super) again: bool,
    /// Flows that cannot be told, because there are too many clients to know them all.
    pub(super) unsure: u64,
}

#[cfg(test)]
mod tests {
    use mesh_common::Address;

    use super::*;
    use crate::dataplane::socket_between;

    fn at(port: u16) -> SocketKey {
        SocketKey::new(Address::from_v4([10, 0, 0, 1]), port, 6)
    }

    fn suspect(netns: u64, port: u16) -> Suspect {
        Suspect {
            netns,
            socket: socket_between(at(80), at(port)),
            late: Late::default(),
        }
    }

    fn sweep(inbound: &mut Inbound, suspects: &[Suspect], clients: &[u16]) -> (usize, bool) {
        inbound.begin();
        suspects
            .iter()
            .for_each(|suspect| inbound.suspect(*suspect));
        for port in clients {
            inbound.client(&socket_between(at(*port), at(80)));
        }
        let found = inbound.end();
        (found.certain.len(), found.again)
    }

    #[test]
    fn two_sweeps_must_agree_that_no_client_is_here() {
        let mut inbound = Inbound::default();
        let both = [suspect(1, 1000), suspect(1, 1001)];
        assert_eq!(sweep(&mut inbound, &both, &[1001]), (0, true));
        assert_eq!(sweep(&mut inbound, &both, &[1001]), (1, false));
        // The client that was here has gone meanwhile: that has to be seen twice too.
        assert_eq!(sweep(&mut inbound, &both[1..], &[]), (0, true));
        assert_eq!(sweep(&mut inbound, &both[1..], &[]), (1, false));
        // The same addresses in another namespace are another flow.
        assert_eq!(sweep(&mut inbound, &[suspect(2, 1001)], &[]), (0, true));
        assert_eq!(sweep(&mut inbound, &[], &[]), (0, false));
    }

    #[test]
    fn with_too_many_clients_nothing_is_cut() {
        let mut inbound = Inbound::default();
        for _ in 0..2 {
            inbound.begin();
            inbound.suspect(suspect(1, 1));
            for port in 2..=MOST as u16 + 2 {
                inbound.client(&socket_between(at(port), at(80)));
            }
            let found = inbound.end();
            assert_eq!(
                (found.certain.len(), found.again, found.unsure),
                (0, false, 1)
            );
        }
    }
}
