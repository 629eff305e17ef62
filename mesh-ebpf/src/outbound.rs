//! `connect()` and `sendto()`: who, what, whether, where to.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use mesh_common::{
    Address, Counter, Destination, EndpointEntry, FlowKey, Hook, IPPROTO_TCP, IPPROTO_UDP, Reason,
    SocketKey, SocketState, UDP_FLOWS, UdpFlow, UdpFlows, destination_flag, endpoint_flag,
    header_flag, socket_flag, subject_flag,
};

use crate::caller::{Caller, Process};
use crate::choose;
use crate::count::{self, Attempt};
use crate::ctx::SockAddr;
use crate::destination;
use crate::maps::{DESTINATIONS, InForce, LOCAL_ADDRESSES, NETNS_COOKIE, SOCKETS, UDP_SOCKETS};
use crate::redirect;
use crate::verdict::{self, Decision};

/// Judges `connect()` and sends it to the chosen endpoint. Returns whether it may go on.
#[inline(always)]
pub(crate) fn connect(ctx: &SockAddr, hook: Hook) -> bool {
    let Some(policy) = InForce::current() else {
        return true;
    };
    let dialled = ctx.address();
    let Some(destination) = destination::find(&policy, ctx, &dialled) else {
        // The agent's question whether this program runs.
        if dialled.address == Address::CANARY_V4 || dialled.address == Address::CANARY_V6 {
            return false;
        }
        forget_flow(ctx);
        destination::note_foreign(&policy, ctx, &dialled);
        return leave(&policy, &dialled, hook);
    };
    let mut call = Call::new(ctx, &policy, &dialled, &destination, hook);
    let creator = call.for_whom();
    let mut decision = call.judge(&creator);
    if decision.allows()
        && let Err(reason) = call.route(&decision)
    {
        decision = verdict::on_error(reason, &destination);
    }
    call.attempt().decided(&decision);
    decision.allows()
}

/// Judges a datagram with an address and sends it to the flow's endpoint.
#[inline(always)]
pub(crate) fn send(ctx: &SockAddr, hook: Hook) -> bool {
    let Some(policy) = InForce::current() else {
        return true;
    };
    let dialled = ctx.address();
    let Some(destination) = destination::find(&policy, ctx, &dialled) else {
        destination::note_foreign(&policy, ctx, &dialled);
        return leave(&policy, &dialled, hook);
    };
    let call = Call::new(ctx, &policy, &dialled, &destination, hook);
    let mut decision = call.judge(&call.creator());
    let mut known_flow = false;
    if decision.allows() {
        match call.send() {
            Ok(known) => known_flow = known,
            Err(reason) => decision = verdict::on_error(reason, &destination),
        }
    }
    // An allowed flow is one decision, however many datagrams it has.
    if !(known_flow && decision.allows()) {
        call.attempt().decided(&decision);
    }
    decision.allows()
}

/// A destination outside the mesh: none of its business, but for callers that may not leave. A
/// service whose entry is lost may be one of them; a caller nobody knows is let go, because it
/// is far more likely to be the host's.
#[inline(always)]
fn leave(policy: &InForce, dialled: &SocketKey, hook: Hook) -> bool {
    if policy.header.flags & header_flag::EGRESS_DENY == 0 {
        return true;
    }
    let process = Process::current();
    let caller = Caller::current(policy, &process);
    let lost = caller.error.0 == Reason::MissingEntry.0;
    if !lost && caller.flags & subject_flag::EGRESS_DENY == 0 {
        return true;
    }
    let decision = if lost {
        Decision::denied(Reason::MissingEntry)
    } else {
        verdict::judge_egress(policy, &caller, dialled)
    };
    let source = caller.subject;
    let attempt = Attempt {
        hook,
        process: &process,
        dialled,
        source,
        service: 0,
        frontend: 0,
    };
    attempt.decided(&decision);
    decision.allows()
}

/// A socket that is connected elsewhere no longer carries the flow it carried before.
#[inline(always)]
fn forget_flow(ctx: &SockAddr) {
    if let Some(state) = ctx.storage(&SOCKETS) {
        state.flags = 0;
    }
}

/// A call to a destination of the mesh.
struct Call<'a> {
    ctx: &'a SockAddr,
    policy: &'a InForce,
    dialled: &'a SocketKey,
    destination: &'a Destination,
    hook: Hook,
    process: Process,
    caller: Caller,
}

impl<'a> Call<'a> {
    #[inline(always)]
    fn new(
        ctx: &'a SockAddr,
        policy: &'a InForce,
        dialled: &'a SocketKey,
        destination: &'a Destination,
        hook: Hook,
    ) -> Self {
        let process = Process::current();
        let caller = Caller::current(policy, &process);
        Self {
            ctx,
            policy,
            dialled,
            destination,
            hook,
            process,
            caller,
        }
    }

    #[inline(always)]
    fn attempt(&self) -> Attempt<'_> {
        Attempt {
            hook: self.hook,
            process: &self.process,
            dialled: self.dialled,
            source: self.caller.subject,
            service: self.destination.service,
            frontend: self.destination.frontend,
        }
    }

    /// Who made the socket.
    #[inline(always)]
    fn creator(&self) -> Process {
        let mut creator = Process { cgroup: 0, uid: 0 };
        if let Some(state) = self.ctx.storage(&SOCKETS) {
            creator = Process::creator(state);
        }
        creator
    }

    /// Finds out for whom the agent calls, if that is who calls, and who made the socket.
    #[inline(always)]
    fn for_whom(&mut self) -> Process {
        let mut creator = Process { cgroup: 0, uid: 0 };
        if let Some(state) = self.ctx.storage(&SOCKETS) {
            creator = Process::creator(state);
            if state.flags & socket_flag::TUNNEL != 0 {
                self.caller = Caller::proven(self.policy, state);
                creator = self.process;
            }
        }
        creator
    }

    #[inline(always)]
    fn judge(&self, creator: &Process) -> Decision {
        verdict::judge(
            self.policy,
            &self.caller,
            &self.process,
            creator,
            self.destination,
        )
    }

    /// Where the call goes: an endpoint behind the VIP, or the endpoint that was dialled.
    #[inline(always)]
    fn endpoint(&self) -> Result<EndpointEntry, Reason> {
        if self.destination.flags & destination_flag::FRONTEND == 0 {
            return Ok(EndpointEntry {
                address: self.dialled.address,
                version: self.destination.version,
                port: self.dialled.port,
                flags: location(self.destination),
                target: self.destination.target,
            });
        }
        choose::endpoint(
            self.policy,
            self.ctx,
            &self.caller,
            &self.process,
            self.destination,
        )
    }

    #[inline(always)]
    fn redirect(&self, endpoint: &EndpointEntry) {
        if self.destination.flags & destination_flag::FRONTEND != 0 || endpoint.target != 0 {
            self.ctx.rewrite(&endpoint.address, endpoint.port);
        }
    }

    /// The endpoint, or the agent in the place of one on another node.
    #[inline(always)]
    fn next_hop(&self) -> Result<EndpointEntry, Reason> {
        let mut endpoint = self.endpoint()?;
        if endpoint.flags & endpoint_flag::REMOTE != 0 {
            let listener = redirect::listener(self.ctx, self.dialled)?;
            endpoint.address = listener.address;
            endpoint.port = listener.port;
        } else {
            endpoint.target = 0;
        }
        Ok(endpoint)
    }

    #[inline(always)]
    fn route(&self, decision: &Decision) -> Result<(), Reason> {
        let endpoint = self.next_hop()?;
        let Some(state) = self.ctx.storage_or_new(&SOCKETS) else {
            count::own(Counter::SocketStorageFailed);
            return Err(Reason::NoSocketStorage);
        };
        if endpoint.target != 0 && state.flags & socket_flag::TUNNEL != 0 {
            // From another node to another node: nobody asks for that but by mistake.
            return Err(Reason::NoTunnel);
        }
        self.remember(state, &endpoint, decision);
        if self.dialled.protocol == IPPROTO_UDP {
            self.count_udp(&endpoint, 1, 0);
        }
        self.redirect(&endpoint);
        Ok(())
    }

    #[inline(always)]
    fn remember(&self, state: &mut SocketState, endpoint: &EndpointEntry, decision: &Decision) {
        // SAFETY: the helper has no preconditions.
        state.connect_ns = unsafe { bpf_ktime_get_ns() };
        state.dialled = self.dialled.address;
        state.dialled_port = self.dialled.port;
        state.endpoint = endpoint.address;
        state.endpoint_port = endpoint.port;
        state.source = self.caller.subject;
        state.service = self.destination.service;
        state.version = endpoint.version;
        state.target = endpoint.target;
        state.rule = decision.rule;
        state.verdict = decision.verdict.0;
        state.reason = decision.reason.0;
        state.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        // Read once more: what the verifier knows for certain it follows in paths of their own.
        state.flags = socket_flag::FLOW | (state.flags & socket_flag::TUNNEL);
        if endpoint.target != 0 {
            state.flags |= socket_flag::REDIRECTED;
        }
        if self.needs_ticket(endpoint) {
            state.flags |= socket_flag::TICKET;
        }
        state.frontend = self.destination.frontend;
        state.revision = self.policy.header.revision as u32;
        let epoch = self.policy.header.id_epoch as u32;
        if state.epoch != epoch {
            state.bound_for = 0;
        }
        state.epoch = epoch;
    }

    /// Whether the endpoint is on this node but cannot be in this network namespace.
    #[inline(always)]
    fn needs_ticket(&self, endpoint: &EndpointEntry) -> bool {
        if endpoint.flags & endpoint_flag::THIS_NODE == 0
            || self.dialled.protocol != IPPROTO_TCP
            || endpoint.address.is_loopback_or_unspecified()
        {
            return false;
        }
        let at_home = self.ctx.netns_cookie() == NETNS_COOKIE.load();
        // SAFETY: the reference is only tested for presence.
        !(at_home && unsafe { LOCAL_ADDRESSES.get(endpoint.address) }.is_some())
    }

    /// Routes a datagram; whether its flow was known.
    #[inline(always)]
    fn send(&self) -> Result<bool, Reason> {
        if let Some(endpoint) = self.connected() {
            self.count_udp(&endpoint, 0, 1);
            return Ok(true);
        }
        let Some(flows) = self.ctx.storage_or_new(&UDP_SOCKETS) else {
            count::own(Counter::SocketStorageFailed);
            return Err(Reason::NoSocketStorage);
        };
        let revision = self.policy.header.revision as u32;
        if let Some(flow) = find(flows, self.dialled) {
            if flow.revision == revision || self.still_valid(flow) {
                flow.revision = revision;
                flow.source = self.caller.subject;
                flow.epoch = self.policy.header.id_epoch as u32;
                let endpoint = EndpointEntry {
                    address: flow.endpoint,
                    version: flow.version,
                    port: flow.endpoint_port,
                    flags: 0,
                    target: 0,
                };
                self.count_udp(&endpoint, 0, 1);
                self.redirect(&endpoint);
                return Ok(true);
            }
            flow.dialled_port = 0;
        }
        let endpoint = self.endpoint()?;
        if endpoint.flags & endpoint_flag::REMOTE != 0 {
            return Err(Reason::NoTunnel);
        }
        displace(
            flows,
            UdpFlow {
                dialled: self.dialled.address,
                endpoint: endpoint.address,
                dialled_port: self.dialled.port,
                endpoint_port: endpoint.port,
                version: endpoint.version,
                revision,
                frontend: self.destination.frontend,
                source: self.caller.subject,
                epoch: self.policy.header.id_epoch as u32,
            },
        );
        self.count_udp(&endpoint, 1, 1);
        self.redirect(&endpoint);
        Ok(false)
    }

    /// The endpoint this socket is connected to, if that is what is dialled: a datagram on an
    /// IPv6 socket that is connected to an IPv4 address passes here once more.
    #[inline(always)]
    fn connected(&self) -> Option<EndpointEntry> {
        let state = self.ctx.storage(&SOCKETS)?;
        let same = state.flags & socket_flag::FLOW != 0
            && state.endpoint_port == self.dialled.port
            && state.endpoint == self.dialled.address;
        same.then_some(EndpointEntry {
            address: state.endpoint,
            version: state.version,
            port: state.endpoint_port,
            flags: 0,
            target: 0,
        })
    }

    /// Whether the flow's endpoint still is one of the destination.
    #[inline(always)]
    fn still_valid(&self, flow: &UdpFlow) -> bool {
        let key = SocketKey::new(flow.endpoint, flow.endpoint_port, IPPROTO_UDP);
        let found = self.policy.get(&DESTINATIONS, &key);
        found.is_some_and(|endpoint| endpoint.frontend == self.destination.frontend)
    }

    #[inline(always)]
    fn count_udp(&self, endpoint: &EndpointEntry, flows: u64, datagrams: u64) {
        let key = FlowKey {
            source: self.caller.subject,
            service: self.destination.service,
            version: endpoint.version,
            protocol: u32::from(IPPROTO_UDP),
        };
        if let Some(stats) = count::flow(&key) {
            // SAFETY: a map value that lives while the program runs.
            count::add(unsafe { &raw mut (*stats).opened }, flows);
            // SAFETY: as above.
            count::add(unsafe { &raw mut (*stats).sent_bytes }, datagrams);
        }
    }
}

/// [`endpoint_flag`] bits of an endpoint that is dialled itself.
#[inline(always)]
fn location(destination: &Destination) -> u16 {
    if destination.flags & destination_flag::THIS_NODE != 0 {
        endpoint_flag::THIS_NODE
    } else if destination.flags & destination_flag::REMOTE != 0 {
        endpoint_flag::REMOTE
    } else {
        0
    }
}

#[inline(always)]
fn find<'a>(flows: &'a mut UdpFlows, dialled: &SocketKey) -> Option<&'a mut UdpFlow> {
    flows
        .flows
        .iter_mut()
        .find(|flow| flow.dialled_port == dialled.port && flow.dialled == dialled.address)
}

/// Stores `flow` in the place that is due.
#[inline(always)]
fn displace(flows: &mut UdpFlows, flow: UdpFlow) {
    let place = flows.next as usize % UDP_FLOWS;
    if flows.flows[place].dialled_port != 0 {
        count::own(Counter::UdpFlowsDisplaced);
    }
    flows.flows[place] = flow;
    flows.next = (place as u32) + 1;
}
