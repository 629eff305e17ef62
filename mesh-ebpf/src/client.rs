//! Who sent a packet, if that was somebody on this host: what the hooks on the client's side have
//! noted.

use core::ffi::c_void;
use core::mem::{offset_of, size_of};

use aya_ebpf::bindings::{__sk_buff, BPF_TCP_SYN_SENT, bpf_sock, bpf_sock_tuple};
use aya_ebpf::helpers::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release};
use mesh_common::{
    Address, Destination, IPPROTO_TCP, SocketKey, SocketState, Subject, TicketKey, UdpFlow,
    UdpFlows, socket_flag,
};

use crate::caller::Process;
use crate::ctx;
use crate::maps::{InForce, SOCKETS, TICKETS, UDP_SOCKETS};
use crate::packet::Packet;

/// `BPF_F_CURRENT_NETNS`: the namespace the packet is in.
const CURRENT_NETNS: u64 = u64::MAX;

/// What is known of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing(u32);

impl Standing {
    /// Nothing: it is not of this host, or has gone around the hooks.
    pub(crate) const UNKNOWN: Self = Self(0);
    /// The policy in force allowed the call.
    pub(crate) const ALLOWED: Self = Self(1);
    /// An earlier policy allowed the call.
    pub(crate) const EARLIER: Self = Self(2);
    /// It called the loopback of a network namespace that is not the mesh's.
    pub(crate) const FOREIGN: Self = Self(3);
}

/// A client, with every field always set: see `Caller`.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    pub(crate) standing: Standing,
    /// Subject that called; [`Subject::OUTSIDE`] unless that is known.
    pub(crate) source: u32,
    /// Subject that made its socket.
    pub(crate) creator: u32,
}

impl Client {
    const UNKNOWN: Self = Self::of(Standing::UNKNOWN, Subject::OUTSIDE.0, Subject::OUTSIDE.0);

    #[inline(always)]
    const fn of(standing: Standing, source: u32, creator: u32) -> Self {
        Self {
            standing,
            source,
            creator,
        }
    }

    /// The client that sent `packet` to `destination`.
    #[inline(always)]
    pub(crate) fn find(
        skb: *mut __sk_buff,
        policy: &InForce,
        packet: &Packet,
        destination: &Destination,
    ) -> Self {
        let tcp = packet.target.protocol == IPPROTO_TCP;
        let sk = look_up(skb, packet, tcp);
        let mut client = Self::UNKNOWN;
        if !sk.is_null() {
            let state: u32 = ctx::field(sk, offset_of!(bpf_sock, state));
            // Whoever listens at the port the packet came from did not send it.
            if !tcp || state == BPF_TCP_SYN_SENT {
                client = Self::by_socket(policy, sk, packet, destination);
            }
            // SAFETY: the reference that the lookup has taken.
            unsafe { bpf_sk_release(sk.cast()) };
        }
        if tcp && client.standing == Standing::UNKNOWN {
            client = Self::by_ticket(policy, packet, destination);
        }
        client
    }

    #[inline(always)]
    fn by_socket(
        policy: &InForce,
        sk: *mut bpf_sock,
        packet: &Packet,
        destination: &Destination,
    ) -> Self {
        if let Some(state) = ctx::storage(&SOCKETS, sk, 0) {
            if state.flags & socket_flag::FOREIGN != 0 {
                return Self::of(Standing::FOREIGN, Subject::OUTSIDE.0, Subject::OUTSIDE.0);
            }
            if state.flags & socket_flag::FLOW != 0 && state.frontend == destination.frontend {
                return Self::by_state(policy, state);
            }
        }
        if packet.target.protocol != IPPROTO_TCP
            && let Some(flow) = datagrams_to(sk, packet, destination)
        {
            let standing = standing(policy, flow.revision, flow.epoch);
            return Self::of(standing, flow.source, maker_of(policy, sk, standing));
        }
        Self::UNKNOWN
    }

    #[inline(always)]
    fn by_state(policy: &InForce, state: &SocketState) -> Self {
        let standing = standing(policy, state.revision, state.epoch);
        let creator = maker(policy, Some(state), standing);
        Self::of(standing, state.source, creator)
    }

    #[inline(always)]
    fn by_ticket(policy: &InForce, packet: &Packet, destination: &Destination) -> Self {
        let key = TicketKey {
            client: packet.source,
            server: packet.target,
        };
        // SAFETY: entries are not reused while the program runs (no preallocation).
        let Some(ticket) = (unsafe { TICKETS.get(key) }) else {
            return Self::UNKNOWN;
        };
        if ticket.frontend != destination.frontend {
            return Self::UNKNOWN;
        }
        let standing = standing(policy, ticket.revision, ticket.epoch);
        Self::of(standing, ticket.source, ticket.creator)
    }
}

/// What it is worth that a policy has allowed something: nothing if ids have started over since.
#[inline(always)]
fn standing(policy: &InForce, revision: u32, epoch: u32) -> Standing {
    if epoch != policy.header.id_epoch as u32 {
        Standing::UNKNOWN
    } else if revision == policy.header.revision as u32 {
        Standing::ALLOWED
    } else {
        Standing::EARLIER
    }
}

/// The subject that made a socket, as far as anybody asks: the policy in force has already.
#[inline(always)]
fn maker(policy: &InForce, state: Option<&SocketState>, standing: Standing) -> u32 {
    if standing != Standing::EARLIER {
        return Subject::OUTSIDE.0;
    }
    let mut process = Process { cgroup: 0, uid: 0 };
    if let Some(state) = state {
        if state.flags & socket_flag::TUNNEL != 0 {
            return state.source;
        }
        process = Process::creator(state);
    }
    process.maker(policy)
}

#[inline(always)]
fn maker_of(policy: &InForce, sk: *mut bpf_sock, standing: Standing) -> u32 {
    let state = ctx::storage(&SOCKETS, sk, 0);
    maker(policy, state.as_deref(), standing)
}

/// What an unconnected UDP socket was allowed to send to `destination`. Every datagram is judged
/// as it is sent; a new policy may come while it is on its way.
#[inline(always)]
fn datagrams_to<'a>(
    sk: *mut bpf_sock,
    packet: &Packet,
    destination: &Destination,
) -> Option<&'a UdpFlow> {
    let flows: &UdpFlows = ctx::storage(&UDP_SOCKETS, sk, 0)?;
    flows.flows.iter().find(|flow| {
        flow.dialled_port != 0
            && flow.endpoint_port == packet.target.port
            && flow.frontend == destination.frontend
    })
}

/// Both ends as the client's socket has them; the layout of `struct bpf_sock_tuple`.
#[repr(C)]
struct Tuple<T> {
    remote: T,
    local: T,
    remote_port: [u8; 2],
    local_port: [u8; 2],
}

/// The socket in this network namespace that the packet came from; it must be released.
#[inline(always)]
pub(crate) fn look_up(skb: *mut __sk_buff, packet: &Packet, tcp: bool) -> *mut bpf_sock {
    let (remote, local) = (&packet.target, &packet.source);
    if packet.v4 {
        let tuple = tuple(v4(&remote.address), v4(&local.address), remote, local);
        look_up_tuple(skb, &tuple, tcp)
    } else {
        let tuple = tuple(remote.address.0, local.address.0, remote, local);
        look_up_tuple(skb, &tuple, tcp)
    }
}

#[inline(always)]
fn tuple<T>(remote: T, local: T, at: &SocketKey, from: &SocketKey) -> Tuple<T> {
    Tuple {
        remote,
        local,
        remote_port: at.port.to_be_bytes(),
        local_port: from.port.to_be_bytes(),
    }
}

#[inline(always)]
fn v4(address: &Address) -> [u8; 4] {
    let [.., a, b, c, d] = address.0;
    [a, b, c, d]
}

#[inline(always)]
fn look_up_tuple<T>(skb: *mut __sk_buff, tuple: &Tuple<T>, tcp: bool) -> *mut bpf_sock {
    let (context, size) = (skb.cast::<c_void>(), size_of::<Tuple<T>>() as u32);
    let tuple = core::ptr::from_ref(tuple)
        .cast_mut()
        .cast::<bpf_sock_tuple>();
    if tcp {
        // SAFETY: the context as the kernel handed it over, and a tuple of the size given, which
        // tells the address family.
        unsafe { bpf_sk_lookup_tcp(context, tuple, size, CURRENT_NETNS, 0) }
    } else {
        // SAFETY: as above.
        unsafe { bpf_sk_lookup_udp(context, tuple, size, CURRENT_NETNS, 0) }
    }
}
