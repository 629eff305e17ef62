//! Who calls, and what each must get.

use anyhow::Result;

use super::Progress;
use crate::names::address;
use crate::peer::{After, Dial, Outcome, Way};
use crate::sandbox::Sandbox;
use crate::{Peer, kernel};

/// Calls between two looks at the clock.
const BATCH: u32 = 250;

/// A process and what its calls must come to.
pub(super) struct Caller {
    peer: Peer,
    dial: Dial,
    allowed: bool,
}

impl Caller {
    pub(super) fn all(sandbox: &Sandbox) -> Result<Vec<Self>> {
        let new = |unit: &str, dial: Dial, allowed: bool| {
            let peer = Peer::spawn(&sandbox.cgroup, &format!("system.slice/{unit}.service"))?;
            let mut dial = dial.then(After::Abort).times(BATCH);
            if !allowed {
                dial.payload.clear();
            }
            Ok(Self {
                peer,
                dial,
                allowed,
            })
        };
        let vip = address("10.96.0.10:80");
        let udp = address("10.96.0.10:53");
        [
            new("checkout", Dial::tcp(vip), true),
            new("checkout-udp", Dial::udp(udp).by(Way::SendTo), true),
            new("intruder", Dial::tcp(vip), false),
            new(
                "intruder-around",
                Dial::tcp(address("127.0.0.1:8081")),
                false,
            ),
            new(
                "intruder-six",
                Dial::tcp(address("[::ffff:127.0.0.1]:8082")),
                false,
            ),
            new("intruder-udp", Dial::udp(udp).by(Way::SendTo), false),
        ]
        .into_iter()
        .collect()
    }

    pub(super) fn call_until_done(mut self, progress: &Progress) -> Result<()> {
        while !progress.done() {
            for outcome in self.peer.dial(self.dial.clone())? {
                check(&outcome, self.allowed, progress);
            }
            progress.made(BATCH.into());
        }
        Ok(())
    }
}

fn check(outcome: &Outcome, allowed: bool, progress: &Progress) {
    let right = if allowed {
        outcome.failure.is_none() && matches!(outcome.answered(), "v1" | "v2")
    } else {
        outcome.errno() == Some("EPERM")
    };
    if !right {
        progress.wrong(&format!("allowed: {allowed}, but {outcome:?}"));
    }
}

/// Services that start, call as the first thing they do, and end with their cgroups.
pub(super) fn fresh_cgroups(sandbox: &Sandbox, progress: &Progress) -> Result<()> {
    for number in 0u64.. {
        if progress.done() {
            break;
        }
        let allowed = number % 2 == 0;
        let unit = if allowed { "checkout" } else { "intruder" };
        let name = format!("system.slice/{unit}-{number}.service");
        let mut peer = Peer::spawn(&sandbox.cgroup, &name)?;
        let outcome = peer.dial_once(Dial::tcp(address("10.96.0.10:80")))?;
        check(&outcome, allowed, progress);
        progress.made(1);
        drop(peer);
        kernel::remove_cgroup(&sandbox.cgroup.path().join(&name))?;
    }
    Ok(())
}
