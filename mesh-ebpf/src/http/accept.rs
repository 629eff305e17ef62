//! Connections that are accepted at endpoints that speak HTTP, and their ends.

use core::mem::offset_of;

use aya_ebpf::bindings::{
    BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_TCP_CLOSE, bpf_sock, bpf_sock_ops,
};
use aya_ebpf::helpers::bpf_get_netns_cookie;
use aya_ebpf::programs::SockOpsContext;
use mesh_common::http::{HttpSocket, MAX_RUNS, Method, Stream, Unparsed, http_flag, request_bit};
use mesh_common::{Destination, IPPROTO_TCP, SocketKey, destination_flag, header_flag};

use super::frames;
use super::tally;
use crate::ctx;
use crate::destination;
use crate::maps::{HTTP_SOCKETS, InForce, NETNS_COOKIE};
use crate::ticket::local_address;

/// Handles one event of a TCP socket.
#[inline(always)]
pub(crate) fn observe(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => closed(ctx),
        _ => {}
    }
}

#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let Some(policy) = InForce::current() else {
        return;
    };
    if policy.header.flags & header_flag::HTTP_ENDPOINTS == 0 {
        return;
    }
    let Some(destination) = endpoint(ctx.ops, &policy) else {
        return;
    };
    let Some(socket) = socket_of(ctx.ops, BPF_SK_STORAGE_GET_F_CREATE.into()) else {
        tally::unparsed(destination.service, Unparsed::NoStorage);
        return;
    };
    socket.responses = Stream::responses();
    socket.received.order.next = ctx::field(ctx.ops, offset_of!(bpf_sock_ops, rcv_nxt));
    socket.sent.order.next = ctx::field(ctx.ops, offset_of!(bpf_sock_ops, snd_nxt));
    socket.service = destination.service;
    socket.version = destination.version;
    if destination.flags & destination_flag::GRPC != 0 {
        socket.bits = request_bit::GRPC;
    }
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    // Cannot fail: the flag is known and the socket is a full one.
    let _ = ctx.set_cb_flags(flags as i32);
}

/// The endpoint of this node that the connection is to, if it speaks HTTP.
#[inline(always)]
fn endpoint(ops: *mut bpf_sock_ops, policy: &InForce) -> Option<Destination> {
    let port: u32 = ctx::field(ops, offset_of!(bpf_sock_ops, local_port));
    let local = SocketKey::new(local_address(ops), port as u16, IPPROTO_TCP);
    let loopback = local.address.is_loopback_or_unspecified();
    // SAFETY: the helper takes the context as it is.
    if loopback && unsafe { bpf_get_netns_cookie(ops.cast()) } != NETNS_COOKIE.load() {
        return None;
    }
    let found = destination::endpoint(policy, &local, loopback)?;
    const HERE: u32 = destination_flag::THIS_NODE | destination_flag::AMBIGUOUS;
    const SPEAKS: u32 = destination_flag::HTTP | destination_flag::GRPC;
    let here = found.flags & HERE == destination_flag::THIS_NODE;
    (here && found.flags & SPEAKS != 0).then_some(found)
}

#[inline(always)]
fn socket_of<'a>(ops: *mut bpf_sock_ops, flags: u64) -> Option<&'a mut HttpSocket> {
    let sk: *mut bpf_sock = ctx::field(ops, offset_of!(bpf_sock_ops, __bindgen_anon_2));
    if sk.is_null() {
        return None;
    }
    ctx::storage(&HTTP_SOCKETS, sk, flags)
}

/// Settles what a connection leaves behind.
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let Some(socket) = socket_of(ctx.ops, 0) else {
        return;
    };
    if frames::is_agents(socket) {
        frames::closed(ctx.ops, socket);
        return;
    }
    if socket.over != 0 {
        return;
    }
    let received: u64 = ctx::field(ctx.ops, offset_of!(bpf_sock_ops, bytes_received));
    // A FIN counts like a byte.
    if socket.flags & http_flag::SEEN == 0 && received > 1 {
        tally::over(socket, Unparsed::Unseen);
        return;
    }
    for _ in 0..MAX_RUNS {
        let run = socket.pending.pop_run();
        if run.count == 0 {
            return;
        }
        tally::unanswered(socket, Method(run.method as u8), run.count.into());
    }
}
