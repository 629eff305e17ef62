//! What a policy takes of the kernel's memory, before it is there. Pure.

use mesh_common::SLOTS;

use super::table::capacity;
use crate::policy::compile::Entries;

/// Header of a hash map's element (`struct htab_elem` in kernel/bpf/hashtab.c).
const ELEMENT: usize = 48;
/// Header of a trie's node (`struct lpm_trie_node` in kernel/bpf/lpm_trie.c).
const NODE: usize = 40;
/// A hash map's bucket.
const BUCKET: usize = 16;
/// A map without anything in it.
const MAP: usize = 4096;
/// What the allocator puts before an object (kernel/bpf/memalloc.c).
const OBJECT: usize = 8;

/// Bytes that the policy maps take which hold `entries` in both slots: the next policy is written
/// beside the one in force.
pub fn maps_bytes(entries: &Entries) -> u64 {
    let Entries {
        destinations,
        rules,
        subjects,
        uids,
        splits,
        schedule,
        endpoints,
        egress,
        sources,
        selectors,
        header_flags: _,
    } = entries;
    let all = [
        hash(destinations),
        hash(rules),
        hash(subjects),
        hash(uids),
        hash(splits),
        array(schedule),
        array(endpoints),
        trie(egress),
        trie(sources),
        array(selectors),
    ];
    all.iter().sum::<usize>() as u64 * u64::from(SLOTS)
}

fn hash<K, V>(entries: &[(K, V)]) -> usize {
    let element = ELEMENT + round(size_of::<K>()) + round(size_of::<V>());
    MAP + capacity(entries.len()) * BUCKET + entries.len() * object(element)
}

fn array<V>(entries: &[V]) -> usize {
    MAP + capacity(entries.len()) * round(size_of::<V>())
}

/// At most as many nodes again hold the tree together.
fn trie<K, V>(entries: &[(K, V)]) -> usize {
    MAP + 2 * entries.len() * object(NODE + size_of::<K>() + size_of::<V>())
}

fn round(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

/// What the kernel's allocator gives for `bytes`.
fn object(bytes: usize) -> usize {
    match bytes + OBJECT {
        ..=64 => 64,
        65..=96 => 96,
        97..=128 => 128,
        129..=192 => 192,
        more => more.next_power_of_two(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_common::{RuleKey, RuleSlots};

    #[test]
    fn more_entries_are_never_lighter() {
        let of = |count: usize| {
            let rules = vec![(RuleKey::default(), RuleSlots::default()); count];
            maps_bytes(&Entries {
                rules,
                ..Entries::default()
            })
        };
        let weights: Vec<u64> = (0..2000).step_by(7).map(of).collect();
        assert!(weights.is_sorted());
        // An element is 48 + 8 + 16 bytes, and the slots are two.
        assert!(of(1000) - of(0) >= 2 * 1000 * 72);
        assert!(of(1000) - of(0) <= 2 * 1000 * 160);
    }
}
