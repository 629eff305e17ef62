//! How the memory of `limits.memory` is divided. Pure.
//!
//! Comes in: the ceiling and how many CPUs count for themselves. Goes out: how large everything
//! may become that can grow. What verdicts depend on has its room in any case; what only tells of
//! them gets what is left, up to what it needs.

use mesh_common::http::{RequestKey, RequestStats, UnparsedKey};
use mesh_common::{DecisionKey, FlowKey, FlowStats};

use crate::telemetry::flows::CAPACITY;

/// How large everything may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// All of it, bytes.
    pub limit: u64,
    /// Records of the flow log.
    pub flow_records: usize,
    /// Series of each kind that the kernel side counts.
    pub series: u32,
    /// What is remembered of HTTP connections that the agent follows, bytes.
    pub http_bytes: usize,
    /// Connections to other nodes that are kept ready.
    pub warm_connections: usize,
    /// The policy, in the kernel and in the agent, bytes.
    pub policy_bytes: u64,
}

impl Budget {
    /// Divides `limit` bytes on a host with so many CPUs.
    ///
    /// # Errors
    ///
    /// It is too little; how much is needed, bytes.
    pub fn new(limit: u64, cpus: u32) -> Result<Self, u64> {
        let least = Self::least(cpus);
        let Some(free) = limit.checked_sub(least) else {
            return Err(least);
        };
        let grows = |least: u64, most: u64, each: u64| (least + free / 8 / each).min(most);
        let series = grows(LEAST_SERIES, MOST_SERIES, series_bytes(cpus));
        let flow_records = grows(LEAST_RECORDS, CAPACITY as u64, RECORD_BYTES);
        let http_bytes = grows(LEAST_HTTP, MOST_HTTP, 1);
        let warm = grows(LEAST_WARM, MOST_WARM, WARM_BYTES);
        let telemetry = series * series_bytes(cpus) + flow_records * RECORD_BYTES;
        let policy_bytes = limit - BASE - telemetry - http_bytes - warm * WARM_BYTES;
        Ok(Self {
            limit,
            flow_records: flow_records as usize,
            series: series as u32,
            http_bytes: http_bytes as usize,
            warm_connections: warm as usize,
            policy_bytes,
        })
    }

    /// Less than this is too little, bytes.
    pub fn least(cpus: u32) -> u64 {
        let telemetry = LEAST_SERIES * series_bytes(cpus) + LEAST_RECORDS * RECORD_BYTES;
        BASE + telemetry + LEAST_HTTP + LEAST_WARM * WARM_BYTES + LEAST_POLICY
    }
}

/// One series of each kind in the kernel: an element, and a counter for each CPU.
const fn series_bytes(cpus: u32) -> u64 {
    // Header of an element, pointer to its counters, and what the allocator rounds up to.
    const ELEMENT: usize = 96;
    let elements = 4 * ELEMENT
        + size_of::<FlowKey>()
        + size_of::<DecisionKey>()
        + size_of::<RequestKey>()
        + size_of::<UnparsedKey>();
    let counters = size_of::<FlowStats>() + 2 * size_of::<u64>() + size_of::<RequestStats>() + 8;
    elements as u64 + counters as u64 * cpus as u64
}

/// What is there in any case: the agent's code and threads, its usher, its part of the kernel's
/// ring buffers, and maps that verdicts depend on. Measured; see `cargo xtask bench memory`.
const BASE: u64 = 12 << 20;
const LEAST_SERIES: u64 = 64;
/// As many as their maps hold.
const MOST_SERIES: u64 = 4096;
const LEAST_RECORDS: u64 = 100;
/// A record of the flow log that shares nothing with others.
const RECORD_BYTES: u64 = 1024;
const LEAST_HTTP: u64 = 256 << 10;
const MOST_HTTP: u64 = 4 << 20;
const LEAST_WARM: u64 = 16;
const MOST_WARM: u64 = 4096;
/// A TLS connection and what the kernel keeps with it.
const WARM_BYTES: u64 = 6 << 10;
const LEAST_POLICY: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All that a budget allows to be there at once, bytes.
    fn sum(budget: &Budget, cpus: u32) -> u64 {
        BASE + u64::from(budget.series) * series_bytes(cpus)
            + budget.flow_records as u64 * RECORD_BYTES
            + budget.http_bytes as u64
            + budget.warm_connections as u64 * WARM_BYTES
            + budget.policy_bytes
    }

    proptest! {
        #[test]
        fn everything_fits_and_more_memory_is_never_less(
            limit in 0u64..1 << 34,
            more in 0u64..1 << 30,
            cpus in 1u32..512,
        ) {
            let least = Budget::least(cpus);
            let budget = match Budget::new(limit, cpus) {
                Ok(budget) => budget,
                Err(needed) => {
                    prop_assert!(needed == least && limit < least);
                    return Ok(());
                }
            };
            prop_assert_eq!(sum(&budget, cpus), limit);
            prop_assert!(budget.policy_bytes >= LEAST_POLICY);
            let larger = Budget::new(limit + more, cpus).expect("more than enough");
            prop_assert!(larger.flow_records >= budget.flow_records);
            prop_assert!(larger.series >= budget.series);
            prop_assert!(larger.http_bytes >= budget.http_bytes);
            prop_assert!(larger.warm_connections >= budget.warm_connections);
            prop_assert!(larger.policy_bytes >= budget.policy_bytes);
        }
    }

    #[test]
    fn the_default_is_enough_for_an_edge_host() {
        let budget = Budget::new(32 << 20, 4).expect("enough");
        assert!(budget.flow_records >= 2000, "{budget:?}");
        assert!(budget.series >= 1000, "{budget:?}");
        assert!(budget.policy_bytes >= 8 << 20, "{budget:?}");
        assert!(Budget::least(4) <= 16 << 20);
    }
}
