//! How many entries there are, in which order, and how few of them a change touches.

use std::sync::Arc;

use std::collections::BTreeMap;

use mesh_common::{Selector, selector_kind};
use proptest::prelude::*;
use proptest::sample::Index;

use super::policies::{name, place, policy};
use super::{Entries, Ids, compile};
use crate::policy::model::{
    Action, DefaultAction, Egress, Mode, OnWeightChange, Policy, Port, Protocol, Rule, Service,
    ServiceName, Source, Target, Tls, Workload,
};

fn ascending<K: Ord, V>(entries: &[(K, V)]) -> bool {
    entries.windows(2).all(|pair| pair[0].0 < pair[1].0)
}

/// How many keys have another value, or one only here or only there.
fn changed<K: Ord, V: PartialEq>(old: &[(K, V)], new: &[(K, V)]) -> usize {
    let old: BTreeMap<_, _> = old.iter().map(|(key, value)| (key, value)).collect();
    let new: BTreeMap<_, _> = new.iter().map(|(key, value)| (key, value)).collect();
    let gone = old.keys().filter(|key| !new.contains_key(*key)).count();
    gone + new
        .iter()
        .filter(|(key, value)| old.get(*key) != Some(value))
        .count()
}

fn changes(old: &Entries, new: &Entries) -> usize {
    changed(&old.destinations, &new.destinations)
        + changed(&old.rules, &new.rules)
        + changed(&old.subjects, &new.subjects)
        + changed(&old.uids, &new.uids)
        + changed(&old.splits, &new.splits)
        + changed(&old.egress, &new.egress)
}

/// `policy` as if a service had never been declared.
fn without(policy: &Policy, name: &ServiceName) -> Policy {
    let mut policy = policy.clone();
    policy.services.remove(name);
    policy.splits.retain(|split| split.service != *name);
    for rule in policy.rules.iter_mut().map(Arc::make_mut) {
        rule.from
            .retain(|source| *source != Source::Service(name.clone()));
        rule.to
            .retain(|target| *target != Target::Service(name.clone()));
    }
    policy
}

proptest! {
    #[test]
    fn entries_are_sorted_and_always_the_same(policy in policy()) {
        let mut ids = Ids::new(1);
        let entries = compile(&policy, &mut ids);
        prop_assert!(ascending(&entries.destinations));
        prop_assert!(ascending(&entries.rules));
        prop_assert!(ascending(&entries.subjects));
        prop_assert!(ascending(&entries.uids));
        prop_assert!(ascending(&entries.splits));
        prop_assert!(ascending(&entries.egress));
        prop_assert_eq!(&compile(&policy, &mut Ids::new(1)), &entries);
        let known = ids.clone();
        prop_assert_eq!(&compile(&policy, &mut ids), &entries, "with known ids");
        prop_assert_eq!(&ids, &known, "nothing new to number");
    }

    #[test]
    fn ids_outlive_the_services_they_name(policy in policy(), index: Index) {
        let gone = policy.services.keys().nth(index.index(policy.services.len())).expect("one");
        let mut ids = Ids::new(1);
        let before = compile(&policy, &mut ids);
        let known = ids.clone();
        let less = compile(&without(&policy, gone), &mut ids);
        prop_assert_eq!(&ids, &known, "no name is new");
        prop_assert!(less.subjects.iter().all(|entry| before.subjects.contains(entry)));
        prop_assert_eq!(compile(&policy, &mut ids), before, "as if it had never been away");
    }

    #[test]
    fn names_that_come_later_take_no_id_away(policy in policy(), index: Index) {
        let late = policy.services.keys().nth(index.index(policy.services.len())).expect("one");
        let mut ids = Ids::new(1);
        compile(&without(&policy, late), &mut ids);
        let early = ids.clone();
        compile(&policy, &mut ids);
        for (early, all) in [
            (early.subjects.names(), ids.subjects.names()),
            (early.frontends.names(), ids.frontends.names()),
            (early.versions.names(), ids.versions.names()),
            (early.rules.names(), ids.rules.names()),
        ] {
            prop_assert!(early.iter().all(|(id, name)| all.get(id) == Some(name)));
        }
    }

    #[test]
    fn a_changed_rule_touches_what_it_names(policy in policy(), index: Index) {
        prop_assume!(!policy.rules.is_empty());
        let mut ids = Ids::new(1);
        let before = compile(&policy, &mut ids);
        let mut changed_policy = policy.clone();
        let rule = Arc::make_mut(&mut changed_policy.rules[index.index(policy.rules.len())]);
        rule.action = match rule.action {
            Action::Allow => Action::Deny,
            Action::Deny => Action::Allow,
        };
        let (callers, rule) = (rule.from.len(), rule.clone());
        let after = compile(&changed_policy, &mut ids);
        let services = super::services(&policy, &mut ids);
        let covered = super::rules::covered(&policy, &rule, &services);
        prop_assert!(changed(&before.rules, &after.rules) <= callers * covered.len());
        let keys = |(_, destination): &&(_, mesh_common::Destination)| {
            covered.contains(&destination.frontend)
        };
        let destinations = after.destinations.iter().filter(keys).count();
        prop_assert!(changed(&before.destinations, &after.destinations) <= destinations);
        prop_assert_eq!(before.splits, after.splits);
        prop_assert_eq!(before.subjects, after.subjects);
        prop_assert_eq!(before.selectors, after.selectors);
    }
}

/// `count` services with two ports each, in the namespace `shop`.
pub(super) fn shop(count: usize, rules: Vec<Rule>) -> Policy {
    let port = |name: &str, listen| Port {
        name: name.into(),
        listen,
        protocol: Protocol::Tcp,
    };
    let service = |number: usize| Service {
        name: name(&format!("shop/s{number}")),
        place: place(),
        vip: Some(std::net::Ipv4Addr::from_bits(0x0a60_0000 + number as u32).into()),
        ports: vec![port("http", 80), port("admin", 81)],
        workload: None,
        workload_place: place(),
        egress: Egress::Allow,
        affinity: None,
        on_weight_change: OnWeightChange::Keep,
        tls: Tls::Strict,
        endpoints: Vec::new(),
    };
    Policy {
        default: DefaultAction::Deny,
        default_place: None,
        nodes: Vec::new(),
        services: (0..count)
            .map(service)
            .map(|service| (service.name.clone(), service))
            .collect(),
        splits: Vec::new(),
        rules: rules.into_iter().map(Arc::new).collect(),
    }
}

pub(super) fn allow(name: &str, from: Source, to: Target) -> Rule {
    Rule {
        name: name.into(),
        action: Action::Allow,
        mode: Mode::Enforce,
        from: vec![from],
        to: vec![to],
        ports: Vec::new(),
        place: place(),
    }
}

#[test]
fn a_wildcard_costs_an_entry_for_each_port_and_none_for_each_pair() {
    let every = Target::Namespace("shop".into());
    for services in [1, 10, 200] {
        for from in [Source::Any, Source::Namespace("shop".into())] {
            let policy = shop(services, vec![allow("wide", from, every.clone())]);
            let entries = compile(&policy, &mut Ids::new(1));
            assert_eq!(entries.rules.len(), services * 2);
        }
        let entries = compile(&shop(services, Vec::new()), &mut Ids::new(1));
        // A VIP as such, and each of its ports.
        assert_eq!(entries.destinations.len(), services * 3);
        assert_eq!(entries.rules.len(), 0);
    }
}

#[test]
fn one_rule_more_among_many_is_two_entries_more() {
    let rules: Vec<Rule> = (0..199)
        .map(|number| {
            let from = Source::Service(name(&format!("shop/s{number}")));
            let to = Target::Service(name(&format!("shop/s{}", number + 1)));
            allow(&format!("r{number}"), from, to)
        })
        .collect();
    let mut ids = Ids::new(1);
    let before = compile(&shop(200, rules[1..].to_vec()), &mut ids);
    let after = compile(&shop(200, rules), &mut ids);
    assert_eq!(changes(&before, &after), 2);
}

fn selectors(workloads: &[&str]) -> Vec<(u8, String)> {
    let mut policy = shop(workloads.len(), Vec::new());
    for (service, text) in policy.services.values_mut().zip(workloads) {
        service.workload = Some(match text.parse::<u32>() {
            Ok(uid) => Workload::Uid(uid),
            Err(_) if text.starts_with('/') => Workload::Cgroup((*text).into()),
            Err(_) => Workload::Systemd((*text).into()),
        });
    }
    let shown = |selector: Selector| {
        let pattern = String::from_utf8_lossy(selector.pattern()).into_owned();
        (selector.kind, pattern)
    };
    let entries = compile(&policy, &mut Ids::new(1));
    entries.selectors.into_iter().map(shown).collect()
}

#[test]
fn selectors_without_a_wildcard_come_first_and_else_as_the_services_do() {
    let (unit, path) = (selector_kind::UNIT, selector_kind::PATH);
    assert_eq!(
        selectors(&[
            "a-*.service",
            "a-1.service",
            "/k.slice/c-?.scope",
            "1001",
            "b-c.slice",
            "z.service"
        ]),
        [
            (unit, "a-1.service".to_owned()),
            (path, "/b.slice/b-c.slice".to_owned()),
            (unit, "z.service".to_owned()),
            (unit, "a-*.service".to_owned()),
            (path, "/k.slice/c-?.scope".to_owned()),
        ]
    );
}
