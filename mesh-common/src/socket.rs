//! What is remembered with a socket, for as long as it lives.

use crate::Address;

/// State of a TCP or connected UDP socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketState {
    /// Cgroup of the process that made the socket; 0 if it was no service's.
    pub creator_cgroup: u64,
    /// When `connect()` was judged, nanoseconds since boot.
    pub connect_ns: u64,
    /// Payload bytes received when the connection became half-closed by this side.
    pub half_closed_received: u64,
    /// What the program dialled.
    pub dialled: Address,
    /// Where the kernel connected instead.
    pub endpoint: Address,
    /// Port of `dialled`, host order.
    pub dialled_port: u16,
    /// Port of `endpoint`, host order.
    pub endpoint_port: u16,
    /// User id of the process that made the socket.
    pub creator_uid: u32,
    /// Subject that called.
    pub source: u32,
    /// Subject that was called.
    pub service: u32,
    /// Version that was chosen.
    pub version: u32,
    /// [`socket_flag`] bits.
    pub flags: u32,
    /// Frontend that was called.
    pub frontend: u32,
    /// Policy revision, low half, under which the call was allowed.
    pub revision: u32,
    /// Low half of the [`id_epoch`](crate::PolicyHeader::id_epoch) that the ids are of.
    pub epoch: u32,
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<SocketState>() == 96);

/// Bits of [`SocketState::flags`].
pub mod socket_flag {
    /// A flow of the mesh was allowed on this socket.
    pub const FLOW: u32 = 1;
    /// The flow's connection was established and is counted as open.
    pub const OPEN: u32 = 1 << 1;
    /// The peer's FIN was received.
    pub const FIN_RECEIVED: u32 = 1 << 2;
}

/// How many services one unconnected UDP socket can talk to before the oldest is displaced.
pub const UDP_FLOWS: usize = 8;

/// One service that an unconnected UDP socket sends to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpFlow {
    /// What the program dials.
    pub dialled: Address,
    /// Where its datagrams go.
    pub endpoint: Address,
    /// Port of `dialled`, host order; 0 marks an unused place.
    pub dialled_port: u16,
    /// Port of `endpoint`, host order.
    pub endpoint_port: u16,
    /// Version that was chosen.
    pub version: u32,
    /// Policy revision, low half, under which the endpoint was chosen.
    pub revision: u32,
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<UdpFlow>() == 48);

/// The services an unconnected UDP socket sends to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpFlows {
    /// The flows, in no order.
    pub flows: [UdpFlow; UDP_FLOWS],
    /// Which place is displaced next.
    pub next: u32,
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<UdpFlows>() == 392);
