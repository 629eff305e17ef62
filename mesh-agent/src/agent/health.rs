//! Whether the mesh still enforces, asked every few seconds: of the kernel, which programs are
//! effective, and by a canary, a `connect()` that must fail.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::SystemTime;

use mesh_common::Address;

use super::tunnel::Tunnel;
use super::{Agent, lock};
use crate::dataplane::{Hierarchy, runs_below};
use crate::telemetry::snapshot::CanaryState;

/// The discard port: nothing is sent there either.
const PORT: u16 = 9;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// How often something was put back.
    pub(super) repairs: u64,
    /// How often the canary was not refused.
    pub(super) canary_failures: u64,
    /// How the canary was last.
    pub(super) canary: CanaryState,
    /// What was put back last, and when.
    pub(super) last: Option<(SystemTime, String)>,
    /// What could not be put back; said once.
    pub(super) error: Option<String>,
}

impl Agent {
    /// Looks whether everything is in force, and puts back what is not.
    pub(super) fn check_health(&self) {
        let repaired = lock(&self.dataplane).repair();
        let repaired = self.note_repair(repaired.map_err(|error| error.to_string()));
        let hierarchy = lock(&self.dataplane).hierarchy().clone();
        let canary = canary(&hierarchy);
        let failed = canary == CanaryState::Failed;
        {
            let mut health = lock(&self.health);
            health.canary = canary;
            health.canary_failures += u64::from(failed);
        }
        if failed {
            tracing::error!(
                "CRITICAL: a connect() that must be refused was not; enforcement is lost"
            );
        }
        if failed || repaired || self.policy_was_replaced() {
            self.reapply();
        }
    }

    /// Whether a new start would make nothing better: everybody answers, and nothing passes that must
    /// not. What cannot be put back is no reason for one, because what this process holds would go with it.
    pub(super) fn is_well(&self) -> bool {
        let answers = lock(&self.tunnel).as_ref().is_none_or(Tunnel::answers);
        let usher = self.usher.as_ref().is_none_or(|usher| usher.is_there());
        answers && usher && lock(&self.health).canary != CanaryState::Failed
    }

    /// Remembers and says what was put back; whether anything was.
    fn note_repair(&self, repaired: Result<Vec<String>, String>) -> bool {
        let mut health = lock(&self.health);
        let what = match repaired {
            Ok(what) => what,
            Err(error) => {
                if health.error.as_ref() != Some(&error) {
                    tracing::error!(error, "CRITICAL: enforcement cannot be put back");
                }
                health.error = Some(error);
                return false;
            }
        };
        health.error = None;
        if what.is_empty() {
            return false;
        }
        let what = what.join(", ");
        tracing::error!(
            what,
            "CRITICAL: somebody removed parts of the mesh; they are put back"
        );
        health.repairs += 1;
        health.last = Some((SystemTime::now(), what));
        true
    }

    /// Whether the kernel holds another policy than the one this agent has put there.
    fn policy_was_replaced(&self) -> bool {
        // Held, so that no reload comes between the two looks.
        let state = lock(&self.state);
        let Some(current) = &state.current else {
            return false;
        };
        let header = lock(&self.dataplane).header();
        !header.is_ok_and(|header| header.is_some_and(|header| header.revision == current.revision))
    }
}

/// Dials what the programs refuse to everybody.
fn canary(hierarchy: &Hierarchy) -> CanaryState {
    if !runs_below(Path::new("/proc/self"), hierarchy.prefix()) {
        return CanaryState::NotApplicable;
    }
    let v4 = Ipv4Addr::from([192, 0, 0, 8]);
    let v6 = Ipv6Addr::from(Address::CANARY_V6.0);
    let dial = |local: SocketAddr, canary: SocketAddr| {
        // Without the address family there is nothing to refuse.
        UdpSocket::bind(local).map_or(true, |socket| is_refused(&socket.connect(canary)))
    };
    let refused = dial((Ipv4Addr::UNSPECIFIED, 0).into(), (v4, PORT).into())
        && dial((Ipv6Addr::UNSPECIFIED, 0).into(), (v6, PORT).into());
    if refused {
        CanaryState::Refused
    } else {
        CanaryState::Failed
    }
}

fn is_refused(result: &io::Result<()>) -> bool {
    let errno = result.as_ref().err().and_then(io::Error::raw_os_error);
    errno == Some(nix::errno::Errno::EPERM as i32)
}
