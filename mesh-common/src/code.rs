//! Codes that counters, records and metrics name on both sides.

/// Declares a code: a number in the kernel, a name for people.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident($repr:ty) { $($(#[$doc:meta])* $variant:ident = $value:literal => $text:literal,)+ }) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $repr);

        #[expect(non_upper_case_globals, reason = "they read as the variants they stand for")]
        impl $name {
            $($(#[$doc])* pub const $variant: Self = Self($value);)+

            /// Every code, in numeric order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// How many codes there are; they are numbered from 0.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The name shown to people and in metrics; `unknown` for a number without one.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => $text,)+
                    _ => "unknown",
                }
            }
        }
    };
}

codes! {
    /// What was decided about a flow.
    Verdict(u8) {
        /// The flow goes on.
        Allowed = 0 => "allowed",
        /// The flow was refused with EPERM.
        Denied = 1 => "denied",
        /// The flow goes on, and would be refused without an audit rule or `default = "allow"`.
        WouldDeny = 2 => "would-deny",
    }
}

codes! {
    /// Why a verdict is what it is.
    Reason(u8) {
        /// A rule, or the default, decided.
        Policy = 0 => "policy",
        /// The caller's cgroup has not been seen yet, so nobody knows who calls.
        UnknownCaller = 1 => "unknown-caller",
        /// A map that the verdict or the flow's state needs is full.
        MapFull = 2 => "map-full",
        /// The policy in the kernel lacks an entry that must be there.
        MissingEntry = 3 => "missing-entry",
        /// The address is a service's VIP but no port of the service.
        NoSuchPort = 4 => "no-such-port",
        /// The service has no endpoint that this caller can reach.
        NoEndpoint = 5 => "no-endpoint",
        /// The endpoint is on another node and cannot be reached by mTLS.
        NoTunnel = 6 => "no-tunnel",
        /// The socket was made by a process of another service (or none), which may not call.
        SocketCreator = 7 => "socket-creator",
        /// Socket storage could not be had (`net.core.optmem_max`).
        NoSocketStorage = 8 => "no-socket-storage",
        /// The caller has `egress = "deny"` and no rule names the address.
        Egress = 9 => "egress",
        /// Nobody who may call has announced the flow: it comes from outside, from a raw socket
        /// or from a client that no hook has seen.
        NoTicket = 10 => "no-ticket",
        /// The address belongs to a service, and the process is not of its workload.
        PortOwner = 11 => "port-owner",
        /// Sockets of this kind go around the mesh.
        SocketKind = 12 => "socket-kind",
        /// An established flow that a later policy does not allow.
        LateDenial = 13 => "late-denial",
        /// The other end of a connection between nodes has not proven to be who it has to be.
        Identity = 14 => "identity",
        /// Its certificate is revoked.
        CertificateRevoked = 15 => "certificate-revoked",
    }
}

codes! {
    /// The hook that decided.
    Hook(u8) {
        /// `cgroup/connect4`.
        Connect4 = 0 => "connect4",
        /// `cgroup/connect6`.
        Connect6 = 1 => "connect6",
        /// `cgroup/sendmsg4`.
        Sendmsg4 = 2 => "sendmsg4",
        /// `cgroup/sendmsg6`.
        Sendmsg6 = 3 => "sendmsg6",
        /// `cgroup/bind4`.
        Bind4 = 4 => "bind4",
        /// `cgroup/bind6`.
        Bind6 = 5 => "bind6",
        /// `cgroup/sock_create`.
        SockCreate = 6 => "sock_create",
        /// `cgroup_skb/ingress`.
        Ingress = 7 => "ingress",
        /// No hook: the agent, which looks at established flows after a change.
        Sweep = 8 => "sweep",
        /// No hook: the agent, which carries calls between nodes.
        Tunnel = 9 => "tunnel",
    }
}

codes! {
    /// What a [`FlowRecord`](crate::FlowRecord) tells of a flow.
    FlowEvent(u8) {
        /// A connection was established. Recorded only while somebody wants to know.
        Opened = 0 => "open",
        /// It was closed.
        Closed = 1 => "close",
        /// It was allowed and never established.
        Failed = 2 => "failed",
        /// It goes on. No hook: the agent looks at open flows now and then.
        Updated = 3 => "update",
    }
}

codes! {
    /// How a connection ended, as far as the kernel's states tell.
    FlowEnd(u8) {
        /// It has not.
        None = 0 => "-",
        /// In order: both ends finished, the client first.
        ClientFin = 1 => "client-fin",
        /// In order: both ends finished, the server first.
        ServerFin = 2 => "server-fin",
        /// In order: both ends finished at the same time.
        BothFin = 3 => "both-fin",
        /// Not in order: a reset from either end, an abort or a timeout. The states do not tell
        /// which.
        Reset = 4 => "reset",
        /// Never established: the other end answered, and not with a connection.
        Refused = 5 => "refused",
        /// Never established: no segment came back before the client or its kernel gave up.
        Unanswered = 6 => "unanswered",
    }
}

codes! {
    /// What the kernel side counts about itself, per CPU.
    Counter(u32) {
        /// Denials whose record found the ring buffer full.
        RecordsLost = 0 => "records_lost",
        /// Flow updates without a series because the map of series was full.
        FlowSeriesDropped = 1 => "flow_series_dropped",
        /// Decisions without a series because the map of series was full.
        DecisionSeriesDropped = 2 => "decision_series_dropped",
        /// Cgroups that were created but could not be remembered.
        CgroupsDropped = 3 => "cgroups_dropped",
        /// Affinity entries that could not be stored: the caller's next choice is a fresh one.
        AffinityDropped = 4 => "affinity_dropped",
        /// Choices that shared a counter because the map of counters was full.
        SplitCountersShared = 5 => "split_counters_shared",
        /// Sockets that got no storage.
        SocketStorageFailed = 6 => "socket_storage_failed",
        /// UDP flows of one socket displaced by newer ones.
        UdpFlowsDisplaced = 7 => "udp_flows_displaced",
        /// Denials of any kind, also those whose series was dropped.
        Denials = 8 => "denials",
        /// Connections to another network namespace that got no ticket, because the map was full.
        TicketsDropped = 9 => "tickets_dropped",
        /// Calls to other nodes that the agent was not told about, because the map was full.
        RedirectsDropped = 10 => "redirects_dropped",
        /// Flow records that found their ring buffer full.
        FlowRecordsLost = 11 => "flow_records_lost",

        /// Requests without a series because the map of series was full.
        RequestSeriesDropped = 12 => "request_series_dropped",
        /// Frame heads of HTTP/2 that found their ring buffer full.
        HeadsLost = 13 => "heads_lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_densely_from_zero() {
        for (index, code) in Counter::ALL.iter().enumerate() {
            assert_eq!(code.0 as usize, index);
        }
        for (index, code) in Reason::ALL.iter().enumerate() {
            assert_eq!(usize::from(code.0), index);
        }
        for (index, code) in Hook::ALL.iter().enumerate() {
            assert_eq!(usize::from(code.0), index);
        }
        for (index, code) in FlowEvent::ALL.iter().enumerate() {
            assert_eq!(usize::from(code.0), index);
        }
        for (index, code) in FlowEnd::ALL.iter().enumerate() {
            assert_eq!(usize::from(code.0), index);
        }
        assert_eq!(Reason(200).name(), "unknown");
    }
}
