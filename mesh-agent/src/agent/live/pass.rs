//! One look at every open flow of the mesh.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use mesh_common::{FlowEnd, FlowEvent, FlowKey, FlowRecord, IPPROTO_TCP, SocketKey, socket_flag};

use super::sums::Moved;
use crate::agent::since_boot;
use crate::dataplane::netns::Netns;
use crate::dataplane::{KINDS, SockDiag, Socket, Usher, Wanted, state};

/// Most flows that are looked at.
const MOST: usize = 16_384;
/// Most records of one look: those of the flows that moved the most bytes since their last one.
const RECORDS: usize = 100;

/// What each flow had moved when it was recorded last, by cookie; `None` if it never was.
pub(super) type Known = HashMap<u64, Option<u64>>;

/// What was found.
#[derive(Default)]
pub(super) struct Pass {
    pub(super) moved: HashMap<FlowKey, Moved>,
    pub(super) known: Known,
    pub(super) records: Vec<FlowRecord>,
    pub(super) skipped: u64,
    pub(super) unseen: u64,
}

/// What a look is for.
struct Look<'k> {
    epoch: u32,
    now_ns: u64,
    /// Younger flows are not recorded: their end tells all.
    age_ns: u64,
    before: &'k Known,
    /// With how much each has moved since the last one of it.
    records: Vec<(u64, FlowRecord)>,
    pass: Pass,
}

impl Pass {
    /// Looks at the flows of all network namespaces.
    pub(super) fn of(
        sockets: &OwnedFd,
        usher: io::Result<&Usher>,
        epoch: u64,
        age: Duration,
        before: &Known,
    ) -> io::Result<Self> {
        let mut look = Look {
            epoch: epoch as u32,
            now_ns: since_boot().as_nanos() as u64,
            age_ns: age.as_nanos() as u64,
            before,
            records: Vec::new(),
            pass: Self::default(),
        };
        look.namespace(SockDiag::open()?, sockets)?;
        look.others(usher?, sockets)?;
        Ok(look.finish())
    }
}

impl Look<'_> {
    /// All namespaces but the agent's own. One that is gone or cannot be entered is left out: its
    /// flows are counted when they close.
    fn others(&mut self, usher: &Usher, sockets: &OwnedFd) -> io::Result<()> {
        let own = Netns::current()?.inode;
        let namespaces = usher.all()?;
        for inode in namespaces.into_iter().filter(|inode| *inode != own) {
            if let Ok((socket, _)) = usher.diag(inode) {
                self.namespace(SockDiag::on(socket), sockets)?;
            }
        }
        Ok(())
    }

    fn namespace(&mut self, mut list: SockDiag, sockets: &OwnedFd) -> io::Result<()> {
        let wanted = Wanted {
            states: state::FLOWS,
            storage: Some(sockets.as_fd()),
            info: true,
        };
        for kind in KINDS.iter().filter(|kind| kind.protocol == IPPROTO_TCP) {
            list.dump(*kind, wanted, |batch| {
                batch.iter().for_each(|socket| self.socket(socket));
            })?;
        }
        Ok(())
    }

    fn socket(&mut self, socket: &Socket) {
        let Some(record) = self.record(socket) else {
            return;
        };
        if self.pass.known.len() >= MOST {
            self.pass.unseen += 1;
            return;
        }
        let last = self.before.get(&record.cookie).copied().flatten();
        // A list that changes while it is read may have a socket twice.
        if self.pass.known.insert(record.cookie, last).is_some() {
            return;
        }
        let key = FlowKey {
            source: record.source,
            service: record.service,
            version: record.version,
            protocol: record.protocol,
        };
        let moved = self.pass.moved.entry(key).or_default();
        moved.sent += record.sent_bytes;
        moved.received += record.received_bytes;
        moved.retransmits += u64::from(record.retransmits);
        let since = moved_bytes(&record).saturating_sub(last.unwrap_or(0));
        if record.duration_ns >= self.age_ns && (since > 0 || last.is_none()) {
            self.records.push((since, record));
        }
    }

    /// The flow of a socket, if it is the mesh's and open.
    fn record(&self, socket: &Socket) -> Option<FlowRecord> {
        const OPEN: u32 = socket_flag::FLOW | socket_flag::OPEN;
        let (flow, info) = (socket.mesh?, socket.info?);
        if flow.flags & OPEN != OPEN || flow.epoch != self.epoch {
            return None;
        }
        // The kernel counts sequence numbers, of which SYN and FIN take one each.
        let fin_sent = u64::from(socket.state == state::FIN_WAIT2);
        let fin_received = u64::from(flow.flags & socket_flag::FIN_RECEIVED != 0);
        let redirected = flow.flags & socket_flag::REDIRECTED != 0;
        let connect_ns = flow.opened_ns.saturating_sub(flow.connect_ns);
        Some(FlowRecord {
            time_ns: self.now_ns,
            cookie: socket.id.cookie(),
            cgroup: flow.creator_cgroup,
            connect_ns: if redirected { 0 } else { connect_ns },
            duration_ns: self.now_ns.saturating_sub(flow.opened_ns),
            sent_bytes: info.acked.saturating_sub(1 + fin_sent),
            received_bytes: info.received.saturating_sub(fin_received),
            retransmits: info.retransmits,
            srtt_us: if redirected { 0 } else { info.rtt_us },
            source: flow.source,
            service: flow.service,
            frontend: flow.frontend,
            version: flow.version,
            target: flow.target,
            rule: flow.rule,
            revision: flow.revision,
            epoch: flow.epoch,
            pid: flow.pid,
            uid: flow.creator_uid,
            local: socket.local,
            dialled: SocketKey::new(flow.dialled, flow.dialled_port, IPPROTO_TCP),
            endpoint: SocketKey::new(flow.endpoint, flow.endpoint_port, IPPROTO_TCP),
            event: FlowEvent::Updated.0,
            end: FlowEnd::None.0,
            verdict: flow.verdict,
            reason: flow.reason,
            protocol: flow.tcp_series().protocol,
            _pad: 0,
        })
    }

    fn finish(mut self) -> Pass {
        self.records.sort_by_key(|(since, _)| Reverse(*since));
        self.pass.skipped = self.records.len().saturating_sub(RECORDS) as u64;
        let most = self.records.into_iter().take(RECORDS);
        self.pass.records = most.map(|(_, record)| record).collect();
        for record in &self.pass.records {
            let told = Some(moved_bytes(record));
            self.pass.known.insert(record.cookie, told);
        }
        self.pass
    }
}

fn moved_bytes(record: &FlowRecord) -> u64 {
    record.sent_bytes + record.received_bytes
}
