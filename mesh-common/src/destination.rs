//! What an address means to the mesh.

use crate::Address;

/// The value behind a [`SocketKey`](crate::SocketKey).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// Subject id of the service.
    pub service: u32,
    /// Id of the service's port: what rules and splits are keyed by.
    pub frontend: u32,
    /// Id of the version, 0 for a VIP (the split decides).
    pub version: u32,
    /// [`destination_flag`] bits.
    pub flags: u32,
    /// How long one caller keeps its endpoint, seconds; 0 without affinity.
    pub affinity_seconds: u32,
    /// Where the endpoint is declared to be: what stands at [`Address::LOCAL`] is only meant if
    /// that is an address of this network namespace. Unspecified where several are.
    pub home: Address,
    /// Id of an endpoint on another node, 0 for others.
    pub target: u32,
}
const _: () = assert!(size_of::<Destination>() == 40);

/// Bits of [`Destination::flags`].
pub mod destination_flag {
    /// A VIP and a declared port: an endpoint is chosen.
    pub const FRONTEND: u32 = 1;
    /// An endpoint's own address: only the verdict applies.
    pub const ENDPOINT: u32 = 1 << 1;
    /// A VIP as such (port 0): a port that is not declared is refused.
    pub const VIP_ADDRESS: u32 = 1 << 2;
    /// Some caller would be denied, so every error on the way to a verdict is a denial.
    pub const PROTECTED: u32 = 1 << 3;
    /// A flow that no rule matches is refused.
    pub const DEFAULT_DENY: u32 = 1 << 4;
    /// Some split of this frontend is for particular callers.
    pub const CALLER_SPLITS: u32 = 1 << 5;
    /// Two services share this port on this host, so the address does not tell which is meant.
    pub const AMBIGUOUS: u32 = 1 << 6;
    /// The endpoint is on another node.
    pub const REMOTE: u32 = 1 << 7;
    /// Some rule of this frontend is for a namespace.
    pub const NAMESPACE_RULES: u32 = 1 << 8;
    /// Some rule of this frontend is for every caller.
    pub const ANY_RULES: u32 = 1 << 9;
    /// An endpoint on this node.
    pub const THIS_NODE: u32 = 1 << 10;
    /// Only the workload of the service may bind it.
    pub const OWNED: u32 = 1 << 11;
    /// Some rule of this frontend is for clients outside the mesh, by address.
    pub const ADDRESS_RULES: u32 = 1 << 12;
    /// The port is declared to speak HTTP.
    pub const HTTP: u32 = 1 << 13;
    /// The port is declared to speak gRPC.
    pub const GRPC: u32 = 1 << 14;
}
