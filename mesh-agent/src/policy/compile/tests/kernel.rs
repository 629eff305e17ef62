//! The kernel side's lookups, on entries instead of maps: the same steps in the same order as
//! `mesh-ebpf/src/verdict.rs` and `choose.rs`.

use std::net::IpAddr;

use mesh_common::{
    DEFAULT_RULE, Destination, EndpointEntry, PrefixKey, RuleKey, RuleSlots, ScheduleSlot,
    SocketKey, Split, SplitKey, Subject, SubjectInfo, Verdict, destination_flag, subject_flag,
};

use super::{Entries, address};

/// The maps of one slot.
pub(super) struct Kernel<'e>(pub(super) &'e Entries);

fn find<K: Ord, V: Copy>(entries: &[(K, V)], key: &K) -> Option<V> {
    let found = entries.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
    Some(entries[found].1)
}

/// The longest prefix that covers `key`, as the kernel's trie finds it.
fn find_longest(entries: &[((u32, PrefixKey), RuleSlots)], key: &PrefixKey) -> Option<RuleSlots> {
    let covering = entries
        .iter()
        .filter(|((bits, prefix), _)| common_bits(&bytes(prefix), &bytes(key)) >= *bits);
    covering
        .max_by_key(|((bits, _), _)| *bits)
        .map(|(_, slots)| *slots)
}

fn bytes(key: &PrefixKey) -> Vec<u8> {
    [&key.owner[..], &key.port, &key._pad, &key.address].concat()
}

fn common_bits(a: &[u8], b: &[u8]) -> u32 {
    let mut bits = 0;
    for (a, b) in a.iter().zip(b) {
        let same = (a ^ b).leading_zeros();
        bits += same;
        if same < 8 {
            break;
        }
    }
    bits
}

impl Kernel<'_> {
    pub(super) fn destination(&self, ip: IpAddr, port: u16, protocol: u8) -> Option<Destination> {
        let key = SocketKey::new(address(ip), port, protocol);
        find(&self.0.destinations, &key)
    }

    fn subject(&self, subject: u32) -> SubjectInfo {
        if subject < Subject::FIRST_NAMED {
            return SubjectInfo::default();
        }
        find(&self.0.subjects, &subject).expect("every caller has its entry")
    }

    /// Verdict and rule on a call to a destination.
    pub(super) fn judge(&self, subject: u32, destination: &Destination) -> (Verdict, u32) {
        let mut rules = RuleSlots::default();
        let has = |flag| destination.flags & flag != 0;
        let mut namespace = self.subject(subject).namespace;
        if !has(destination_flag::NAMESPACE_RULES) {
            namespace = 0;
        }
        let any = if has(destination_flag::ANY_RULES) {
            Subject::ANY.0
        } else {
            0
        };
        for caller in [subject, namespace, any] {
            let key = RuleKey {
                subject: caller,
                frontend: destination.frontend,
            };
            if caller != 0
                && let Some(found) = find(&self.0.rules, &key)
            {
                rules.merge(&found);
            }
        }
        let default_deny = destination.flags & destination_flag::DEFAULT_DENY != 0;
        rules.verdict(default_deny, DEFAULT_RULE)
    }

    /// Verdict and rule on a call that leaves the mesh.
    pub(super) fn judge_egress(&self, subject: u32, ip: IpAddr, port: u16) -> (Verdict, u32) {
        if self.subject(subject).flags & subject_flag::EGRESS_DENY == 0 {
            return (Verdict::Allowed, 0);
        }
        let mut rules = RuleSlots::default();
        for port in [port, 0] {
            let key = PrefixKey::new(subject, port, address(ip).0);
            if let Some(found) = find_longest(&self.0.egress, &key) {
                rules.merge(&found);
            }
        }
        rules.verdict(true, 0)
    }

    /// Verdict and rule on a client outside the mesh.
    pub(super) fn judge_address(&self, ip: IpAddr, destination: &Destination) -> (Verdict, u32) {
        let mut rules = RuleSlots::default();
        let key = PrefixKey::new(destination.frontend, 0, address(ip).0);
        if destination.flags & destination_flag::ADDRESS_RULES != 0
            && let Some(found) = find_longest(&self.0.sources, &key)
        {
            rules = found;
        }
        let default_deny = destination.flags & destination_flag::DEFAULT_DENY != 0;
        rules.verdict(default_deny, DEFAULT_RULE)
    }

    /// The split a caller is subject to.
    pub(super) fn split(&self, subject: u32, destination: &Destination) -> Split {
        let frontend = destination.frontend;
        let mut callers = vec![];
        if destination.flags & destination_flag::CALLER_SPLITS != 0 {
            callers.push(subject);
            callers.push(self.subject(subject).namespace);
        }
        callers.push(0);
        let mut found = callers
            .into_iter()
            .filter_map(|subject| find(&self.0.splits, &SplitKey { subject, frontend }));
        found.next().expect("every frontend has a split")
    }

    /// The endpoint at a position of a split that has one.
    pub(super) fn at_position(&self, split: &Split, position: u64) -> EndpointEntry {
        let (schedule, period) = (&self.0.schedule, u64::from(split.period));
        let index = split.offset + (position % period) as u32;
        let ScheduleSlot { a: set, b: rank } = schedule[index as usize];
        if rank == ScheduleSlot::ENDPOINT {
            return self.0.endpoints[set as usize];
        }
        let ScheduleSlot { a: size, b: visits } = schedule[set as usize];
        let nth = (position / period) * u64::from(visits) + u64::from(rank);
        let member = schedule[(set + 1 + (nth % u64::from(size)) as u32) as usize];
        self.0.endpoints[member.a as usize]
    }
}
