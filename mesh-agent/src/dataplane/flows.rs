//! Established flows under the policy in force: what `connect()` would say of them now.
//!
//! Comes in: sockets of [`super::diag`]. Goes out: which of them to cut, and which new calls
//! would no longer make. A flow is judged where it was made, at its client's socket; one that
//! comes from another host has none here, and is judged by its address at the server's.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use mesh_common::{
    DecisionKey, Destination, IPPROTO_UDP, Reason, SocketKey, SocketState, Subject, Verdict,
    destination_flag, socket_flag,
};

use super::addresses::LocalAddresses;
use super::cgroup::{Cgroup, Hierarchy};
use super::diag::{Socket, state};
use super::policy_maps::Applied;
use crate::policy::judge::{Chosen, Decision, Frontends};

/// Most answers about endpoints that are remembered.
const REMEMBERED: usize = 4096;

/// What is known of the namespace that sockets are in.
#[derive(Debug)]
pub(crate) struct Place {
    /// Whether it is the agent's own, whose loopback the mesh's is.
    pub(crate) own: bool,
    /// TCP ports that are listened on, whatever the address.
    pub(crate) listening: HashSet<u16>,
    /// Ports the kernel chooses from for clients.
    pub(crate) ephemeral: RangeInclusive<u16>,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It goes on, or is not the mesh's business.
    Fine,
    /// It is allowed, but new calls go elsewhere.
    Leaving(Leaving),
    /// It is cut.
    Denied(Late),
    /// It is a server's end, and no rule lets its peer's address in: it is cut unless the peer is
    /// on this host, where its own end is judged.
    Inbound(Late),
}

/// A flow to an endpoint that new calls no longer get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Leaving {
    pub(crate) service: u32,
    pub(crate) version: u32,
    pub(crate) endpoint: Chosen,
}

/// A flow that is no longer allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Late {
    pub(crate) source: u32,
    /// 0 outside the mesh, as `frontend`.
    pub(crate) service: u32,
    pub(crate) frontend: u32,
    /// The rule, 0 where there is none.
    pub(crate) rule: u32,
    /// What the program dialled, if that is known, else what it is connected to.
    pub(crate) dialled: SocketKey,
}

impl Late {
    /// Its series.
    pub(super) fn key(&self) -> DecisionKey {
        DecisionKey {
            source: self.source,
            service: self.service,
            rule: self.rule,
            verdict: Verdict::Denied.0,
            reason: Reason::LateDenial.0,
            protocol: self.dialled.protocol,
            _pad: 0,
        }
    }
}

/// What was worked out about one policy, and serves for all flows under it.
#[derive(Default)]
pub(super) struct Memory {
    /// Revision and epoch of the policy.
    policy: Option<(u64, u64)>,
    frontends: Frontends,
    /// Whether a caller's new calls can get an endpoint.
    reached: HashMap<(u32, u32, Chosen), bool>,
}

/// See the module.
pub(crate) struct FlowJudge<'d> {
    applied: Applied<'d>,
    hierarchy: &'d Hierarchy,
    addresses: &'d LocalAddresses,
    memory: &'d mut Memory,
}

impl<'d> FlowJudge<'d> {
    pub(super) fn new(
        applied: Applied<'d>,
        hierarchy: &'d Hierarchy,
        addresses: &'d LocalAddresses,
        memory: &'d mut Memory,
    ) -> Self {
        let policy = Some((applied.header.revision, applied.header.id_epoch));
        if memory.policy != policy {
            *memory = Memory {
                policy,
                frontends: Frontends::new(applied.entries.destinations),
                reached: HashMap::new(),
            };
        }
        Self {
            applied,
            hierarchy,
            addresses,
            memory,
        }
    }

    /// What becomes of the flow of a socket.
    pub(crate) fn standing(&mut self, socket: &Socket, place: &Place) -> Standing {
        // What has no cgroup is a half of a socket: one that is not accepted yet, or one that
        // waits for its port to be free again. A closed one that waits for its peer's end sends
        // nothing any more.
        let ended = socket.inode == 0 && socket.state == state::FIN_WAIT2;
        let Some(cgroup) = socket.cgroup.filter(|_| !ended) else {
            return Standing::Fine;
        };
        match self.flow_of(socket) {
            Some(flow) => self.known_flow(socket, &flow, cgroup, place),
            None => match self.guarded(socket, place) {
                Some(destination) => self.inbound(socket, &destination),
                None => self.unknown_flow(socket, cgroup, place),
            },
        }
    }

    /// What `connect()` remembered of a flow, if its ids still mean what they meant.
    fn flow_of(&self, socket: &Socket) -> Option<SocketState> {
        let epoch = self.applied.header.id_epoch as u32;
        let is_flow =
            |state: &SocketState| state.flags & socket_flag::FLOW != 0 && state.epoch == epoch;
        socket.mesh.filter(is_flow)
    }

    fn known_flow(
        &mut self,
        socket: &Socket,
        flow: &SocketState,
        cgroup: u64,
        place: &Place,
    ) -> Standing {
        if flow.revision == self.applied.header.revision as u32 {
            return Standing::Fine;
        }
        let caller = if self.applied.entries.knows(flow.source) {
            flow.source
        } else {
            self.subject(cgroup, socket.uid)
        };
        let creator = self.creator(flow, caller);
        let called = self.memory.frontends.get(flow.frontend).copied();
        let reached = self.destination(socket, place);
        let dialled = SocketKey::new(flow.dialled, flow.dialled_port, socket.remote.protocol);
        // What was called, and whose address it is by now: the stricter of both.
        let other = reached.filter(|reached| reached.frontend != flow.frontend);
        for destination in [called, other].into_iter().flatten() {
            let decision = self.applied.entries.judge(caller, creator, &destination);
            if !decision.allows() {
                return late(caller, &destination, decision, dialled);
            }
        }
        match called {
            Some(called) => self.may_be_leaving(socket, flow, caller, &called, reached.as_ref()),
            None if flow.target != 0 => Standing::Denied(Late {
                source: caller,
                service: flow.service,
                frontend: flow.frontend,
                rule: 0,
                dialled,
            }),
            None if other.is_none() => self.egress(caller, &socket.remote),
            None => Standing::Fine,
        }
    }

    /// A flow without a note: it is older than the policy, outside the mesh, or UDP, of which
    /// notes are not told. It is judged by who made its socket and where it leads.
    fn unknown_flow(&self, socket: &Socket, cgroup: u64, place: &Place) -> Standing {
        let destination = self.destination(socket, place);
        if destination.is_none() && !self.applied.entries.denies_egress() {
            return Standing::Fine;
        }
        if is_server_side(socket, place, destination.is_none()) {
            // Of an endpoint that is not protected: its client's end is judged, if it is here.
            return Standing::Fine;
        }
        if !self.is_ours(socket, cgroup) {
            return Standing::Fine;
        }
        let caller = self.subject(cgroup, socket.uid);
        let Some(destination) = destination else {
            return self.egress(caller, &socket.remote);
        };
        let decision = self.applied.entries.judge(caller, caller, &destination);
        if decision.allows() {
            return Standing::Fine;
        }
        late(caller, &destination, decision, socket.remote)
    }

    /// The protected endpoint of this node that a TCP socket is accepted at: it has no note, and
    /// its port is one that the kernel gives to no client, for its range or for its listener.
    fn guarded(&self, socket: &Socket, place: &Place) -> Option<Destination> {
        const GUARDED: u32 = destination_flag::PROTECTED | destination_flag::THIS_NODE;
        let local = &socket.local;
        let is_here = |address: &_| self.addresses.contains(address);
        if local.protocol == IPPROTO_UDP || socket.mesh.is_some() || socket.state == state::SYN_SENT
        {
            return None;
        }
        if !place.listening.contains(&local.port) && place.ephemeral.contains(&local.port) {
            return None;
        }
        let destination = self.applied.entries.destination(local, is_here)?;
        (destination.flags & GUARDED == GUARDED).then_some(destination)
    }

    fn inbound(&self, socket: &Socket, destination: &Destination) -> Standing {
        let peer = &socket.remote.address;
        if peer.is_loopback_or_unspecified() || self.addresses.contains(peer) {
            return Standing::Fine;
        }
        let decision = self.applied.entries.judge_address(peer, destination);
        if decision.allows() {
            return Standing::Fine;
        }
        Standing::Inbound(Late {
            source: Subject::OUTSIDE.0,
            service: destination.service,
            frontend: destination.frontend,
            rule: decision.rule,
            dialled: socket.local,
        })
    }

    /// Whether a socket is a client of the mesh's whose server may be in another network
    /// namespace of this host: that server's end is not to be judged by address.
    pub(crate) fn calls_across(&self, socket: &Socket, place: &Place) -> bool {
        let remote = &socket.remote;
        if remote.address.is_loopback_or_unspecified() || remote.protocol == IPPROTO_UDP {
            return false;
        }
        let is_here = |address: &_| self.addresses.contains(address);
        let destination = self.applied.entries.destination(remote, is_here);
        let on_this_node = destination
            .is_some_and(|destination| destination.flags & destination_flag::THIS_NODE != 0);
        let ours = || {
            socket
                .cgroup
                .is_some_and(|cgroup| self.is_ours(socket, cgroup))
        };
        on_this_node && !(place.own && is_here(&remote.address)) && ours()
    }

    fn egress(&self, caller: u32, remote: &SocketKey) -> Standing {
        match self.applied.entries.judge_egress(caller, remote) {
            Some(decision) if !decision.allows() => {
                late(caller, &Destination::default(), decision, *remote)
            }
            _ => Standing::Fine,
        }
    }

    fn may_be_leaving(
        &mut self,
        socket: &Socket,
        flow: &SocketState,
        caller: u32,
        called: &Destination,
        reached: Option<&Destination>,
    ) -> Standing {
        let redirected = flow.target != 0;
        let endpoint = if redirected {
            Chosen::Elsewhere(flow.target)
        } else {
            let (address, port) = (flow.endpoint, flow.endpoint_port);
            Chosen::Here(SocketKey::new(address, port, socket.remote.protocol))
        };
        let still_there = reached.is_some_and(|reached| reached.frontend == flow.frontend);
        // Who dials an endpoint itself asks for it, whatever its weight.
        let chosen = flow.dialled != flow.endpoint || flow.dialled_port != flow.endpoint_port;
        if (still_there || redirected) && (!chosen || self.reaches(caller, called, endpoint)) {
            return Standing::Fine;
        }
        Standing::Leaving(Leaving {
            service: flow.service,
            version: flow.version,
            endpoint,
        })
    }

    fn reaches(&mut self, caller: u32, called: &Destination, endpoint: Chosen) -> bool {
        let key = (caller, called.frontend, endpoint);
        if let Some(known) = self.memory.reached.get(&key) {
            return *known;
        }
        let reaches = self.applied.entries.reaches(caller, called, &endpoint);
        if self.memory.reached.len() >= REMEMBERED {
            self.memory.reached.clear();
        }
        self.memory.reached.insert(key, reaches);
        reaches
    }

    /// What the socket is connected to; `None` if that is nothing of the mesh's.
    fn destination(&self, socket: &Socket, place: &Place) -> Option<Destination> {
        if socket.remote.address.is_loopback_or_unspecified() && !place.own {
            return None;
        }
        let is_local = |address: &_| self.addresses.contains(address);
        self.applied.entries.destination(&socket.remote, is_local)
    }

    /// Who made the socket. A creator whose cgroup is gone is itself gone: only the caller is
    /// left to use the socket.
    fn creator(&self, flow: &SocketState, caller: u32) -> u32 {
        if flow.flags & socket_flag::TUNNEL != 0 {
            // The agent, for the caller.
            return caller;
        }
        if flow.creator_cgroup == 0 {
            return Subject::HOST.0;
        }
        match self.subject(flow.creator_cgroup, flow.creator_uid) {
            unknown if unknown == Subject::UNKNOWN.0 => caller,
            known => known,
        }
    }

    /// The subject of a process; unknown if its cgroup is gone.
    fn subject(&self, cgroup: u64, uid: u32) -> u32 {
        let seen = self.applied.seen(cgroup);
        let subject = seen.filter(|subject| *subject != Subject::UNKNOWN.0);
        let subject = subject.or_else(|| {
            let path = self.path(cgroup)?;
            let root = self.hierarchy.prefix().len();
            Some(self.applied.attribute(&Cgroup { id: cgroup, path }, root))
        });
        let subject = subject.unwrap_or(Subject::UNKNOWN.0);
        self.applied.entries.with_uid(subject, uid)
    }

    /// Whether a socket that nothing is remembered with was made where the mesh is.
    fn is_ours(&self, socket: &Socket, cgroup: u64) -> bool {
        self.hierarchy.prefix().is_empty()
            || socket.mesh.is_some()
            || self.applied.seen(cgroup).is_some()
            || self.path(cgroup).is_some()
    }

    /// Path of a cgroup that exists and is part of the mesh.
    fn path(&self, cgroup: u64) -> Option<String> {
        let path = self.hierarchy.path_of(cgroup)?;
        let below = path.strip_prefix(self.hierarchy.prefix())?;
        (below.is_empty() || below.starts_with('/')).then_some(path)
    }
}

fn late(source: u32, called: &Destination, decision: Decision, dialled: SocketKey) -> Standing {
    Standing::Denied(Late {
        source,
        service: called.service,
        frontend: called.frontend,
        rule: decision.rule,
        dialled,
    })
}

/// Whether a socket without a note is the server's end. The kernel does not say: an accepted
/// socket shares its port with a listener, and its peer's port is one the kernel gave.
///
/// `outside` is whether the peer is nothing of the mesh's. Then a port that the kernel does not
/// give to clients is taken for a server's too: its listener may be closed by now.
fn is_server_side(socket: &Socket, place: &Place, outside: bool) -> bool {
    const SYN_RECV: u8 = 3;
    if socket.remote.protocol == IPPROTO_UDP {
        return false;
    }
    if socket.mesh.is_some() {
        // Only `socket()` and `connect()` leave a note, never `accept()`.
        return false;
    }
    let shared = place.listening.contains(&socket.local.port);
    if outside {
        return shared || !place.ephemeral.contains(&socket.local.port);
    }
    socket.state == SYN_RECV || shared && place.ephemeral.contains(&socket.remote.port)
}
