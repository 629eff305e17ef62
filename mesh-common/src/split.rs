//! How an endpoint is chosen: a table walked by one counter.
//!
//! A split's table has one slot per unit of weight. A slot names a set of endpoints (one
//! version) and how many slots of that set come before it in the period, so that the running
//! number of choices of the set follows from the one counter, and picks within the set.

use crate::Address;

/// Longest period of a split, in slots.
pub const MAX_SCHEDULE: u32 = 10_000;

/// Key of a split and of its counter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SplitKey {
    /// Calling subject; 0 in the table of splits for the one that is for everyone.
    pub subject: u32,
    /// Frontend id.
    pub frontend: u32,
}
const _: () = assert!(size_of::<SplitKey>() == 8);

/// Where a split's table is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Index of the first slot.
    pub offset: u32,
    /// Number of slots; 0 when no endpoint can be chosen.
    pub period: u32,
    /// Changes whenever the table means something else; ends affinity.
    pub digest: u32,
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<Split>() == 16);

/// One element of the schedule array. Four uses:
/// in a split's table `a` is the index of a set's header and `b` the rank of this slot in it;
/// where the set is a single endpoint `a` is its index and `b` is [`ScheduleSlot::ENDPOINT`];
/// in a set's header `a` is the number of elements that follow and `b` how many slots of the
/// period name the set; in those elements `a` is an endpoint index and `b` zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScheduleSlot {
    /// See above.
    pub a: u32,
    /// See above.
    pub b: u32,
}
const _: () = assert!(size_of::<ScheduleSlot>() == 8);

impl ScheduleSlot {
    /// Marks a slot that names an endpoint and no set: no rank is this large.
    pub const ENDPOINT: u32 = u32::MAX;
}

/// An endpoint that can be chosen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointEntry {
    /// Its address.
    pub address: Address,
    /// Id of its version.
    pub version: u32,
    /// Its port, host order.
    pub port: u16,
    /// [`endpoint_flag`] bits.
    pub flags: u16,
    /// Id of an endpoint on another node, 0 for others: the address is that node's to interpret.
    pub target: u32,
}
const _: () = assert!(size_of::<EndpointEntry>() == 28);

/// Bits of [`EndpointEntry::flags`].
pub mod endpoint_flag {
    /// On this node.
    pub const THIS_NODE: u16 = 1 << 2;
    /// A loopback address: only callers in the agent's network namespace reach it.
    pub const LOOPBACK: u16 = 1;
    /// On another node.
    pub const REMOTE: u16 = 1 << 1;
}

/// Whose endpoint is kept: affinity is per calling cgroup, so that two services (or two
/// instances of one) on the same host are two clients.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// The caller's cgroup.
    pub cgroup: u64,
    /// Frontend id.
    pub frontend: u32,
    /// The caller's user id.
    pub uid: u32,
}
const _: () = assert!(size_of::<AffinityKey>() == 16);

/// The endpoint kept.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AffinityValue {
    /// When it is forgotten, nanoseconds since boot; moved on at each use.
    pub expires_ns: u64,
    /// The endpoint.
    pub endpoint: EndpointEntry,
    /// [`Split::digest`] under which it was chosen.
    pub digest: u32,
}
const _: () = assert!(size_of::<AffinityValue>() == 40);
