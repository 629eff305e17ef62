//! Keeps the agent, its usher and its maps below their ceiling: what only tells of verdicts goes first.
//!
//! Everything that can grow has a bound (see [`Budget`]), and a policy that does not fit is refused. What
//! is done here is for what the bounds do not foresee.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use mesh_sys::memory;

use super::loaded::Loaded;
use super::{Agent, lock};
use crate::budget::Budget;
use crate::dataplane::maps_bytes;
use crate::policy::diagnostic::Diagnostic;
use crate::telemetry::status::resident_bytes;

/// What the agent needs of a policy for each byte of its text: two copies of its entries, names,
/// the parsed model, and as much again while the next one is parsed. Measured.
const BYTES_FOR_TEXT: u64 = 60;

/// See the module.
pub(super) struct Ceiling {
    pub(super) budget: Budget,
    pub(super) is_shedding: AtomicBool,
    /// How often it began.
    pub(super) times: AtomicU64,
}

impl Ceiling {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            budget,
            is_shedding: AtomicBool::new(false),
            times: AtomicU64::new(0),
        }
    }

    /// Refuses a policy that there is no room for.
    pub(super) fn admit(&self, loaded: Loaded) -> Result<Loaded, Vec<Diagnostic>> {
        let Budget {
            limit,
            policy_bytes: room,
            ..
        } = self.budget;
        let needed = needed(&loaded);
        if needed <= room {
            return Ok(loaded);
        }
        let message = format!(
            "the policy needs {} of memory, and there is room for {}",
            mebibytes(needed),
            mebibytes(room)
        );
        let enough = (limit + needed - room).div_ceil(1 << 20);
        Err(vec![Diagnostic::error("policy-too-large", message).help(format!(
            "set memory = \"{enough}MiB\" or more in [limits] of agent.toml (now {}) and restart the agent, or declare less",
            mebibytes(limit)
        ))])
    }
}

/// What a policy takes at most, in the kernel and in the agent, also while the next one is read.
pub(super) fn needed(loaded: &Loaded) -> u64 {
    let files = loaded.sources.files.iter();
    let text: usize = files.map(|file| file.text.len()).sum();
    maps_bytes(&loaded.entries) + text as u64 * BYTES_FOR_TEXT
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

impl Agent {
    /// Gives up what only tells of verdicts while memory is above the ceiling.
    pub(super) fn keep_below_ceiling(&self) {
        let maps = lock(&self.dataplane).memory();
        let used = || resident_bytes().unwrap_or_default() + self.usher_bytes() + maps;
        let limit = self.ceiling.budget.limit;
        let calm = limit - limit / 8;
        if used() > calm {
            memory::give_back();
            memory::forget_code();
        }
        let used = used();
        let is_shedding = self.ceiling.is_shedding.load(Relaxed);
        if !is_shedding && used > limit {
            self.ceiling.times.fetch_add(1, Relaxed);
            self.shed(true);
            let (used, limit) = (mebibytes(used), mebibytes(limit));
            tracing::error!(
                used,
                limit,
                "memory is above its limit: fewer flows are remembered, no new series are counted; verdicts are the same"
            );
        } else if is_shedding && used < calm {
            self.shed(false);
            let used = mebibytes(used);
            tracing::info!(used, "memory is below its limit again");
        }
    }

    /// Memory of the usher, if there is one.
    pub(super) fn usher_bytes(&self) -> u64 {
        self.usher.as_ref().map_or(0, |usher| usher.memory())
    }

    fn shed(&self, shed: bool) {
        self.ceiling.is_shedding.store(shed, Relaxed);
        let all = self.ceiling.budget.flow_records;
        self.flows.keep(if shed { all / 10 } else { all });
        if let Err(error) = lock(&self.dataplane).allow_series(!shed) {
            tracing::error!(%error, "cannot say how many series there may be");
        }
    }
}
