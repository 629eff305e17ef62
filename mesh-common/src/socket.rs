//! What is remembered with a socket, for as long as it lives.

use crate::{Address, FlowKey, IPPROTO_TCP, SocketKey, flow_bit};

/// State of a TCP or connected UDP socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketState {
    /// Cgroup of the process that made the socket; 0 if it was no service's.
    pub creator_cgroup: u64,
    /// When `connect()` was judged, nanoseconds since boot.
    pub connect_ns: u64,
    /// When the connection was established, nanoseconds since boot; 0 before.
    pub opened_ns: u64,
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
    /// Service that `bind()` was allowed for, because the socket is its workload's; 0 for none.
    pub bound_for: u32,
    /// Id of the endpoint on another node that was chosen; 0 where the kernel carries the bytes.
    pub target: u32,
    /// The rule that allowed the call; 0 where the reason is not policy.
    pub rule: u32,
    /// Process (thread group) id of the caller.
    pub pid: u32,
    /// [`Verdict`](crate::Verdict) and [`Reason`](crate::Reason) codes of the call.
    pub verdict: u8,
    /// See `verdict`.
    pub reason: u8,
    /// Zero.
    pub _pad: u16,
}
const _: () = assert!(size_of::<SocketState>() == 120);

impl SocketState {
    /// The series that its TCP flow is counted in.
    #[inline(always)]
    pub fn tcp_series(&self) -> FlowKey {
        FlowKey {
            source: self.source,
            service: self.service,
            version: self.version,
            protocol: IPPROTO_TCP as u32 | self.crossing(),
        }
    }

    /// [`flow_bit`] bits: whether the bytes cross to another node, and which end this is.
    #[inline(always)]
    fn crossing(&self) -> u32 {
        if self.flags & socket_flag::TUNNEL != 0 {
            flow_bit::MUTUAL_TLS | flow_bit::DESTINATION
        } else if self.flags & socket_flag::REDIRECTED != 0 {
            flow_bit::MUTUAL_TLS
        } else {
            0
        }
    }
}

/// Bits of [`SocketState::flags`].
pub mod socket_flag {
    /// A flow of the mesh was allowed on this socket.
    pub const FLOW: u32 = 1;
    /// The flow's connection was established and is counted as open.
    pub const OPEN: u32 = 1 << 1;
    /// The peer's FIN was received.
    pub const FIN_RECEIVED: u32 = 1 << 2;
    /// Another network namespace's loopback was called: what listens there is not the mesh's.
    pub const FOREIGN: u32 = 1 << 3;
    /// The endpoint may be in another network namespace, where this socket cannot be looked
    /// up: a [`Ticket`](super::Ticket) says that it may connect.
    pub const TICKET: u32 = 1 << 4;
    /// The agent's own: it calls for `source`, whose identity a peer has proven, or listens for
    /// calls to other nodes. Only who may write the map can set it.
    pub const TUNNEL: u32 = 1 << 5;
    /// The call goes to another node: the kernel connected to the agent instead.
    pub const REDIRECTED: u32 = 1 << 6;
}

/// A call to another node, as the agent sees who has connected to it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RedirectKey {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// Where the connection comes from.
    pub client: SocketKey,
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<RedirectKey>() == 32);

/// What the agent is told about a call to another node, for as long as its socket lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// Subject that called.
    pub source: u32,
    /// Frontend that was called.
    pub frontend: u32,
    /// Id of the endpoint that was chosen.
    pub target: u32,
    /// Policy revision, low half, under which it was allowed.
    pub revision: u32,
    /// Low half of the id epoch.
    pub epoch: u32,
}
const _: () = assert!(size_of::<Redirect>() == 20);

/// Where the agent takes calls to other nodes in one network namespace: this port of 127.0.0.1
/// and ::1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelListener {
    /// Where, for sockets of IPv4 and of IPv6.
    pub addresses: [Address; 2],
    /// Host order.
    pub port: u32,
}
const _: () = assert!(size_of::<TunnelListener>() == 36);

impl TunnelListener {
    /// At `port` (host order) of loopback.
    pub const fn at(port: u16) -> Self {
        Self {
            addresses: [Address::LOOPBACK_V4, Address::LOOPBACK_V6],
            port: port as u32,
        }
    }
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
    /// Policy revision, low half, under which the last datagram was allowed.
    pub revision: u32,
    /// Frontend that is called.
    pub frontend: u32,
    /// Subject that called.
    pub source: u32,
    /// Low half of the id epoch.
    pub epoch: u32,
}
const _: () = assert!(size_of::<UdpFlow>() == 56);

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
const _: () = assert!(size_of::<UdpFlows>() == 456);

/// Both ends of a connection, as the server sees its first packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TicketKey {
    /// Where it comes from.
    pub client: SocketKey,
    /// Where it goes to.
    pub server: SocketKey,
}
const _: () = assert!(size_of::<TicketKey>() == 40);

/// What the server's side is told about a connection that was allowed in another network
/// namespace of this host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    /// Subject that called.
    pub source: u32,
    /// Subject that made the socket.
    pub creator: u32,
    /// Frontend that was called.
    pub frontend: u32,
    /// Policy revision, low half, under which it was allowed.
    pub revision: u32,
    /// Low half of the id epoch.
    pub epoch: u32,
    /// [`socket_flag::TUNNEL`], if the call comes from another node.
    pub flags: u32,
}
const _: () = assert!(size_of::<Ticket>() == 24);

/// What [`socket_kind_flag`] says of kinds that need no leave.
pub const ORDINARY_SOCKET: u32 = 0;

/// Which [`header_flag`](crate::header_flag) lets a service make an IP socket of `kind`
/// (`SOCK_*`) and `protocol`; [`ORDINARY_SOCKET`] for TCP and UDP, which the other hooks judge.
#[inline(always)]
pub const fn socket_kind_flag(kind: u32, protocol: u32) -> u32 {
    use crate::header_flag::{
        ALLOW_MPTCP, ALLOW_OTHER, ALLOW_PING, ALLOW_RAW, ALLOW_SCTP, ALLOW_SMC, ALLOW_UDPLITE,
    };
    const STREAM: u32 = 1;
    const DATAGRAM: u32 = 2;
    const RAW: u32 = 3;
    match (kind, protocol) {
        (STREAM, 6) | (DATAGRAM, 17) => ORDINARY_SOCKET,
        (RAW, _) => ALLOW_RAW,
        (DATAGRAM, 1 | 58) => ALLOW_PING,
        (_, 262) => ALLOW_MPTCP,
        (_, 132) => ALLOW_SCTP,
        (_, 256) => ALLOW_SMC,
        (_, 136) => ALLOW_UDPLITE,
        _ => ALLOW_OTHER,
    }
}
