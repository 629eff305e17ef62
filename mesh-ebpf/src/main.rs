//! The mesh's kernel programs: entry points only.
//!
//! Each one translates its context, calls the module that decides, and maps the outcome to the
//! hook's return code. UAPI contexts and helpers only, so no kernel BTF is needed.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![deny(unsafe_op_in_unsafe_fn)]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the attributes put an undocumented copy of each entry point around it"
)]

mod atomic;
mod attribute;
mod bind;
mod caller;
mod choose;
mod client;
mod count;
mod create;
mod ctx;
mod destination;
mod flow;
mod http;
mod inbound;
mod maps;
mod outbound;
mod packet;
mod record;
mod redirect;
mod reply;
mod ticket;
mod verdict;

use aya_ebpf::macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, sock_ops, tracepoint};
use aya_ebpf::programs::{
    SkBuffContext, SockAddrContext, SockContext, SockOpsContext, TracePointContext,
};
use mesh_common::Hook;

use crate::ctx::{Family, SockAddr};

/// The call goes on.
const PROCEED: i32 = 1;
/// The call fails with EPERM.
const REFUSE: i32 = 0;

#[inline(always)]
fn outcome(allowed: bool) -> i32 {
    if allowed { PROCEED } else { REFUSE }
}

/// Judges `connect()` of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn mesh_connect4(ctx: SockAddrContext) -> i32 {
    outcome(outbound::connect(
        &SockAddr::new(&ctx, Family::V4),
        Hook::Connect4,
    ))
}

/// Judges `connect()` of an IPv6 socket, IPv4-mapped destinations included.
#[cgroup_sock_addr(connect6)]
pub fn mesh_connect6(ctx: SockAddrContext) -> i32 {
    outcome(outbound::connect(
        &SockAddr::new(&ctx, Family::V6),
        Hook::Connect6,
    ))
}

/// Judges a datagram sent to an IPv4 address.
#[cgroup_sock_addr(sendmsg4)]
pub fn mesh_sendmsg4(ctx: SockAddrContext) -> i32 {
    outcome(outbound::send(
        &SockAddr::new(&ctx, Family::V4),
        Hook::Sendmsg4,
    ))
}

/// Judges a datagram sent to an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
pub fn mesh_sendmsg6(ctx: SockAddrContext) -> i32 {
    outcome(outbound::send(
        &SockAddr::new(&ctx, Family::V6),
        Hook::Sendmsg6,
    ))
}

/// Shows a datagram's sender as what was dialled.
#[cgroup_sock_addr(recvmsg4)]
pub fn mesh_recvmsg4(ctx: SockAddrContext) -> i32 {
    reply::received(&SockAddr::new(&ctx, Family::V4));
    PROCEED
}

/// Shows a datagram's sender as what was dialled.
#[cgroup_sock_addr(recvmsg6)]
pub fn mesh_recvmsg6(ctx: SockAddrContext) -> i32 {
    reply::received(&SockAddr::new(&ctx, Family::V6));
    PROCEED
}

/// Shows a connection's peer as what was dialled.
#[cgroup_sock_addr(getpeername4)]
pub fn mesh_getpeername4(ctx: SockAddrContext) -> i32 {
    reply::peer(&SockAddr::new(&ctx, Family::V4));
    PROCEED
}

/// Shows a connection's peer as what was dialled.
#[cgroup_sock_addr(getpeername6)]
pub fn mesh_getpeername6(ctx: SockAddrContext) -> i32 {
    reply::peer(&SockAddr::new(&ctx, Family::V6));
    PROCEED
}

/// Judges `bind()` of an IPv4 socket.
#[cgroup_sock_addr(bind4)]
pub fn mesh_bind4(ctx: SockAddrContext) -> i32 {
    outcome(bind::bind(&SockAddr::new(&ctx, Family::V4), Hook::Bind4))
}

/// Judges `bind()` of an IPv6 socket.
#[cgroup_sock_addr(bind6)]
pub fn mesh_bind6(ctx: SockAddrContext) -> i32 {
    outcome(bind::bind(&SockAddr::new(&ctx, Family::V6), Hook::Bind6))
}

/// Judges `socket()` and remembers which service made the socket.
#[cgroup_sock(sock_create)]
pub fn mesh_sock_create(ctx: SockContext) -> i32 {
    outcome(create::create(&ctx))
}

/// Judges the first packet of a connection, and datagrams, at the server's side.
#[cgroup_skb(ingress)]
pub fn mesh_ingress(ctx: SkBuffContext) -> i32 {
    outcome(inbound::receive(ctx.skb.skb))
}

/// Reads the requests that a workload gets.
#[cgroup_skb(ingress)]
pub fn mesh_http_ingress(ctx: SkBuffContext) -> i32 {
    http::received(ctx.skb.skb);
    PROCEED
}

/// Reads its responses.
#[cgroup_skb(egress)]
pub fn mesh_http_egress(ctx: SkBuffContext) -> i32 {
    http::sent(ctx.skb.skb);
    PROCEED
}

/// Counts connections of the mesh.
#[sock_ops]
pub fn mesh_sock_ops(ctx: SockOpsContext) -> u32 {
    flow::observe(&ctx);
    http::observe(&ctx);
    1
}

/// Attributes a new cgroup before any process is in it.
#[tracepoint(name = "mesh_cgroup_mkdir", category = "cgroup")]
pub fn mesh_cgroup_mkdir(ctx: TracePointContext) -> u32 {
    attribute::created(&ctx);
    0
}

/// Forgets a cgroup.
#[tracepoint(name = "mesh_cgroup_rmdir", category = "cgroup")]
pub fn mesh_cgroup_rmdir(ctx: TracePointContext) -> u32 {
    attribute::removed(&ctx);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The licence some helpers ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
