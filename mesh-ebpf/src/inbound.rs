//! The server's side: what arrives at a protected endpoint is judged apart from what `connect()`
//! and `sendto()` were allowed.
//!
//! Let in is who can be shown to have been allowed: the client's own socket says so, or, from
//! another network namespace, a ticket; and addresses that a `cidr` rule names. Anything else is
//! dropped: another host, a raw socket, a client that no hook has seen.

use core::mem::offset_of;

use aya_ebpf::bindings::{__sk_buff, BPF_TCP_CLOSE, BPF_TCP_LISTEN, bpf_sock};
use aya_ebpf::helpers::bpf_sk_cgroup_id;
use mesh_common::{
    Destination, Hook, IPPROTO_UDP, Reason, Subject, Verdict, destination_flag, header_flag,
};

use crate::caller::{Process, cgroup_subject};
use crate::client::{Client, Standing};
use crate::count::Attempt;
use crate::ctx;
use crate::destination;
use crate::maps::{InForce, SOCKETS};
use crate::packet::Packet;
use crate::verdict::{self, Decision};

/// Judges a packet that has found its socket. Returns whether the socket gets it.
#[inline(always)]
pub(crate) fn receive(skb: *mut __sk_buff) -> bool {
    let sk: *mut bpf_sock = ctx::field(skb, offset_of!(__sk_buff, __bindgen_anon_2));
    if sk.is_null() {
        return true;
    }
    // A connection that is there was judged when it was made. UDP sockets that are not
    // connected are closed as far as the state goes.
    let state: u32 = ctx::field(sk, offset_of!(bpf_sock, state));
    if state != BPF_TCP_LISTEN && state != BPF_TCP_CLOSE {
        return true;
    }
    let Some(policy) = InForce::current() else {
        return true;
    };
    if state == BPF_TCP_CLOSE && policy.header.flags & header_flag::UDP_ENDPOINTS == 0 {
        return true;
    }
    arrived(skb, sk, &policy, state == BPF_TCP_LISTEN)
}

#[inline(always)]
fn arrived(skb: *mut __sk_buff, sk: *mut bpf_sock, policy: &InForce, listens: bool) -> bool {
    // Headers that cannot be read may be meant for a protected endpoint.
    let Some(packet) = Packet::parse(skb) else {
        return false;
    };
    if !packet.calls() || (listens && !packet.opens()) {
        return true;
    }
    let loopback = packet.target.address.is_loopback_or_unspecified();
    let Some(destination) = destination::endpoint(policy, &packet.target, loopback) else {
        return true;
    };
    const GUARDED: u32 = destination_flag::PROTECTED | destination_flag::THIS_NODE;
    if destination.flags & GUARDED != GUARDED {
        return true;
    }
    judge(skb, sk, policy, &packet, &destination)
}

#[inline(always)]
fn judge(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    policy: &InForce,
    packet: &Packet,
    destination: &Destination,
) -> bool {
    let client = Client::find(skb, policy, packet, destination);
    if client.standing == Standing::FOREIGN {
        return true;
    }
    let decision = if !is_owners(policy, sk, destination) {
        Decision::denied(Reason::PortOwner)
    } else if client.standing == Standing::ALLOWED {
        return true;
    } else if client.standing == Standing::EARLIER {
        verdict::judge_again(policy, client.source, client.creator, destination)
    } else {
        verdict::judge_address(policy, &packet.source.address, destination)
    };
    // What connect() allowed is counted there, and a datagram is not a flow.
    let counted = client.source == Subject::OUTSIDE.0 && packet.target.protocol != IPPROTO_UDP;
    if counted || decision.verdict.0 != Verdict::Allowed.0 {
        let attempt = Attempt {
            hook: Hook::Ingress,
            process: &Process { cgroup: 0, uid: 0 },
            dialled: &packet.target,
            source: client.source,
            service: destination.service,
            frontend: destination.frontend,
        };
        attempt.received(&decision, &packet.source);
    }
    decision.allows()
}

/// Whether the socket is of the workload whose endpoint this is: `bind()` was allowed, or, from
/// before the mesh, the cgroup it was made in is the service's.
#[inline(always)]
fn is_owners(policy: &InForce, sk: *mut bpf_sock, destination: &Destination) -> bool {
    if destination.flags & destination_flag::OWNED == 0 {
        return true;
    }
    if let Some(state) = ctx::storage(&SOCKETS, sk, 0)
        && state.bound_for == destination.service
        && state.epoch == policy.header.id_epoch as u32
    {
        return true;
    }
    // SAFETY: a socket pointer of the context, checked not to be null.
    let cgroup = unsafe { bpf_sk_cgroup_id(sk.cast()) };
    cgroup_subject(policy, cgroup) == destination.service
}
