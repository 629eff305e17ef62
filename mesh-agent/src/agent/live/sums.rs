//! Bytes of open flows in counters that never go backwards.
//!
//! What was counted at closes, and at some moment the bytes of the flows that were open then,
//! is no more than was moved until that moment. Nor is what was counted at closes until now. So
//! the larger of both is what a counter shows: it never counts a byte twice, and once all flows
//! are closed it is exact.

use std::collections::HashMap;

use mesh_common::{FlowKey, FlowStats, IPPROTO_UDP, flow_bit};

/// What flows have moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) retransmits: u64,
}

/// What counters show at least, by series.
#[derive(Debug, Default)]
pub(super) struct Sums {
    epoch: u64,
    least: HashMap<FlowKey, Moved>,
}

impl Sums {
    /// Takes in what `open` flows had moved just after `closed` was read.
    pub(super) fn take(
        &mut self,
        closed: &[(FlowKey, FlowStats)],
        open: &HashMap<FlowKey, Moved>,
        epoch: u64,
    ) {
        self.of(epoch);
        for (key, stats) in closed {
            let Some(open) = open.get(key) else { continue };
            let least = self.least.entry(*key).or_default();
            least.sent = least.sent.max(stats.sent_bytes + open.sent);
            least.received = least.received.max(stats.received_bytes + open.received);
            least.retransmits = least.retransmits.max(stats.retransmits + open.retransmits);
        }
    }

    /// Raises what was counted at closes to what was shown or known before.
    pub(super) fn raise(&mut self, flows: &mut [(FlowKey, FlowStats)], epoch: u64) {
        self.of(epoch);
        for (key, stats) in flows {
            let udp = key.protocol & flow_bit::PROTOCOL == u32::from(IPPROTO_UDP);
            let Some(least) = self.least.get(key).filter(|_| !udp) else {
                continue;
            };
            let before = (stats.sent_bytes, stats.received_bytes, stats.retransmits);
            stats.sent_bytes = stats.sent_bytes.max(least.sent);
            stats.received_bytes = stats.received_bytes.max(least.received);
            stats.retransmits = stats.retransmits.max(least.retransmits);
            if before == (stats.sent_bytes, stats.received_bytes, stats.retransmits) {
                // What is counted at closes has passed it, and only grows.
                self.least.remove(key);
            }
        }
    }

    /// Forgets everything if ids have started over: series have, too.
    fn of(&mut self, epoch: u64) {
        if self.epoch != epoch {
            self.least.clear();
            self.epoch = epoch;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: FlowKey = FlowKey {
        source: 1,
        service: 2,
        version: 3,
        protocol: 6,
    };

    fn closed(sent: u64) -> Vec<(FlowKey, FlowStats)> {
        let stats = FlowStats {
            sent_bytes: sent,
            ..FlowStats::default()
        };
        vec![(KEY, stats)]
    }

    fn open(sent: u64) -> HashMap<FlowKey, Moved> {
        let moved = Moved {
            sent,
            ..Moved::default()
        };
        HashMap::from([(KEY, moved)])
    }

    fn shown(sums: &mut Sums, sent: u64, epoch: u64) -> u64 {
        let mut flows = closed(sent);
        sums.raise(&mut flows, epoch);
        flows[0].1.sent_bytes
    }

    #[test]
    fn open_flows_count_once() {
        let mut sums = Sums::default();
        sums.take(&closed(100), &open(50), 1);
        assert_eq!(shown(&mut sums, 100, 1), 150);
        // It closes with 60.
        assert_eq!(shown(&mut sums, 160, 1), 160);
        assert!(sums.least.is_empty());
        sums.take(&closed(160), &open(7), 1);
        assert_eq!(shown(&mut sums, 3, 2), 3, "ids have started over");
    }

    proptest! {
        /// Flows send, close and are looked at in any order: what is shown never goes back, is
        /// never more than was sent, and is exact at the end.
        #[test]
        fn never_backwards_and_never_too_much(steps in prop::collection::vec((0u8..4, 0usize..5, 1u64..1000), 1..80)) {
            let mut sums = Sums::default();
            let (mut flows, mut counted, mut last) = ([0u64; 5], 0, 0);
            for (what, flow, bytes) in steps {
                match what {
                    0 => flows[flow] += bytes,
                    1 => counted += std::mem::take(&mut flows[flow]),
                    2 => {
                        let before = counted;
                        // One closes while the others are looked at.
                        counted += std::mem::take(&mut flows[flow]);
                        sums.take(&closed(before), &open(flows.iter().sum()), 1);
                    }
                    _ => {
                        let now = shown(&mut sums, counted, 1);
                        prop_assert!(now >= last);
                        prop_assert!(now <= counted + flows.iter().sum::<u64>());
                        last = now;
                    }
                }
            }
            let all = counted + flows.iter().sum::<u64>();
            prop_assert_eq!(shown(&mut sums, all, 1), all);
        }
    }
}
