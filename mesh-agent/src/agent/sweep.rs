//! The sweep: after a change of the policy, established flows are judged again, and those that
//! are no longer allowed are cut.
//!
//! Comes in: that a policy is in force. Goes out: aborted sockets, late denials, what is left of
//! flows to endpoints that leave. One thread: nothing here is urgent enough for more.

mod once;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::once::Sweep;
use super::inbound::Inbound;
use super::leaving::{Counts, Leavers};
use super::{Agent, lock};
use crate::dataplane::can_abort;

/// When flows are looked at again after a change. A `connect()` that was judged under the old
/// policy just before may make its socket visible a moment later.
const AGAIN: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];
/// How often flows are looked at without a change, for what was missed.
const REGULARLY: Duration = Duration::from_secs(30);

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
        own: 0,
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
