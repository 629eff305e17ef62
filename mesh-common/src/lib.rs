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
#[macro_use]
mod code;
mod destination;
mod flow;
pub mod http;
pub mod http2;
mod identity;
mod policy;
mod record;
mod selector;
mod socket;
mod split;
mod stats;

pub use address::{Address, IPPROTO_TCP, IPPROTO_UDP, SocketKey};
pub use code::{Counter, FlowEnd, FlowEvent, Hook, Reason, Verdict};
pub use destination::{Destination, destination_flag};
pub use flow::{FLOW_RING_BYTES, FlowRecord};
pub use identity::{CgroupIdentity, Subject, SubjectInfo, subject_flag};
pub use policy::{
    Active, DEFAULT_RULE, PolicyHeader, PrefixKey, RuleKey, RuleSlots, SLOTS, header_flag,
};
pub use record::DenialRecord;
pub use selector::{
    END, Glob, MAX_PATH, MAX_PATTERN, Selector, Step, UnitScan, glob_step, selector_kind, unit_span,
};
pub use socket::{
    ORDINARY_SOCKET, Redirect, RedirectKey, SocketState, Ticket, TicketKey, TunnelListener,
    UDP_FLOWS, UdpFlow, UdpFlows, socket_flag, socket_kind_flag,
};
pub use split::{
    AffinityKey, AffinityValue, EndpointEntry, MAX_SCHEDULE, ScheduleSlot, Split, SplitKey,
    endpoint_flag,
};
pub use stats::{
    CONNECT_BOUNDS_NS, CONNECT_BUCKETS, DURATION_BOUNDS_NS, DURATION_BUCKETS, DecisionKey,
    FIRST_BUCKET_NS, FIRST_DURATION_NS, FIRST_RTT_NS, FlowKey, FlowStats, REQUEST_BOUNDS_NS,
    REQUEST_BUCKETS, RTT_BOUNDS_NS, RTT_BUCKETS, bucket_of, duration_bucket, flow_bit, room,
    rtt_bucket,
};

/// Version of this interface; pins live under `<bpffs>/mesh/<ABI_VERSION>/`.
pub const ABI_VERSION: u32 = 5;

/// Names of the read-only globals the agent sets before the programs are loaded.
pub mod global {
    /// `u64`: cookie of the network namespace loopback endpoints live in, the agent's own.
    pub const NETNS_COOKIE: &str = "NETNS_COOKIE";
    /// `u32`: length of the path of the cgroup the mesh is limited to; 0 for the whole host.
    pub const ROOT_LENGTH: &str = "ROOT_LENGTH";
    /// `[u8; ROOT_MAX]`: that path.
    pub const ROOT: &str = "ROOT";
    /// Longest such path, bytes.
    pub const ROOT_MAX: usize = 256;
}

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
    PrefixKey,
    Redirect,
    RedirectKey,
    EndpointEntry,
    FlowKey,
    FlowStats,
    PolicyHeader,
    RuleKey,
    RuleSlots,
    ScheduleSlot,
    Selector,
    SocketKey,
    SocketState,
    Split,
    SplitKey,
    SubjectInfo,
    Ticket,
    TicketKey,
    TunnelListener,
    http::HttpSocket,
    http::RequestKey,
    http::RequestStats,
    http::UnparsedKey,
);
