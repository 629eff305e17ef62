//! One look at every flow of the host.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Instant;

use mesh_common::{DenialRecord, Hook, IPPROTO_TCP, Reason, SocketKey, Subject, Verdict};

use super::Findings;
use crate::agent::inbound::{Found, Inbound, Suspect};
use crate::agent::leaving::{Counts, Leavers};
use crate::agent::{Agent, Current, lock, since_boot};
use crate::dataplane::netns::{self, Netns};
use crate::dataplane::{
    Aborted, KINDS, Late, Leaving, Place, SockDiag, Socket, Standing, Wanted, state,
};

/// Most times a list is read again because sockets were cut while it was read: those behind
/// them may have been skipped.
const PASSES: usize = 8;
/// Most versions that closed flows are counted for.
const MOST_SERIES: usize = 1024;

/// One sweep.
pub(super) struct Sweep<'a> {
    pub(super) agent: &'a Agent,
    pub(super) current: &'a Current,
    pub(super) leavers: &'a mut Leavers,
    pub(super) inbound: &'a mut Inbound,
    pub(super) sockets: &'a OwnedFd,
    /// The namespace the thread is in.
    pub(super) netns: u64,
    pub(super) findings: Findings,
}

/// What one reading of a list found.
#[derive(Default)]
struct Pass {
    cut: u64,
    /// Not found when it came to cutting them.
    missed: u64,
    uncut: u64,
    remaining: Counts,
}

impl Sweep<'_> {
    /// Looks at all of them; whether that should be done again soon.
    pub(super) fn all_namespaces(&mut self) -> bool {
        let own = match Netns::current() {
            Ok(own) => own,
            Err(error) => {
                self.unreached(&error);
                return false;
            }
        };
        let mut namespaces = netns::all();
        namespaces.remove(&own.inode);
        // Its own first: it is where most flows are.
        self.netns = own.inode;
        self.namespace(true);
        for (inode, path) in &namespaces {
            self.visit(*inode, path, |sweep| sweep.namespace(false));
        }
        let Found {
            certain,
            again,
            unsure,
        } = self.inbound.end();
        self.findings.uncut += unsure;
        let abroad: BTreeSet<u64> = certain.iter().map(|suspect| suspect.netns).collect();
        for (inode, path) in namespaces
            .iter()
            .filter(|(inode, _)| abroad.contains(inode))
        {
            self.visit(*inode, path, |sweep| sweep.cut_suspects(&certain));
        }
        if let Err(error) = own.enter() {
            self.unreached(&error);
            return again;
        }
        self.netns = own.inode;
        self.cut_suspects(&certain);
        again
    }

    /// Does something in another network namespace, if it still exists.
    fn visit(&mut self, inode: u64, path: &Path, what: impl FnOnce(&mut Self)) {
        let Some(netns) = netns::open(inode, path) else {
            return;
        };
        match netns.enter() {
            Ok(()) => {
                self.netns = inode;
                what(self);
            }
            Err(error) => self.unreached(&error),
        }
    }

    /// Cuts those of this namespace.
    fn cut_suspects(&mut self, suspects: &[Suspect]) {
        let here: Vec<_> = suspects.iter().filter(|s| s.netns == self.netns).collect();
        if here.is_empty() {
            return;
        }
        let mut abort = match SockDiag::open() {
            Ok(abort) => abort,
            Err(error) => return self.unreached(&error),
        };
        let mut pass = Pass::default();
        for suspect in here {
            self.cut(&suspect.socket, &suspect.late, &mut abort, &mut pass);
        }
        self.findings.uncut += pass.uncut;
    }

    fn unreached(&mut self, error: &io::Error) {
        self.findings.unreached += 1;
        self.findings.why_unreached = error.to_string();
    }

    /// Looks at the flows of the namespace the thread is in.
    fn namespace(&mut self, own: bool) {
        if let Err(error) = self.try_namespace(own) {
            self.unreached(&error);
        }
    }

    fn try_namespace(&mut self, own: bool) -> io::Result<()> {
        let (mut list, mut abort) = (SockDiag::open()?, SockDiag::open()?);
        let place = Place {
            own,
            listening: listening(&mut list)?,
            ephemeral: ephemeral(),
        };
        for kind in KINDS {
            for number in 1.. {
                let mut pass = Pass::default();
                let wanted = Wanted {
                    states: state::FLOWS,
                    storage: Some(self.sockets.as_fd()),
                    info: false,
                };
                list.dump(kind, wanted, |batch| {
                    self.batch(batch, &place, &mut abort, &mut pass);
                })?;
                let settled = pass.cut == 0 && (pass.missed == 0 || number > 1);
                if settled || number == PASSES {
                    self.findings.uncut += pass.uncut + pass.missed;
                    for (key, flows) in pass.remaining {
                        *self.findings.remaining.entry(key).or_default() += flows;
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    fn batch(&mut self, batch: &[Socket], place: &Place, abort: &mut SockDiag, pass: &mut Pass) {
        for (socket, standing) in self.judged(batch, place) {
            match standing {
                Standing::Fine => {}
                Standing::Denied(late) => self.cut(&socket, &late, abort, pass),
                Standing::Leaving(leaving) => self.leaving(&socket, &leaving, abort, pass),
                Standing::Inbound(late) => self.inbound.suspect(Suspect {
                    netns: self.netns,
                    socket,
                    late,
                }),
            }
        }
    }

    /// Those of `batch` that something is to be done about.
    fn judged(&mut self, batch: &[Socket], place: &Place) -> Vec<(Socket, Standing)> {
        let mut dataplane = lock(&self.agent.dataplane);
        let mut judge = match dataplane.flow_judge() {
            Ok(Some(judge)) => judge,
            Ok(None) => return Vec::new(),
            Err(error) => {
                tracing::error!(%error, "cannot judge established flows");
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for socket in batch {
            if judge.calls_across(socket, place) {
                self.inbound.client(socket);
            }
            match judge.standing(socket, place) {
                Standing::Fine => {}
                standing => found.push((*socket, standing)),
            }
        }
        found
    }

    fn cut(&mut self, socket: &Socket, late: &Late, abort: &mut SockDiag, pass: &mut Pass) {
        match self.abort(socket, abort) {
            Some(Aborted::Yes) => {
                pass.cut += 1;
                if !lock(&self.agent.dataplane).count_late(late) {
                    self.findings.unseried += 1;
                }
                self.agent.record(Some(record(socket, late)));
            }
            Some(Aborted::NotFound) => pass.missed += 1,
            Some(Aborted::Unsupported) | None => pass.uncut += 1,
        }
    }

    fn leaving(
        &mut self,
        socket: &Socket,
        leaving: &Leaving,
        abort: &mut SockDiag,
        pass: &mut Pass,
    ) {
        let key = (leaving.service, leaving.version);
        let mode = self.current.on_weight_change.get(&leaving.service);
        let mode = mode.copied().unwrap_or_default();
        let due = self.leavers.is_due(leaving, mode, Instant::now());
        match due.then(|| self.abort(socket, abort)) {
            Some(Some(Aborted::Yes)) => self.closed(key),
            Some(Some(Aborted::NotFound)) => {}
            _ => *pass.remaining.entry(key).or_default() += 1,
        }
    }

    /// Counts a flow that was closed; beyond a bound, without its service.
    fn closed(&mut self, key: (u32, u32)) {
        let closed = &mut self.findings.closed;
        let room = closed.len() < MOST_SERIES || closed.contains_key(&key);
        let key = if room { key } else { (0, 0) };
        *closed.entry(key).or_default() += 1;
    }

    fn abort(&mut self, socket: &Socket, abort: &mut SockDiag) -> Option<Aborted> {
        match abort.abort(socket) {
            Ok(aborted) => {
                if aborted == Aborted::Unsupported {
                    self.findings.supported = Some(false);
                }
                Some(aborted)
            }
            Err(error) => {
                tracing::debug!(%error, ?socket, "cannot cut a flow");
                None
            }
        }
    }
}

/// The TCP ports that are listened on.
fn listening(list: &mut SockDiag) -> io::Result<HashSet<u16>> {
    let mut ports = HashSet::new();
    let wanted = Wanted {
        states: state::LISTEN,
        storage: None,
        info: false,
    };
    for kind in KINDS.iter().filter(|kind| kind.protocol == IPPROTO_TCP) {
        list.dump(*kind, wanted, |batch| {
            ports.extend(batch.iter().map(|socket| socket.local.port));
        })?;
    }
    Ok(ports)
}

/// The ports that clients get from the kernel in this namespace.
fn ephemeral() -> std::ops::RangeInclusive<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let range = range.unwrap_or_default();
    let mut bounds = range.split_whitespace().map(str::parse);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        _ => 32_768..=60_999,
    }
}

/// A late denial as the kernel side would record it. Which process uses a socket by now the
/// kernel does not tell.
fn record(socket: &Socket, late: &Late) -> DenialRecord {
    DenialRecord {
        time_ns: since_boot().as_nanos() as u64,
        cgroup: socket.cgroup.unwrap_or_default(),
        uid: socket.uid,
        source: late.source,
        service: late.service,
        frontend: late.frontend,
        rule: late.rule,
        dialled: late.dialled,
        peer: if late.source == Subject::OUTSIDE.0 {
            socket.remote
        } else {
            SocketKey::default()
        },
        verdict: Verdict::Denied.0,
        reason: Reason::LateDenial.0,
        hook: Hook::Sweep.0,
        ..DenialRecord::default()
    }
}
