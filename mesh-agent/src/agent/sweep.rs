//! The sweep: after a change of the policy, established flows are judged again, and those that
//! are no longer allowed are cut.
//!
//! Comes in: that a policy is in force. Goes out: aborted sockets, late denials, what is left of
//! flows to endpoints that leave. One thread, because it moves between network namespaces.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mesh_common::{DenialRecord, Hook, IPPROTO_TCP, Reason, SocketKey, Subject, Verdict};

use super::inbound::{Found, Inbound, Suspect};
use super::leaving::{Counts, Leavers};
use super::{Agent, Current, lock, since_boot};
use crate::dataplane::netns::{self, Netns};
use crate::dataplane::{
    Aborted, KINDS, Late, Leaving, Place, SockDiag, Socket, Standing, can_abort, state,
};

/// When flows are looked at again after a change. A `connect()` that was judged under the old
/// policy just before may make its socket visible a moment later.
const AGAIN: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];
/// How often flows are looked at without a change, for what was missed.
const REGULARLY: Duration = Duration::from_secs(30);
/// Most times a list is read again because sockets were cut while it was read: those behind
/// them may have been skipped.
const PASSES: usize = 8;
/// Most versions that closed flows are counted for.
const MOST_SERIES: usize = 1024;

/// What there is to tell of sweeps.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    /// Whether this kernel can abort sockets; `None` before that is known.
    pub(super) supported: Option<bool>,
    /// Sweeps so far.
    pub(super) sweeps: u64,
    /// How long the last one took.
    pub(super) took: Duration,
    /// Network namespaces whose sockets the last one could not see, and why.
    pub(super) unreached: u64,
    pub(super) why_unreached: String,
    /// Flows that the last one could not cut.
    pub(super) uncut: u64,
    /// Flows to endpoints that leave, as the last one saw them.
    pub(super) remaining: Counts,
    /// Flows that were closed because their endpoint leaves.
    pub(super) closed: Counts,
    /// Late denials without a series because the map of series was full.
    pub(super) unseried: u64,
}

/// What the sweeper is asked for and what it found.
#[derive(Default)]
pub(super) struct Sweeps {
    asked: Mutex<Asked>,
    wake: Condvar,
    findings: Mutex<Findings>,
}

#[derive(Default)]
struct Asked {
    changed: bool,
    stop: bool,
}

impl Sweeps {
    /// Asks for sweeps because the policy has changed.
    pub(super) fn ask(&self) {
        lock(&self.asked).changed = true;
        self.wake.notify_all();
    }

    /// What was found last.
    pub(super) fn findings(&self) -> Findings {
        lock(&self.findings).clone()
    }

    fn stop(&self) {
        lock(&self.asked).stop = true;
        self.wake.notify_all();
    }

    /// Waits for `deadline` or a change, which comes first; whether it was a change. `None` at
    /// the end.
    fn wait(&self, deadline: Instant) -> Option<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        let idle = |asked: &mut Asked| !asked.changed && !asked.stop;
        let (mut asked, _) = self
            .wake
            .wait_timeout_while(lock(&self.asked), left, idle)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        (!asked.stop).then(|| std::mem::take(&mut asked.changed))
    }
}

/// The thread that sweeps; dropping it ends it.
pub struct Sweeper {
    agent: Arc<Agent>,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Starts it; the first sweep is at once.
    pub(super) fn start(agent: &Arc<Agent>) -> io::Result<Self> {
        let sockets = lock(&agent.dataplane).sockets()?;
        agent.sweeps.ask();
        let agent = Arc::clone(agent);
        let of_thread = Arc::clone(&agent);
        let thread = thread::Builder::new()
            .name("sweep".into())
            .stack_size(256 << 10)
            .spawn(move || run(&of_thread, &sockets))?;
        Ok(Self {
            agent,
            thread: Some(thread),
        })
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.agent.sweeps.stop();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that judges established flows panicked");
        }
    }
}

fn run(agent: &Agent, sockets: &OwnedFd) {
    let (mut leavers, mut inbound) = (Leavers::default(), Inbound::default());
    let mut due: Vec<Instant> = Vec::new();
    let mut next = Instant::now() + REGULARLY;
    while let Some(changed) = agent.sweeps.wait(next) {
        let now = Instant::now();
        due.retain(|at| *at > now);
        if changed {
            due = AGAIN.map(|delay| now + delay).to_vec();
        }
        leavers.begin();
        let again = sweep(agent, sockets, &mut leavers, &mut inbound);
        let leaving = leavers.end();
        due.extend(again.then(|| Instant::now() + AGAIN[0]));
        let regular = Instant::now() + REGULARLY;
        next = due
            .iter()
            .copied()
            .chain(leaving)
            .fold(regular, Instant::min);
    }
}

/// Looks at every flow of the host once; whether that should be done again soon.
fn sweep(agent: &Agent, sockets: &OwnedFd, leavers: &mut Leavers, inbound: &mut Inbound) -> bool {
    let Some(current) = agent.current() else {
        return false;
    };
    inbound.begin();
    let started = Instant::now();
    let before = agent.sweeps.findings();
    let mut sweep = Sweep {
        agent,
        current: &current,
        leavers,
        inbound,
        sockets,
        netns: 0,
        findings: Findings {
            supported: supported(&before),
            sweeps: before.sweeps + 1,
            closed: before.closed,
            unseried: before.unseried,
            ..Findings::default()
        },
    };
    let again = sweep.all_namespaces();
    let mut findings = sweep.findings;
    findings.took = started.elapsed();
    if findings.unreached > 0 && before.unreached == 0 {
        tracing::error!(
            namespaces = findings.unreached,
            error = findings.why_unreached,
            "established flows cannot be judged everywhere"
        );
    }
    *lock(&agent.sweeps.findings) = findings;
    again
}

/// Whether the kernel can abort sockets; said once if it cannot.
fn supported(before: &Findings) -> Option<bool> {
    if before.supported.is_some() {
        return before.supported;
    }
    match can_abort() {
        Ok(supported) => {
            if !supported {
                tracing::error!("this kernel cannot cut flows: it lacks CONFIG_INET_DIAG_DESTROY");
            }
            Some(supported)
        }
        Err(error) => {
            tracing::error!(%error, "cannot tell whether this kernel can cut flows");
            None
        }
    }
}

/// One sweep.
struct Sweep<'a> {
    agent: &'a Agent,
    current: &'a Current,
    leavers: &'a mut Leavers,
    inbound: &'a mut Inbound,
    sockets: &'a OwnedFd,
    /// The namespace the thread is in.
    netns: u64,
    findings: Findings,
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
    fn all_namespaces(&mut self) -> bool {
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
                let storage = Some(self.sockets.as_fd());
                list.dump(kind, state::FLOWS, storage, |batch| {
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
    for kind in KINDS.iter().filter(|kind| kind.protocol == IPPROTO_TCP) {
        list.dump(*kind, state::LISTEN, None, |batch| {
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
