//! The kernel side's verdict on an established flow: the same lookups in the same order as
//! `mesh-ebpf` (`caller.rs`, `verdict.rs`, `choose.rs`), on the entries themselves.
//!
//! It differs in one thing. An error is a denial for a protected service only: what `connect()`
//! refuses for lack of a way to go on is here already on its way.

use std::collections::HashMap;

use mesh_common::{
    Address, DEFAULT_RULE, Destination, EndpointEntry, PrefixKey, Reason, RuleKey, RuleSlots,
    ScheduleSlot, SocketKey, Split, SplitKey, Subject, SubjectInfo, Verdict, destination_flag,
    header_flag, subject_flag,
};

/// The entries in force; see [`Entries`](super::compile::Entries).
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields are those of Entries")]
pub struct InForce<'e> {
    pub destinations: &'e [(SocketKey, Destination)],
    pub rules: &'e [(RuleKey, RuleSlots)],
    pub subjects: &'e [(u32, SubjectInfo)],
    pub uids: &'e [(u32, u32)],
    pub splits: &'e [(SplitKey, Split)],
    pub schedule: &'e [ScheduleSlot],
    pub endpoints: &'e [EndpointEntry],
    pub egress: &'e [((u32, PrefixKey), RuleSlots)],
    pub sources: &'e [((u32, PrefixKey), RuleSlots)],
    pub header_flags: u32,
}

/// What was decided, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule, 0 where the reason is not policy.
    pub rule: u32,
}

impl Decision {
    /// A verdict of rules.
    fn policy((verdict, rule): (Verdict, u32)) -> Self {
        Self {
            verdict,
            reason: Reason::Policy,
            rule,
        }
    }

    /// An error on the way to a verdict.
    fn error(reason: Reason, destination: &Destination) -> Self {
        let protected = destination.flags & destination_flag::PROTECTED != 0;
        Self {
            verdict: if protected {
                Verdict::Denied
            } else {
                Verdict::Allowed
            },
            reason,
            rule: 0,
        }
    }

    /// Whether the flow may go on.
    pub fn allows(&self) -> bool {
        self.verdict != Verdict::Denied
    }
}

/// The endpoint that a call was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Chosen {
    /// One that the kernel connected to.
    Here(SocketKey),
    /// One on another node, by its id.
    Elsewhere(u32),
}

/// A destination for each frontend: that of its VIP, or of an endpoint.
#[derive(Clone, Debug, Default)]
pub struct Frontends(HashMap<u32, Destination>);

impl Frontends {
    /// Those of `destinations`.
    pub fn new(destinations: &[(SocketKey, Destination)]) -> Self {
        let mut found = HashMap::new();
        for (key, destination) in destinations {
            let (frontend, flags) = (destination.frontend, destination.flags);
            if flags & destination_flag::FRONTEND != 0 {
                found.insert(frontend, *destination);
            } else if frontend != 0 && key.address != Address::LOCAL {
                found.entry(frontend).or_insert(*destination);
            }
        }
        Self(found)
    }

    /// What the frontend is.
    pub fn get(&self, frontend: u32) -> Option<&Destination> {
        self.0.get(&frontend)
    }
}

fn find<K: Ord, V: Copy>(entries: &[(K, V)], key: &K) -> Option<V> {
    let found = entries.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
    entries.get(found).map(|(_, value)| *value)
}

/// The entry of `owner` with the longest prefix that covers the address.
fn longest(
    entries: &[((u32, PrefixKey), RuleSlots)],
    owner: u32,
    port: u16,
    address: &Address,
) -> Option<RuleSlots> {
    let number = u128::from_be_bytes(address.0);
    let mut lengths = (PrefixKey::FIXED_BITS..=PrefixKey::BITS).rev();
    lengths.find_map(|bits| {
        let free = PrefixKey::BITS - bits;
        let prefix = number.checked_shr(free).unwrap_or(0);
        let masked = prefix.checked_shl(free).unwrap_or(0);
        let key = PrefixKey::new(owner, port, masked.to_be_bytes());
        find(entries, &(bits, key))
    })
}

impl InForce<'_> {
    /// What `remote` means. `is_local` tells whether an address is one of this host's besides
    /// loopback; loopback itself must be the agent's own.
    pub fn destination(
        &self,
        remote: &SocketKey,
        is_local: impl Fn(&Address) -> bool,
    ) -> Option<Destination> {
        // `::` is spelled like the entry for any address.
        let exact = Some(remote).filter(|remote| remote.address != Address::LOCAL);
        if let Some(exact) = exact.and_then(|remote| find(self.destinations, remote)) {
            return Some(exact);
        }
        let here = |address: &Address| address.is_loopback_or_unspecified() || is_local(address);
        // The port first, other than in the kernel but to the same effect: few are declared.
        let endpoint = find(self.destinations, &remote.at_any_address())
            .filter(|found| here(&remote.address) && here(&found.home));
        endpoint.or_else(|| {
            let vip = SocketKey::new(remote.address, 0, 0);
            find(self.destinations, &vip)
        })
    }

    /// The subject of a process in a cgroup of `subject`.
    pub fn with_uid(&self, subject: u32, uid: u32) -> u32 {
        if subject == Subject::HOST.0 && self.header_flags & header_flag::UID_SELECTORS != 0 {
            return find(self.uids, &uid).unwrap_or(subject);
        }
        subject
    }

    /// Whether the policy knows a caller.
    pub fn knows(&self, subject: u32) -> bool {
        subject == Subject::HOST.0 || self.info(subject).is_some()
    }

    fn info(&self, subject: u32) -> Option<SubjectInfo> {
        find(self.subjects, &subject)
    }

    /// The verdict on `caller`, and, if it is somebody else, `creator` of the socket.
    pub fn judge(&self, caller: u32, creator: u32, destination: &Destination) -> Decision {
        if !self.knows(caller) {
            return Decision::error(Reason::UnknownCaller, destination);
        }
        if destination.flags & destination_flag::VIP_ADDRESS != 0 {
            return Decision::error(Reason::NoSuchPort, destination);
        }
        if destination.flags & destination_flag::AMBIGUOUS != 0 {
            return Decision::error(Reason::MissingEntry, destination);
        }
        let decision = self.rules_of(caller, destination);
        let protected = destination.flags & destination_flag::PROTECTED != 0;
        if !decision.allows() || !protected {
            return decision;
        }
        if destination.flags & destination_flag::REMOTE != 0 {
            // Bytes for another node's endpoint, in clear.
            return Decision::error(Reason::NoTunnel, destination);
        }
        let may = |creator| self.knows(creator) && self.rules_of(creator, destination).allows();
        if creator == caller || may(creator) {
            return decision;
        }
        Decision::error(Reason::SocketCreator, destination)
    }

    fn rules_of(&self, caller: u32, destination: &Destination) -> Decision {
        let namespace = self.info(caller).map(|info| info.namespace);
        let mut rules = RuleSlots::default();
        for subject in [Some(caller), namespace, Some(Subject::ANY.0)] {
            let Some(subject) = subject.filter(|subject| *subject != 0) else {
                continue;
            };
            let key = RuleKey {
                subject,
                frontend: destination.frontend,
            };
            if let Some(found) = find(self.rules, &key) {
                rules.merge(&found);
            }
        }
        let default_deny = destination.flags & destination_flag::DEFAULT_DENY != 0;
        Decision::policy(rules.verdict(default_deny, DEFAULT_RULE))
    }

    /// Whether some caller may not leave the mesh without a rule.
    pub fn denies_egress(&self) -> bool {
        self.header_flags & header_flag::EGRESS_DENY != 0
    }

    /// The verdict on `caller` reaching `remote`, which is nothing of the mesh's; `None` if it
    /// may leave the mesh anyway.
    pub fn judge_egress(&self, caller: u32, remote: &SocketKey) -> Option<Decision> {
        if !self.denies_egress() {
            return None;
        }
        let info = self.info(caller)?;
        if info.flags & subject_flag::EGRESS_DENY == 0 {
            return None;
        }
        let mut rules = RuleSlots::default();
        for port in [remote.port, 0] {
            if let Some(found) = longest(self.egress, caller, port, &remote.address) {
                rules.merge(&found);
            }
        }
        let (verdict, rule) = rules.verdict(true, 0);
        let reason = if rule == 0 {
            Reason::Egress
        } else {
            Reason::Policy
        };
        Some(Decision {
            verdict,
            reason,
            rule,
        })
    }

    /// The verdict on a client outside this host's processes, which is known by its address.
    pub fn judge_address(&self, client: &Address, destination: &Destination) -> Decision {
        let rules = longest(self.sources, destination.frontend, 0, client).unwrap_or_default();
        let default_deny = destination.flags & destination_flag::DEFAULT_DENY != 0;
        let decision = Decision::policy(rules.verdict(default_deny, DEFAULT_RULE));
        if !decision.allows() && decision.rule == DEFAULT_RULE {
            return Decision::error(Reason::NoTicket, destination);
        }
        decision
    }

    /// Whether a new call by `caller` to the frontend of `destination` can get `endpoint`.
    pub fn reaches(&self, caller: u32, destination: &Destination, endpoint: &Chosen) -> bool {
        let Some(split) = self.split(caller, destination) else {
            return false;
        };
        let at = split.offset as usize;
        let slots = self.schedule.get(at..at + split.period as usize);
        let is_it = |index: u32| {
            let entry = self.endpoints.get(index as usize);
            entry.is_some_and(|e| match endpoint {
                Chosen::Here(at) => e.target == 0 && e.address == at.address && e.port == at.port,
                Chosen::Elsewhere(target) => e.target == *target,
            })
        };
        let mut last = None;
        slots.unwrap_or_default().iter().any(|slot| {
            if slot.b == ScheduleSlot::ENDPOINT {
                return is_it(slot.a);
            }
            // Neighbours are often the same, and a set is looked through once for each run.
            if last.replace(slot.a) == Some(slot.a) {
                return false;
            }
            let header = slot.a as usize;
            let size = self.schedule.get(header).map_or(0, |header| header.a);
            let members = self.schedule.get(header + 1..header + 1 + size as usize);
            members.unwrap_or_default().iter().any(|m| is_it(m.a))
        })
    }

    fn split(&self, caller: u32, destination: &Destination) -> Option<Split> {
        let namespace = self.info(caller).map_or(0, |info| info.namespace);
        let particular = destination.flags & destination_flag::CALLER_SPLITS != 0;
        let callers = [caller, namespace, 0];
        let skipped = if particular { 0 } else { 2 };
        callers.into_iter().skip(skipped).find_map(|subject| {
            let key = SplitKey {
                subject,
                frontend: destination.frontend,
            };
            find(self.splits, &key)
        })
    }
}

impl super::compile::Entries {
    /// These entries, as if they were in force.
    pub fn in_force(&self) -> InForce<'_> {
        InForce {
            destinations: &self.destinations,
            rules: &self.rules,
            subjects: &self.subjects,
            uids: &self.uids,
            splits: &self.splits,
            schedule: &self.schedule,
            endpoints: &self.endpoints,
            egress: &self.egress,
            sources: &self.sources,
            header_flags: self.header_flags,
        }
    }
}
