//! The verdict: the one place where rules are looked up, and where errors become denials.

use aya_ebpf::btf_maps::lpm_trie::Key;
use mesh_common::{
    Address, DEFAULT_RULE, Destination, PrefixKey, Reason, RuleKey, RuleSlots, SocketKey, Subject,
    Verdict, destination_flag,
};

use crate::caller::{Caller, Process};
use crate::maps::{EGRESS, InForce, RULES, SOURCES};

/// What was decided, and why.
#[derive(Clone, Copy)]
pub(crate) struct Decision {
    pub(crate) verdict: Verdict,
    pub(crate) reason: Reason,
    pub(crate) rule: u32,
}

impl Decision {
    #[inline(always)]
    pub(crate) fn allows(&self) -> bool {
        self.verdict.0 != Verdict::Denied.0
    }

    #[inline(always)]
    fn policy((verdict, rule): (Verdict, u32)) -> Self {
        Self {
            verdict,
            reason: Reason::Policy,
            rule,
        }
    }

    #[inline(always)]
    pub(crate) const fn denied(reason: Reason) -> Self {
        Self {
            verdict: Verdict::Denied,
            reason,
            rule: 0,
        }
    }
}

/// What an error on the way to a verdict means: the fail policy, once and for all.
///
/// Denied for a protected service, for a VIP as such, which leads nowhere without the mesh, and
/// for another node's endpoint, which is never called in clear. Anything else goes on as if
/// there were no mesh.
#[inline(always)]
pub(crate) fn on_error(reason: Reason, destination: &Destination) -> Decision {
    const CLOSED: u32 = destination_flag::PROTECTED
        | destination_flag::FRONTEND
        | destination_flag::VIP_ADDRESS
        | destination_flag::REMOTE;
    if destination.flags & CLOSED != 0 {
        Decision::denied(reason)
    } else {
        Decision {
            verdict: Verdict::Allowed,
            reason,
            rule: 0,
        }
    }
}

/// Judges `caller`, which is `process`, and, where it is somebody else, the creator of the socket: the stricter of
/// both decides. A creator without a cgroup is a process of no service.
#[inline(always)]
pub(crate) fn judge(
    policy: &InForce,
    caller: &Caller,
    process: &Process,
    creator: &Process,
    destination: &Destination,
) -> Decision {
    if caller.subject == Subject::UNKNOWN.0 {
        return on_error(caller.error, destination);
    }
    if destination.flags & destination_flag::VIP_ADDRESS != 0 {
        return Decision::denied(Reason::NoSuchPort);
    }
    if destination.flags & destination_flag::AMBIGUOUS != 0 {
        return on_error(Reason::MissingEntry, destination);
    }
    let decision = rules_of(policy, caller, destination);
    if !decision.allows() || destination.flags & destination_flag::PROTECTED == 0 {
        return decision;
    }
    if creator.cgroup == process.cgroup && creator.uid == process.uid {
        return decision;
    }
    stricter(policy, decision, caller, creator.maker(policy), destination)
}

/// `decision`, if the creator of the socket may call as well as `caller`.
#[inline(always)]
fn stricter(
    policy: &InForce,
    decision: Decision,
    caller: &Caller,
    creator: u32,
    destination: &Destination,
) -> Decision {
    if creator == caller.subject {
        return decision;
    }
    let creator = Caller::of(policy, creator);
    if creator.subject != Subject::UNKNOWN.0 && rules_of(policy, &creator, destination).allows() {
        return decision;
    }
    Decision::denied(Reason::SocketCreator)
}

/// Judges a flow that an earlier policy allowed to `source`, on a socket that `creator` made.
#[inline(always)]
pub(crate) fn judge_again(
    policy: &InForce,
    source: u32,
    creator: u32,
    destination: &Destination,
) -> Decision {
    let caller = Caller::of(policy, source);
    if caller.subject == Subject::UNKNOWN.0 {
        return on_error(caller.error, destination);
    }
    let decision = rules_of(policy, &caller, destination);
    if !decision.allows() {
        return decision;
    }
    stricter(policy, decision, &caller, creator, destination)
}

/// Judges a client outside this host's processes by its address.
#[inline(always)]
pub(crate) fn judge_address(
    policy: &InForce,
    address: &Address,
    destination: &Destination,
) -> Decision {
    let mut rules = RuleSlots::default();
    if destination.flags & destination_flag::ADDRESS_RULES != 0 {
        let key = Key::new(
            PrefixKey::BITS,
            PrefixKey::new(destination.frontend, 0, address.0),
        );
        if let Some(found) = SOURCES.get_value_ptr_mut(policy.slot, &key) {
            // SAFETY: valid while the program runs (RCU); the agent does not write the slot in
            // force.
            rules = unsafe { *found };
        }
    }
    let default_deny = destination.flags & destination_flag::DEFAULT_DENY != 0;
    let decision = Decision::policy(rules.verdict(default_deny, DEFAULT_RULE));
    if decision.verdict.0 == Verdict::Denied.0 && decision.rule == DEFAULT_RULE {
        Decision::denied(Reason::NoTicket)
    } else {
        decision
    }
}

#[inline(always)]
fn rules_of(policy: &InForce, caller: &Caller, destination: &Destination) -> Decision {
    let mut rules = RuleSlots::default();
    merge(policy, &mut rules, caller.subject, destination.frontend);
    if caller.namespace != 0 && destination.flags & destination_flag::NAMESPACE_RULES != 0 {
        merge(policy, &mut rules, caller.namespace, destination.frontend);
    }
    if destination.flags & destination_flag::ANY_RULES != 0 {
        merge(policy, &mut rules, Subject::ANY.0, destination.frontend);
    }
    let default_deny = destination.flags & destination_flag::DEFAULT_DENY != 0;
    Decision::policy(rules.verdict(default_deny, DEFAULT_RULE))
}

#[inline(always)]
fn merge(policy: &InForce, rules: &mut RuleSlots, subject: u32, frontend: u32) {
    if let Some(found) = policy.get(&RULES, &RuleKey { subject, frontend }) {
        rules.merge(&found);
    }
}

/// Judges a call that leaves the mesh, by a caller with `egress = "deny"`.
#[inline(always)]
pub(crate) fn judge_egress(policy: &InForce, caller: &Caller, dialled: &SocketKey) -> Decision {
    let mut rules = RuleSlots::default();
    merge_egress(policy, &mut rules, caller.subject, dialled.port, dialled);
    merge_egress(policy, &mut rules, caller.subject, 0, dialled);
    let decision = Decision::policy(rules.verdict(true, 0));
    if decision.allows() || decision.rule != 0 {
        decision
    } else {
        Decision::denied(Reason::Egress)
    }
}

#[inline(always)]
fn merge_egress(
    policy: &InForce,
    rules: &mut RuleSlots,
    subject: u32,
    port: u16,
    dialled: &SocketKey,
) {
    let key = Key::new(
        PrefixKey::BITS,
        PrefixKey::new(subject, port, dialled.address.0),
    );
    let Some(found) = EGRESS.get_value_ptr_mut(policy.slot, &key) else {
        return;
    };
    // SAFETY: valid while the program runs (RCU); the agent does not write the slot in force.
    let found = unsafe { *found };
    rules.merge(&found);
}
