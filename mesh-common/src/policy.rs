//! The compiled policy as the kernel sees it.

/// How many copies of the policy the kernel holds: one in force, one to write the next into.
pub const SLOTS: u32 = 2;

/// Which copy is in force. One word, so that changing it is atomic.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Active {
    /// Slot number plus one; 0 before the first policy: nothing is in force.
    pub slot_plus_one: u32,
}
const _: () = assert!(size_of::<Active>() == 4);

/// What a slot's policy holds, one entry per slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyHeader {
    /// Counts applied policies, from 1.
    pub revision: u64,
    /// How many entries of the selector list are used.
    pub selectors: u32,
    /// [`header_flag`] bits.
    pub flags: u32,
    /// Names the assignment of ids to names; counters of another one mean other things.
    pub id_epoch: u64,
}
const _: () = assert!(size_of::<PolicyHeader>() == 24);

/// Bits of [`PolicyHeader::flags`].
pub mod header_flag {
    /// Some service is selected by uid.
    pub const UID_SELECTORS: u32 = 1;
    /// Some service has `egress = "deny"`.
    pub const EGRESS_DENY: u32 = 1 << 1;
    /// A cgroup below a service's may be another service, so an unseen one is nobody.
    pub const NESTED_SELECTORS: u32 = 1 << 2;
    /// Some protected endpoint of this node takes datagrams.
    pub const UDP_ENDPOINTS: u32 = 1 << 3;
    /// Some endpoint of this node speaks HTTP or gRPC.
    pub const HTTP_ENDPOINTS: u32 = 1 << 4;
    /// Services may make raw sockets.
    pub const ALLOW_RAW: u32 = 1 << 8;
    /// Services may make ping sockets (ICMP datagrams).
    pub const ALLOW_PING: u32 = 1 << 9;
    /// Services may make MPTCP sockets.
    pub const ALLOW_MPTCP: u32 = 1 << 10;
    /// Services may make SCTP sockets.
    pub const ALLOW_SCTP: u32 = 1 << 11;
    /// Services may make SMC sockets.
    pub const ALLOW_SMC: u32 = 1 << 12;
    /// Services may make UDP-Lite sockets.
    pub const ALLOW_UDPLITE: u32 = 1 << 13;
    /// Services may make IP sockets of any other kind.
    pub const ALLOW_OTHER: u32 = 1 << 14;
}

/// The rule id of `[mesh] default`.
pub const DEFAULT_RULE: u32 = 1;

/// Who may reach a frontend, by caller.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleKey {
    /// [`Subject`](crate::Subject) id: a service, its namespace, host or any.
    pub subject: u32,
    /// Frontend id.
    pub frontend: u32,
}
const _: () = assert!(size_of::<RuleKey>() == 8);

/// The first rule of each kind that names a caller and a frontend; rule id 0 is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleSlots {
    /// An enforced `[[deny]]`.
    pub deny: u32,
    /// A `[[deny]]` in audit mode.
    pub deny_audit: u32,
    /// An enforced `[[allow]]`.
    pub allow: u32,
    /// An `[[allow]]` in audit mode.
    pub allow_audit: u32,
}
const _: () = assert!(size_of::<RuleSlots>() == 16);

impl RuleSlots {
    /// Fills what is still empty from `other`: more specific callers are merged first.
    #[inline(always)]
    pub fn merge(&mut self, other: &Self) {
        if self.deny == 0 {
            self.deny = other.deny;
        }
        if self.deny_audit == 0 {
            self.deny_audit = other.deny_audit;
        }
        if self.allow == 0 {
            self.allow = other.allow;
        }
        if self.allow_audit == 0 {
            self.allow_audit = other.allow_audit;
        }
    }

    /// The verdict of these rules and the rule it is due to. This is the one place, for the
    /// kernel and for `compile`'s tests, where deny beats allow, and audit denies nothing.
    #[inline(always)]
    pub fn verdict(&self, default_deny: bool, default_rule: u32) -> (crate::Verdict, u32) {
        use crate::Verdict;
        if self.deny != 0 {
            return (Verdict::Denied, self.deny);
        }
        let would_deny = if self.deny_audit != 0 {
            self.deny_audit
        } else {
            self.allow_audit
        };
        if self.allow != 0 {
            return if self.deny_audit != 0 {
                (Verdict::WouldDeny, self.deny_audit)
            } else {
                (Verdict::Allowed, self.allow)
            };
        }
        if self.allow_audit != 0 {
            return (Verdict::WouldDeny, would_deny);
        }
        if default_deny {
            (Verdict::Denied, default_rule)
        } else if self.deny_audit != 0 {
            (Verdict::WouldDeny, self.deny_audit)
        } else {
            (Verdict::WouldDeny, default_rule)
        }
    }
}

/// Key of the tries of addresses outside the mesh: those that a caller with `egress = "deny"` may
/// reach, and those that may reach a frontend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefixKey {
    /// Subject id of the calling service, or id of the frontend, big-endian.
    pub owner: [u8; 4],
    /// The port, big-endian; 0 for rules that name no port.
    pub port: [u8; 2],
    /// Zero.
    pub _pad: [u8; 2],
    /// The address, IPv4-mapped where it is IPv4.
    pub address: [u8; 16],
}
const _: () = assert!(size_of::<PrefixKey>() == 24);

impl PrefixKey {
    /// Bits before the address: always compared.
    pub const FIXED_BITS: u32 = 64;
    /// All bits.
    pub const BITS: u32 = 192;

    /// The key of an owner, a port (host order; 0 for any) and an address.
    #[inline(always)]
    pub const fn new(owner: u32, port: u16, address: [u8; 16]) -> Self {
        Self {
            owner: owner.to_be_bytes(),
            port: port.to_be_bytes(),
            _pad: [0; 2],
            address,
        }
    }
}
