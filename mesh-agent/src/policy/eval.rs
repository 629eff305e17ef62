//! The reference evaluator: the verdict on one flow, straight from the model.
//!
//! Comes in: a policy, a caller and what is called. Goes out: the verdict and the rule it is
//! due to. `explain` shows this, and `compile` is tested against it.

use std::net::IpAddr;

use mesh_common::Verdict;

use super::model::{
    Action, DefaultAction, Egress, Mode, Policy, Port, PortMatch, Rule, Service, ServiceName,
    Source, Split, Target, Tls,
};

#[cfg(test)]
mod tests;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller<'a> {
    /// A local process of a service.
    Service(&'a ServiceName),
    /// A local process of no service.
    Host,
    /// A process of no service on another node, which has proven to be of that node.
    Node(&'a str),
    /// A client outside the mesh.
    Outside(IpAddr),
}

/// A verdict and what it is due to.
#[derive(Clone, Debug)]
pub struct Decision<'p> {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule that decided; `None` for the default.
    pub rule: Option<&'p Rule>,
    /// Every rule that matches, in file order.
    pub matched: Vec<&'p Rule>,
}

/// The verdict on `caller` dialling `port` of `service`.
pub fn evaluate<'p>(
    policy: &'p Policy,
    caller: Caller<'_>,
    service: &ServiceName,
    port: &Port,
) -> Decision<'p> {
    let to = |target: &Target| match target {
        Target::Service(name) => name == service,
        Target::Namespace(namespace) => *namespace == service.namespace,
        Target::Cidr(_) => false,
    };
    let ports = |wanted: &PortMatch| wanted.matches(port);
    if refuses_clear(policy, caller, service) {
        return decide(Vec::new(), policy.default);
    }
    decide(matching(policy, caller, to, ports), policy.default)
}

/// The verdict on `caller` dialling `port` of an `address` that is nothing of the mesh's.
pub fn evaluate_egress<'p>(
    policy: &'p Policy,
    caller: Caller<'_>,
    address: IpAddr,
    port: u16,
) -> Decision<'p> {
    if !denies_egress(policy, caller) {
        return Decision {
            verdict: Verdict::Allowed,
            rule: None,
            matched: Vec::new(),
        };
    }
    let to = |target: &Target| matches!(target, Target::Cidr(net) if net.contains(&address));
    let ports = |wanted: &PortMatch| *wanted == PortMatch::Number(port);
    decide(matching(policy, caller, to, ports), DefaultAction::Deny)
}

/// The split that holds for `caller` dialling `service`.
pub fn split_for<'p>(
    policy: &'p Policy,
    caller: Caller<'_>,
    service: &ServiceName,
) -> Option<&'p Split> {
    let of_service = policy
        .splits
        .iter()
        .filter(|split| split.service == *service);
    let matching = of_service.filter_map(|split| Some((split_rank(split, caller)?, split)));
    matching
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, split)| split)
}

/// Whether a client known by its address is a node of the mesh, which `service` takes by mTLS
/// only: no rule about addresses is for it.
fn refuses_clear(policy: &Policy, caller: Caller<'_>, service: &ServiceName) -> bool {
    let Caller::Outside(address) = caller else {
        return false;
    };
    let is_node = policy.nodes.iter().any(|node| node.address == address);
    let strict = |service: &Service| service.tls == Tls::Strict;
    is_node && policy.services.get(service).is_some_and(strict)
}

fn denies_egress(policy: &Policy, caller: Caller<'_>) -> bool {
    match caller {
        Caller::Service(name) => policy
            .services
            .get(name)
            .is_some_and(|service| service.egress == Egress::Deny),
        Caller::Host | Caller::Node(_) | Caller::Outside(_) => false,
    }
}

/// How near a source is to a caller that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Itself,
    Namespace,
    Everyone,
}

fn rank(source: &Source, caller: Caller<'_>) -> Option<Rank> {
    match (source, caller) {
        (Source::Any, Caller::Host | Caller::Service(_) | Caller::Node(_)) => Some(Rank::Everyone),
        (Source::Node(node), Caller::Node(caller)) => (**node == *caller).then_some(Rank::Itself),
        (Source::Cidr(net), Caller::Outside(address)) => {
            net.contains(&address).then_some(Rank::Itself)
        }
        (Source::Host, Caller::Host) => Some(Rank::Itself),
        (Source::Service(name), Caller::Service(caller)) => {
            (name == caller).then_some(Rank::Itself)
        }
        (Source::Namespace(namespace), Caller::Service(caller)) => {
            (*namespace == caller.namespace).then_some(Rank::Namespace)
        }
        (
            Source::Service(_) | Source::Namespace(_),
            Caller::Host | Caller::Node(_) | Caller::Outside(_),
        )
        | (Source::Host, Caller::Service(_) | Caller::Node(_) | Caller::Outside(_))
        | (Source::Any, Caller::Outside(_))
        | (Source::Cidr(_) | Source::Node(_), _) => None,
    }
}

fn split_rank(split: &Split, caller: Caller<'_>) -> Option<Rank> {
    if split.from.is_empty() {
        return Some(Rank::Everyone);
    }
    split
        .from
        .iter()
        .filter_map(|source| rank(source, caller))
        .min()
}

/// The rules that match, in file order, each with its nearest source.
fn matching<'p>(
    policy: &'p Policy,
    caller: Caller<'_>,
    to: impl Fn(&Target) -> bool,
    port: impl Fn(&PortMatch) -> bool,
) -> Vec<(Rank, &'p Rule)> {
    let ranked = |rule: &'p Rule| {
        let rank = rule
            .from
            .iter()
            .filter_map(|source| rank(source, caller))
            .min()?;
        let ports = rule.ports.is_empty() || rule.ports.iter().any(&port);
        (ports && rule.to.iter().any(&to)).then_some((rank, rule))
    };
    policy
        .rules
        .iter()
        .map(|rule| &**rule)
        .filter_map(ranked)
        .collect()
}

fn decide(matching: Vec<(Rank, &Rule)>, default: DefaultAction) -> Decision<'_> {
    // The first of equal ranks, which is the one earlier in the files.
    let nearest = |action: Action, mode: Mode| {
        let of_kind = matching
            .iter()
            .filter(|(_, rule)| rule.action == action && rule.mode == mode);
        of_kind.min_by_key(|(rank, _)| *rank).map(|(_, rule)| *rule)
    };
    let audit_deny = nearest(Action::Deny, Mode::Audit);
    let audit_allow = nearest(Action::Allow, Mode::Audit);
    let allow = nearest(Action::Allow, Mode::Enforce);
    let (verdict, rule) = if let Some(deny) = nearest(Action::Deny, Mode::Enforce) {
        (Verdict::Denied, Some(deny))
    } else if allow.is_some() && audit_deny.is_none() {
        (Verdict::Allowed, allow)
    } else if allow.is_some() || audit_allow.is_some() {
        (Verdict::WouldDeny, audit_deny.or(audit_allow))
    } else {
        match default {
            DefaultAction::Deny => (Verdict::Denied, None),
            DefaultAction::Allow => (Verdict::WouldDeny, audit_deny),
        }
    };
    Decision {
        verdict,
        rule,
        matched: matching.into_iter().map(|(_, rule)| rule).collect(),
    }
}
