//! The binary interface between the kernel programs (`mesh-ebpf`) and the agent (`mesh-agent`).
//!
//! Comes in: nothing. Goes out: the keys and values of every map, the codes that both sides
//! name, and the glob matcher that both sides run.
//!
//! Layout rules: `#[repr(C)]`, integers and byte arrays only (no `bool`, no `enum`, no `usize`),
//! padding spelled out and zero, sizes asserted beside each type. Addresses are 16 bytes,
//! IPv4-mapped where they are IPv4; ports and all other integers are in host order. Any change
//! of layout or meaning raises [`ABI_VERSION`], which names the directory the pins live in.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

mod address;
mod code;
mod destination;
mod identity;
mod policy;
mod record;
mod selector;
mod socket;
mod split;
mod stats;

pub use address::{Address, IPPROTO_TCP, IPPROTO_UDP, SocketKey};
pub use code::{Counter, Hook, Reason, Verdict};
pub use destination::{Destination, destination_flag};
pub use identity::{CgroupIdentity, Subject, SubjectInfo, subject_flag};
pub use policy::{Active, EgressKey, PolicyHeader, RuleKey, RuleSlots, SLOTS, header_flag};
pub use record::DenialRecord;
pub use selector::{
    Glob, MAX_PATH, MAX_PATTERN, Selector, Step, glob_step, selector_kind, unit_span,
};
pub use socket::{SocketState, UDP_FLOWS, UdpFlow, UdpFlows, socket_flag};
pub use split::{
    AffinityKey, AffinityValue, EndpointEntry, MAX_SCHEDULE, ScheduleSlot, Split, SplitKey,
    endpoint_flag,
};
pub use stats::{CONNECT_BUCKETS, DecisionKey, FlowKey, FlowStats, bucket_of};

/// Version of this interface; pins live under `<bpffs>/mesh/<ABI_VERSION>/`.
pub const ABI_VERSION: u32 = 1;

/// Values of the read-only data the agent sets before the programs are loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Cookie of the network namespace in which loopback endpoints live: the agent's own.
    pub netns_cookie: u64,
}
const _: () = assert!(size_of::<Settings>() == 8);

/// Marks types whose every byte pattern is valid and that have no hidden padding.
#[cfg(feature = "user")]
macro_rules! pod {
    ($($type:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)`, integers and byte arrays only, padding explicit (see above).
            unsafe impl aya::Pod for $type {}
        )+
    };
}
#[cfg(feature = "user")]
pod!(
    Active,
    Address,
    AffinityKey,
    AffinityValue,
    CgroupIdentity,
    DecisionKey,
    Destination,
    EgressKey,
    EndpointEntry,
    FlowKey,
    FlowStats,
    PolicyHeader,
    RuleKey,
    RuleSlots,
    ScheduleSlot,
    Selector,
    Settings,
    SocketKey,
    Split,
    SplitKey,
    SubjectInfo,
);
