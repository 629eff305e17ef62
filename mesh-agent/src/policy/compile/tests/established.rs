//! Established flows are judged as the evaluator judges new ones.

use mesh_common::{SocketKey, Subject, Verdict, destination_flag};
use proptest::prelude::*;

use super::policies::{outside, policy};
use super::verdicts::callers;
use super::{Ids, address, compile, target_id};
use crate::policy::eval::{Caller, evaluate, evaluate_egress, split_for};
use crate::policy::judge::{Chosen, Frontends};
use crate::policy::model::Location;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn as_new_ones(policy in policy()) {
        let mut ids = Ids::new(1);
        let entries = compile(&policy, &mut ids);
        let judge = entries.in_force();
        let callers = callers(&policy, &mut ids);
        for service in policy.services.values() {
            for port in &service.ports {
                let vip = address(service.vip.expect("a service with ports has a VIP"));
                let key = SocketKey::new(vip, port.listen, port.protocol.ip_protocol());
                let destination = judge.destination(&key, |_| false).expect("known");
                let by_frontend = Frontends::new(&entries.destinations);
                prop_assert_eq!(by_frontend.get(destination.frontend), Some(&destination));
                let denied = |caller| {
                    evaluate(&policy, caller, &service.name, port).verdict == Verdict::Denied
                };
                for (caller, subject) in &callers {
                    let decision = judge.judge(*subject, *subject, &destination);
                    let expected = evaluate(&policy, *caller, &service.name, port);
                    prop_assert_eq!(decision.verdict, expected.verdict);
                    let rule = expected.rule.map_or(mesh_common::DEFAULT_RULE, |rule| ids.rules.id(&rule.name));
                    prop_assert_eq!(decision.rule, rule);
                    for (creator, creator_subject) in &callers {
                        let both = judge.judge(*subject, *creator_subject, &destination);
                        let protected = destination.flags & destination_flag::PROTECTED != 0;
                        let stricter = denied(*caller) || protected && denied(*creator);
                        prop_assert_eq!(!both.allows(), stricter);
                    }
                }
                let nobody = judge.judge(Subject::UNKNOWN.0, Subject::UNKNOWN.0, &destination);
                let protected = destination.flags & destination_flag::PROTECTED != 0;
                prop_assert_eq!(nobody.allows(), !protected);
            }
        }
    }

    #[test]
    fn outside_the_mesh(
        policy in policy(),
        remotes in prop::collection::vec((outside(), prop::sample::select(vec![53u16, 80, 443, 9])), 8),
    ) {
        let mut ids = Ids::new(1);
        let entries = compile(&policy, &mut ids);
        for (caller, subject) in callers(&policy, &mut ids) {
            for (ip, port) in &remotes {
                let remote = SocketKey::new(address(*ip), *port, 6);
                let decision = entries.in_force().judge_egress(subject, &remote);
                let expected = evaluate_egress(&policy, caller, *ip, *port);
                let verdict = decision.map_or(Verdict::Allowed, |decision| decision.verdict);
                prop_assert_eq!(verdict, expected.verdict);
                let rule = decision.map_or(0, |decision| decision.rule);
                let expected = expected.rule.map_or(0, |rule| ids.rules.id(&rule.name));
                prop_assert_eq!(rule, expected);
            }
        }
    }

    #[test]
    fn an_endpoint_is_reached_while_it_has_a_weight(policy in policy()) {
        let mut ids = Ids::new(1);
        let entries = compile(&policy, &mut ids);
        let judge = entries.in_force();
        for (caller, subject) in callers(&policy, &mut ids) {
            for service in policy.services.values() {
                let split = split_for(&policy, caller, &service.name);
                for endpoint in &service.endpoints {
                    let port = &service.ports[endpoint.port];
                    let protocol = port.protocol.ip_protocol();
                    let vip = address(service.vip.expect("a VIP"));
                    let key = SocketKey::new(vip, port.listen, protocol);
                    let destination = judge.destination(&key, |_| false).expect("known");
                    let at = address(endpoint.address.ip());
                    let at = match &endpoint.location {
                        Location::Node(_) => Chosen::Elsewhere(target_id(service, endpoint, &mut ids)),
                        _ => Chosen::Here(SocketKey::new(at, endpoint.address.port(), protocol)),
                    };
                    let weighted = split.is_none_or(|split| {
                        let mut weights = split.weights.iter();
                        weights.any(|(version, weight)| *version == endpoint.version && *weight > 0)
                    });
                    prop_assert_eq!(judge.reaches(subject, &destination, &at), weighted);
                }
            }
        }
    }

    #[test]
    fn from_other_hosts(policy in policy(), clients in prop::collection::vec(outside(), 8)) {
        let mut ids = Ids::new(1);
        let entries = compile(&policy, &mut ids);
        let judge = entries.in_force();
        for service in policy.services.values() {
            for port in &service.ports {
                let vip = address(service.vip.expect("a service with ports has a VIP"));
                let key = SocketKey::new(vip, port.listen, port.protocol.ip_protocol());
                let destination = judge.destination(&key, |_| false).expect("known");
                for client in &clients {
                    let decision = judge.judge_address(&address(*client), &destination);
                    let caller = Caller::Outside(*client);
                    let expected = evaluate(&policy, caller, &service.name, port);
                    prop_assert_eq!(decision.verdict, expected.verdict);
                }
            }
        }
    }
}
