//! For every caller and every port, the lookup in the entries is what the evaluator says.

use std::sync::Arc;

use mesh_common::{Subject, Verdict, destination_flag};
use proptest::prelude::*;

use super::kernel::Kernel;
use super::policies::{name, outside, policy};
use super::shape::{allow, shop};
use super::{Ids, compile, node_name};
use crate::policy::eval::{Caller, Decision, evaluate, evaluate_egress};
use crate::policy::model::{Egress, Policy, PortMatch, Source, Target};

/// Every local caller and its id.
pub(super) fn callers<'p>(policy: &'p Policy, ids: &mut Ids) -> Vec<(Caller<'p>, u32)> {
    let services = policy
        .services
        .keys()
        .map(|name| (Caller::Service(name), ids.subjects.id(&name.to_string())));
    let services: Vec<_> = services.collect();
    let nodes = policy.nodes.iter().map(|node| {
        let id = ids.subjects.id(&node_name(&node.name));
        (Caller::Node(&node.name), id)
    });
    let others = nodes.chain([(Caller::Host, Subject::HOST.0)]);
    services.into_iter().chain(others).collect()
}

/// A verdict with its rule's name; `None` for the default.
type Named = (Verdict, Option<Arc<str>>);

fn named((verdict, rule): (Verdict, u32), ids: &Ids) -> Named {
    let name = ids.rules.names().get(&rule).map(|name| Arc::from(*name));
    (verdict, name)
}

fn expected(decision: &Decision<'_>) -> Named {
    let rule = decision.rule.map(|rule| Arc::clone(&rule.name));
    (decision.verdict, rule)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn calls_within_the_mesh(policy in policy()) {
        let mut ids = Ids::new(1);
        let entries = compile(&policy, &mut ids);
        let kernel = Kernel(&entries);
        for service in policy.services.values() {
            for port in &service.ports {
                let vip = service.vip.expect("a service with ports has a VIP");
                let destination = kernel
                    .destination(vip, port.listen, port.protocol.ip_protocol())
                    .expect("every port has an entry");
                let mut denied = false;
                for (caller, subject) in callers(&policy, &mut ids) {
                    let decision = evaluate(&policy, caller, &service.name, port);
                    denied |= decision.verdict == Verdict::Denied;
                    prop_assert_eq!(
                        named(kernel.judge(subject, &destination), &ids),
                        expected(&decision),
                        "{:?} to {}:{}", caller, service.name, port.name
                    );
                }
                let protected = destination.flags & destination_flag::PROTECTED != 0;
                prop_assert!(protected || !denied, "{} is protected", service.name);
            }
        }
    }

    #[test]
    fn endpoints_are_judged_as_their_vip(policy in policy()) {
        let entries = compile(&policy, &mut Ids::new(1));
        let kernel = Kernel(&entries);
        for service in policy.services.values() {
            for endpoint in &service.endpoints {
                let (port, ip) = (&service.ports[endpoint.port], endpoint.address.ip());
                let protocol = port.protocol.ip_protocol();
                let vip = service.vip.expect("a service with ports has a VIP");
                let around = kernel.destination(ip, endpoint.address.port(), protocol);
                let through = kernel.destination(vip, port.listen, protocol);
                let (around, through) = (around.expect("known"), through.expect("known"));
                let shared = destination_flag::PROTECTED | destination_flag::DEFAULT_DENY;
                prop_assert_eq!(around.frontend, through.frontend);
                prop_assert_eq!(around.flags & shared, through.flags & shared);
            }
        }
    }

    #[test]
    fn clients_outside_the_mesh(
        policy in policy(),
        clients in prop::collection::vec(outside(), 8),
    ) {
        let mut ids = Ids::new(1);
        let entries = compile(&policy, &mut ids);
        let kernel = Kernel(&entries);
        for service in policy.services.values() {
            for endpoint in &service.endpoints {
                let (port, ip) = (&service.ports[endpoint.port], endpoint.address.ip());
                let destination = kernel
                    .destination(ip, endpoint.address.port(), port.protocol.ip_protocol())
                    .expect("every endpoint has an entry");
                for client in &clients {
                    let decision = evaluate(&policy, Caller::Outside(*client), &service.name, port);
                    prop_assert_eq!(
                        named(kernel.judge_address(*client, &destination), &ids),
                        expected(&decision),
                        "{} to {}:{}", client, service.name, port.name
                    );
                }
            }
        }
    }

    #[test]
    fn calls_out_of_the_mesh(
        policy in policy(),
        dialled in prop::collection::vec((outside(), prop::sample::select(vec![53u16, 80, 443, 9])), 8),
    ) {
        let mut ids = Ids::new(1);
        let entries = compile(&policy, &mut ids);
        let kernel = Kernel(&entries);
        for (caller, subject) in callers(&policy, &mut ids) {
            for (ip, port) in &dialled {
                let decision = evaluate_egress(&policy, caller, *ip, *port);
                prop_assert_eq!(
                    named(kernel.judge_egress(subject, *ip, *port), &ids),
                    expected(&decision),
                    "{:?} to {}:{}", caller, ip, port
                );
            }
        }
    }
}

/// A rule for one port and a wider one for all ports do not hide a narrower one beside them.
#[test]
fn the_nearest_caller_names_the_rule_whatever_the_nets() {
    let own = || Source::Service(name("shop/s0"));
    let net = |net: &str| Target::Cidr(net.parse().expect("a net"));
    let mut port = allow("port", own(), net("10.0.0.0/16"));
    port.ports = vec![PortMatch::Number(53)];
    let narrow = allow("narrow", own(), net("10.1.0.0/16"));
    let wide = allow("wide", Source::Any, net("0.0.0.0/0"));
    let mut policy = shop(1, vec![port, narrow, wide]);
    for service in policy.services.values_mut() {
        service.egress = Egress::Deny;
    }
    let mut ids = Ids::new(1);
    let entries = compile(&policy, &mut ids);
    let kernel = Kernel(&entries);
    let subject = ids.subjects.id("shop/s0");
    for (ip, number, rule) in [
        ([10, 0, 0, 1], 53, "port"),
        ([10, 0, 0, 1], 80, "wide"),
        ([10, 1, 0, 1], 53, "narrow"),
        ([10, 1, 0, 1], 80, "narrow"),
        ([10, 2, 0, 1], 53, "wide"),
    ] {
        let found = named(kernel.judge_egress(subject, ip.into(), number), &ids);
        assert_eq!(
            found,
            (Verdict::Allowed, Some(rule.into())),
            "{ip:?} {number}"
        );
    }
}
