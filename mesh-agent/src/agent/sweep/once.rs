//! One look at every flow of the host.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

use mesh_common::{DenialRecord, Hook, IPPROTO_TCP, Reason, SocketKey, Subject, Verdict};

use super::Findings;
use crate::agent::inbound::{Found, Inbound, Suspect};
use crate::agent::leaving::{Counts, Leavers};
use crate::agent::{Agent, Current, lock, since_boot};
use crate::dataplane::netns::{Netns, client_ports};
use crate::dataplane::{
    Aborted, KINDS, Late, Leaving, Place, SockDiag, Socket, Standing, Usher, Wanted, state,
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
    /// The namespace that is being looked at.
    pub(super) netns: u64,
    /// The agent's own.
    pub(super) own: u64,
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
        // Its own first: it is where most flows are.
        self.own = own.inode;
        self.visit(own.inode, Self::namespace);
        let others = self.others();
        for inode in &others {
            self.visit(*inode, Self::namespace);
        }
        let Found {
            certain,
            again,
            unsure,
        } = self.inbound.end();
        self.findings.uncut += unsure;
        let abroad: BTreeSet<u64> = certain.iter().map(|suspect| suspect.netns).collect();
        for inode in others.iter().filter(|inode| abroad.contains(inode)) {
            self.visit(*inode, |sweep| sweep.cut_suspects(&certain));
        }
        self.visit(own.inode, |sweep| sweep.cut_suspects(&certain));
        again
    }

    /// All namespaces but its own.
    fn others(&mut self) -> Vec<u64> {
        let mut others = match self.agent.usher().and_then(Usher::all) {
            Ok(all) => all,
            Err(error) => {
                self.unreached(&error);
                Vec::new()
            }
        };
        others.retain(|inode| *inode != self.own);
        others
    }

    /// Does something in a network namespace, if it still exists.
    fn visit(&mut self, inode: u64, what: impl FnOnce(&mut Self) -> io::Result<()>) {
        self.netns = inode;
        match what(self) {
            // It is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound && inode != self.own => {}
            Err(error) => self.unreached(&error),
            Ok(()) => {}
        }
    }

    /// A socket to look into the namespace with, and the ports that clients get there.
    fn diag(&self) -> io::Result<(SockDiag, RangeInclusive<u16>)> {
        if self.netns == self.own {
            return Ok((SockDiag::open()?, client_ports()));
        }
        let (socket, ports) = self.agent.usher()?.diag(self.netns)?;
        Ok((SockDiag::on(socket), ports))
    }

    /// Cuts those of this namespace.
    fn cut_suspects(&mut self, suspects: &[Suspect]) -> io::Result<()> {
        let here: Vec<_> = suspects.iter().filter(|s| s.netns == self.netns).collect();
        if here.is_empty() {
            return Ok(());
        }
        let (mut abort, _) = self.diag()?;
        let mut pass = Pass::default();
        for suspect in here {
            self.cut(&suspect.socket, &suspect.late, &mut abort, &mut pass);
        }
        self.findings.uncut += pass.uncut;
        Ok(())
    }

    fn unreached(&mut self, error: &io::Error) {
        self.findings.unreached += 1;
        self.findings.why_unreached = error.to_string();
    }

    /// Looks at the flows of the namespace.
    fn namespace(&mut self) -> io::Result<()> {
        let ((mut list, ephemeral), (mut abort, _)) = (self.diag()?, self.diag()?);
        let place = Place {
            own: self.netns == self.own,
            listening: listening(&mut list)?,
            ephemeral,
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
