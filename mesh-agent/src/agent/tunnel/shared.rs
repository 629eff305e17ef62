//! What all workers have in common, and what they tell.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use mesh_common::{Hook, Reason, Verdict};
use tokio::sync::watch;

use super::super::calls::Calls;
use super::pulse::Pulse;
use super::view::View;
use super::wanted::Wanted;
use crate::identity::Store;
use crate::telemetry::denials::DenialView;
use crate::telemetry::time::unix_seconds;
use crate::tunnel::{AdmissionCounters, Broken, End, PoolCounters};

/// Most records that one worker makes in a second; what is more is counted only.
const RECORDS_A_SECOND: u32 = 50;

/// Whether flows are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// They are.
    #[default]
    Running,
    /// Those that are there may end by themselves until then.
    Draining(Instant),
}

/// See the module.
pub(super) struct Shared {
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) store: Store,
    pub(super) wanted: Arc<Wanted>,
    pub(super) pulse: Pulse,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) counters: Counters,
    pub(super) admission: Arc<AdmissionCounters>,
    pub(super) pool: Arc<PoolCounters>,
    /// The port of other nodes' agents.
    pub(super) port: u16,
    /// Requests of calls to other nodes.
    pub(super) calls: Arc<Calls>,
    /// Connections that a worker keeps ready at most.
    pub(super) warm: usize,
    /// Takes records.
    pub(super) note: Box<dyn Fn(DenialView) + Send + Sync>,
}

impl Shared {
    /// What the newest policy says.
    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }
}

/// What is counted, over all workers.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Handshakes that were made, as a server.
    pub(super) server_handshakes: AtomicU64,
    /// Handshakes that failed, as a server.
    pub(super) server_failures: AtomicU64,
    /// Sessions that were cut because their peer is no longer trusted or no longer a node.
    pub(super) revoked: AtomicU64,
    /// Flows to other nodes that are open.
    pub(super) outbound: AtomicU64,
    /// Flows from other nodes that are open.
    pub(super) inbound: AtomicU64,
    /// Flows that have ended, and sessions of other nodes.
    pub(super) ended: AtomicU64,
    /// Connections to an outbound listener that the kernel did not send there.
    pub(super) strays: AtomicU64,
    /// Flows refused because there were too many.
    pub(super) overload: AtomicU64,
    /// Flows that ended because the connection between the agents did.
    pub(super) broken: AtomicU64,
    /// Records that were not made because there were too many.
    pub(super) unrecorded: AtomicU64,
}

impl Counters {
    /// Counts a flow that ended for another reason than it should.
    pub(super) fn ended_by(&self, end: &End) {
        if matches!(end, End::Broken(broken) if *broken != Broken::Cut) {
            count(&self.broken);
        }
    }
}

/// Counts a flow that is open, as long as it is held.
pub(super) struct Lasting<'c> {
    open: &'c AtomicU64,
    ended: &'c AtomicU64,
}

impl<'c> Lasting<'c> {
    pub(super) fn outbound(counters: &'c Counters) -> Self {
        Self::new(&counters.outbound, counters)
    }

    pub(super) fn inbound(counters: &'c Counters) -> Self {
        Self::new(&counters.inbound, counters)
    }

    fn new(open: &'c AtomicU64, counters: &'c Counters) -> Self {
        count(open);
        Self {
            open,
            ended: &counters.ended,
        }
    }
}

impl Drop for Lasting<'_> {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
        count(self.ended);
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// Something that a worker refused.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) reason: Reason,
    /// Who called, as far as is known.
    pub(super) source: String,
    /// Who was called, as far as is known.
    pub(super) destination: String,
    /// The endpoint, or the other node's agent.
    pub(super) dialled: Option<SocketAddr>,
    /// Where it came from, if that was another host.
    pub(super) peer: Option<SocketAddr>,
    /// What was wrong and what to do.
    pub(super) detail: String,
}

impl Refused {
    fn view(self) -> DenialView {
        DenialView {
            time_unix_seconds: unix_seconds(SystemTime::now()),
            verdict: Verdict::Denied.name().into(),
            reason: self.reason.name().into(),
            rule: "-".into(),
            source_service: self.source,
            destination_service: self.destination,
            dialled: self
                .dialled
                .map_or_else(|| "-".into(), |dialled| dialled.to_string()),
            protocol: "tcp".into(),
            // Without the port, or every attempt were another record.
            peer: self.peer.map(|peer| peer.ip().to_string()),
            pid: std::process::id(),
            comm: "mesh-agent".into(),
            hook: Hook::Tunnel.name().into(),
            detail: Some(self.detail),
            count: 1,
            ..DenialView::default()
        }
    }
}

/// Makes records, but not too many.
#[derive(Debug)]
pub(super) struct Recorder {
    since: Instant,
    made: u32,
}

impl Recorder {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            made: 0,
        }
    }

    pub(super) fn record(&mut self, shared: &Shared, refused: Refused) {
        if self.since.elapsed() >= Duration::from_secs(1) {
            *self = Self::new();
        }
        if self.made >= RECORDS_A_SECOND {
            count(&shared.counters.unrecorded);
            return;
        }
        self.made += 1;
        (shared.note)(refused.view());
    }
}
