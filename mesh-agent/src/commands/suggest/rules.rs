//! From what was counted to rules. Pure: the policy and the counters come in.
//!
//! Counters tell who called whom by which protocol, and records, which are not made of every
//! call, by which port. A rule is suggested for what the policy of now would refuse, or only
//! lets pass while migrating; calls of before that a rule allows by now are left out.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_common::{IPPROTO_UDP, Reason, Verdict};
use serde::Serialize;

use crate::policy::eval::{Caller, Decision, evaluate};
use crate::policy::model::{Action, Policy, Port, Service, ServiceName};
use crate::telemetry::denials::DenialView;
use crate::telemetry::observed::{DecisionView, Observed};

/// What comes of it; also the JSON document.
#[derive(Debug, Serialize)]
pub(super) struct Suggestions {
    pub(super) schema_version: u32,
    /// Since when calls were counted, seconds since 1970.
    pub(super) since_unix_seconds: f64,
    pub(super) rules: Vec<Suggested>,
    pub(super) not_suggested: Vec<Left>,
}

/// A rule.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Suggested {
    pub(super) name: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) ports: Vec<String>,
    /// Calls that were counted.
    pub(super) calls: u64,
    /// How far the ports are known.
    pub(super) known: Known,
}

/// How far it is known which ports were called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Known {
    /// These and no others.
    Exactly,
    /// These at least.
    AtLeast,
    /// Not at all: these are all there are.
    All,
}

/// Calls that no rule is suggested for.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Left {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) calls: u64,
    pub(super) why: String,
}

/// Who called whom.
type Pair<'o> = (&'o str, &'o str);

/// Decisions by who called whom.
type Pairs<'o> = BTreeMap<Pair<'o>, Vec<&'o DecisionView>>;

pub(super) fn suggestions(policy: &Policy, observed: &Observed, denied: bool) -> Suggestions {
    let (mut wanted, mut by_default) = (Pairs::new(), Pairs::new());
    let mut outside = Pairs::new();
    let mut not_suggested = Vec::new();
    for decision in observed
        .decisions
        .iter()
        .filter(|decision| decision.count > 0)
    {
        let pair = (&*decision.source_service, &*decision.destination_service);
        match sort(decision) {
            Sorted::WouldDeny => wanted.entry(pair).or_default().push(decision),
            Sorted::ByDefault if denied => wanted.entry(pair).or_default().push(decision),
            Sorted::ByDefault => by_default.entry(pair).or_default().push(decision),
            Sorted::Outside => outside.entry(pair).or_default().push(decision),
            Sorted::Left(why) => not_suggested.push(left(pair, decision.count, why)),
            Sorted::Fine => {}
        }
    }
    let mut rules = Vec::new();
    let mut names: HashSet<String> = policy.rules.iter().map(|r| r.name.to_string()).collect();
    for (pair, decisions) in wanted {
        let seen = Seen::new(&decisions, &observed.recorded, pair);
        match seen.rule(policy, pair) {
            Ok(Some((ports, known))) => rules.push(Suggested {
                name: unused_name(pair, &mut names),
                from: pair.0.into(),
                to: pair.1.into(),
                ports,
                calls: seen.calls,
                known,
            }),
            Ok(None) => {}
            Err(why) => not_suggested.push(left(pair, seen.calls, &why)),
        }
    }
    for (pair, decisions) in outside {
        let seen = Seen::new(&decisions, &observed.recorded, pair);
        if let Some(why) = seen.about_outside(policy, pair) {
            not_suggested.push(left(pair, seen.calls, &why));
        }
    }
    for (pair, decisions) in by_default {
        let seen = Seen::new(&decisions, &observed.recorded, pair);
        if let Ok(Some(_)) = seen.rule(policy, pair) {
            not_suggested.push(left(pair, seen.calls, BY_DEFAULT));
        }
    }
    Suggestions {
        schema_version: 1,
        since_unix_seconds: observed.since_unix_seconds,
        rules,
        not_suggested: added_up(not_suggested),
    }
}

/// What is to be done about a series.
enum Sorted {
    /// A rule would let pass what only passes while migrating.
    WouldDeny,
    /// A rule would let pass what the default denies.
    ByDefault,
    /// The same for a caller outside the mesh, whose address counters do not tell.
    Outside,
    Left(&'static str),
    Fine,
}

fn sort(decision: &DecisionView) -> Sorted {
    let is = |verdict: Verdict| decision.verdict == verdict.name();
    let of_policy = decision.reason == Reason::Policy.name();
    let (from, to) = (&*decision.source_service, &*decision.destination_service);
    match (from, to) {
        (_, "-") if is(Verdict::WouldDeny) => Sorted::Left(OUTSIDE),
        (_, "-") => Sorted::Fine,
        ("unknown", _) => Sorted::Left("nobody knows who called, so no rule can name the caller"),
        ("outside", _) if is(Verdict::WouldDeny) => Sorted::Outside,
        ("outside", _) => Sorted::Fine,
        _ if is(Verdict::WouldDeny) => Sorted::WouldDeny,
        _ if is(Verdict::Allowed) && !of_policy => Sorted::Left(UNPROTECTED),
        _ if is(Verdict::Denied) && decision.rule == "default" => Sorted::ByDefault,
        _ => Sorted::Fine,
    }
}

const OUTSIDE: &str =
    "what was called is outside the mesh: name its addresses by to = [{ cidr = \"..\" }]";
const UNPROTECTED: &str =
    "passed for another reason than a rule, and only while nothing protects the service";

/// Most addresses that are shown of one service's callers.
const MOST_SHOWN: usize = 10;
const BY_DEFAULT: &str = "denied by default: --denied suggests a rule";
const UNCLEAR: &str = "which port was called is not known, and rules allow some of them: see \
    whether the counter still rises";

fn left((from, to): Pair<'_>, calls: u64, why: &str) -> Left {
    Left {
        from: from.into(),
        to: to.into(),
        calls,
        why: why.into(),
    }
}

/// One line for each caller, callee and reason.
fn added_up(left: Vec<Left>) -> Vec<Left> {
    let mut calls: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    for Left {
        from,
        to,
        calls: more,
        why,
    } in left
    {
        *calls.entry((from, to, why)).or_default() += more;
    }
    let line = |((from, to, why), calls)| Left {
        from,
        to,
        calls,
        why,
    };
    calls.into_iter().map(line).collect()
}

/// What is known of the calls of one caller to one service.
struct Seen<'o> {
    calls: u64,
    /// Whether there were calls over TCP, and over UDP.
    protocols: BTreeSet<&'o str>,
    records: Vec<&'o DenialView>,
}

impl<'o> Seen<'o> {
    fn new(decisions: &[&'o DecisionView], records: &'o [DenialView], pair: Pair<'_>) -> Self {
        let of_pair = |record: &&DenialView| {
            let is_counted = |decision: &&DecisionView| {
                decision.verdict == record.verdict && decision.rule == record.rule
            };
            (&*record.source_service, &*record.destination_service) == pair
                && record.reason == "policy"
                && decisions.iter().any(is_counted)
        };
        Self {
            calls: decisions.iter().map(|decision| decision.count).sum(),
            protocols: decisions
                .iter()
                .map(|decision| &*decision.protocol)
                .collect(),
            records: records.iter().filter(of_pair).collect(),
        }
    }

    /// The ports of a rule and how far they are known; `None` if no rule is needed any more,
    /// an error if none would help.
    fn rule(
        &self,
        policy: &Policy,
        pair: Pair<'_>,
    ) -> Result<Option<(Vec<String>, Known)>, String> {
        let (caller, service) = resolve(policy, pair)?;
        let caller = caller.as_ref().map_or(Caller::Host, Caller::Service);
        let (recorded, complete) = self.recorded(service);
        let maybe_called = |port: &&Port| {
            self.protocols.contains(protocol(port)) && (!complete || recorded.contains(&port.name))
        };
        let ports = service.ports.iter().filter(maybe_called);
        let decided: Vec<(&Port, Decision<'_>)> = ports
            .map(|port| (port, evaluate(policy, caller, &service.name, port)))
            .collect();
        let open = decided.iter().filter(|(_, decision)| is_open(decision));
        let mut open: Vec<&Arc<str>> = open.map(|(port, _)| &port.name).collect();
        let known = match (open.len(), decided.len()) {
            (0, _) => return no_rule(&decided),
            (1, 1) => Known::Exactly,
            _ if complete => Known::Exactly,
            (some, all) if some == all => Known::All,
            // Some are allowed by now, and the calls may have been for those.
            _ => {
                open.retain(|port| recorded.contains(*port));
                Known::AtLeast
            }
        };
        if open.is_empty() {
            return Err(UNCLEAR.into());
        }
        Ok(Some((
            open.iter().map(ToString::to_string).collect(),
            known,
        )))
    }

    /// What to say of callers outside the mesh; `None` if rules allow all that are known.
    fn about_outside(&self, policy: &Policy, (_, to): Pair<'_>) -> Option<String> {
        let service = find(policy, to)?;
        let refused = |record: &&DenialView| {
            let peer: SocketAddr = record.peer.as_deref()?.parse().ok()?;
            let port = port_of(service, record)?;
            let caller = Caller::Outside(peer.ip());
            let decision = evaluate(policy, caller, &service.name, port);
            (decision.verdict != Verdict::Allowed).then(|| peer.ip())
        };
        let addresses: BTreeSet<IpAddr> = self.records.iter().filter_map(refused).collect();
        if addresses.is_empty() && !self.records.is_empty() {
            return None;
        }
        let seen: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let seen = match seen[..] {
            [] => String::new(),
            _ => format!(
                " (such as {})",
                seen[..seen.len().min(MOST_SHOWN)].join(", ")
            ),
        };
        Some(format!(
            "called from outside the mesh: name the addresses{seen} by from = [{{ cidr = \"..\" }}]"
        ))
    }

    /// Ports that records name, and whether there is a record of every call.
    fn recorded(&self, service: &Service) -> (BTreeSet<Arc<str>>, bool) {
        let mut ports = BTreeSet::new();
        let mut found = 0;
        for record in &self.records {
            if let Some(port) = port_of(service, record) {
                ports.insert(Arc::clone(&port.name));
                found += record.count;
            }
        }
        (ports, found >= self.calls)
    }
}

/// What to say where no port needs a rule: why none would help, if a `[[deny]]` refuses.
fn no_rule<T>(decided: &[(&Port, Decision<'_>)]) -> Result<Option<T>, String> {
    let mut rules = decided.iter().filter_map(|(_, decision)| decision.rule);
    match rules.find(|rule| rule.action == Action::Deny) {
        Some(rule) => Err(format!(
            "the [[deny]] `{}` ({}) is about it, and no [[allow]] beats a [[deny]]",
            rule.name, rule.place
        )),
        None => Ok(None),
    }
}

/// Whether an `[[allow]]` would make a difference.
fn is_open(decision: &Decision<'_>) -> bool {
    let denied_by_rule = decision
        .rule
        .is_some_and(|rule| rule.action == Action::Deny);
    decision.verdict != Verdict::Allowed && !denied_by_rule
}

/// Caller (`None` for the host) and callee, if they are declared still.
fn resolve<'p>(
    policy: &'p Policy,
    (from, to): Pair<'_>,
) -> Result<(Option<ServiceName>, &'p Service), String> {
    let gone = |name: &str| format!("`{name}` is not declared any more");
    let caller = match from {
        "host" => None,
        _ => Some(find(policy, from).ok_or_else(|| gone(from))?.name.clone()),
    };
    Ok((caller, find(policy, to).ok_or_else(|| gone(to))?))
}

fn find<'p>(policy: &'p Policy, name: &str) -> Option<&'p Service> {
    let (namespace, name) = name.split_once('/')?;
    let name = ServiceName {
        namespace: namespace.into(),
        name: name.into(),
    };
    policy.services.get(&name)
}

fn protocol(port: &Port) -> &'static str {
    if port.protocol.ip_protocol() == IPPROTO_UDP {
        "udp"
    } else {
        "tcp"
    }
}

/// The port of `service` that a record is about: that of its VIP, or the one whose endpoint was
/// dialled; `None` where that is not clear.
fn port_of<'p>(service: &'p Service, record: &DenialView) -> Option<&'p Port> {
    let dialled: SocketAddr = record.dialled.parse().ok()?;
    let speaks = |port: &&Port| protocol(port) == record.protocol;
    if service.vip == Some(dialled.ip()) {
        let mut ports = service.ports.iter().filter(speaks);
        return ports.find(|port| port.listen == dialled.port());
    }
    let endpoints = service.endpoints.iter();
    let mut indexes: Vec<usize> = endpoints
        .filter(|endpoint| endpoint.address.port() == dialled.port())
        .map(|endpoint| endpoint.port)
        .filter(|index| service.ports.get(*index).as_ref().is_some_and(speaks))
        .collect();
    indexes.sort_unstable();
    indexes.dedup();
    match indexes[..] {
        [index] => service.ports.get(index),
        _ => None,
    }
}

/// A name that no rule has.
fn unused_name((from, to): Pair<'_>, used: &mut HashSet<String>) -> String {
    /// Longest name of a rule.
    const LONGEST: usize = 63;
    let base = format!("suggested-{from}-to-{to}").replace('/', "-");
    let cut = |suffix: &str| {
        let length = base.len().min(LONGEST - suffix.len());
        format!("{}{suffix}", &base[..length])
    };
    let numbered = (2u64..).map(|number| cut(&format!("-{number}")));
    let mut names = std::iter::once(cut("")).chain(numbered);
    let unused = names.find(|name| !used.contains(name));
    let name = unused.expect("numbers do not end");
    used.insert(name.clone());
    name
}
