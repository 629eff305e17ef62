//! The compiled policy against the evaluator, by the same userspace copy of the kernel's
//! lookups that the property tests use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_common::{Subject, Verdict, destination_flag};

use self::kernel::Kernel;
use crate::policy::compile::{Entries, address, compile};
use crate::policy::eval::{Caller, evaluate};
use crate::policy::ids::Ids;
use crate::policy::model::Policy;

#[expect(
    dead_code,
    reason = "only some of the lookups are held against the evaluator here"
)]
#[path = "../../mesh-agent/src/policy/compile/tests/kernel.rs"]
mod kernel;

/// Clients outside the mesh, in and out of what `grammar.rs` names.
const CLIENTS: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 168, 1, 255)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Most callers, and most called services, that are tried.
const MOST: usize = 8;

/// Compiles; every verdict is the evaluator's, and a second time nothing is different.
pub fn assert_compiles(policy: &Policy) {
    let mut ids = Ids::new(1);
    let entries = compile(policy, &mut ids);
    let known = ids.clone();
    assert_eq!(compile(policy, &mut ids), entries);
    assert_eq!(ids, known);
    assert_verdicts(policy, &entries, &mut ids);
}

fn assert_verdicts(policy: &Policy, entries: &Entries, ids: &mut Ids) {
    let kernel = Kernel(entries);
    let mut callers = vec![(Caller::Host, Subject::HOST.0)];
    for name in policy.services.keys().take(MOST) {
        callers.push((Caller::Service(name), ids.subjects.id(&name.to_string())));
    }
    for service in policy.services.values().take(MOST) {
        for port in &service.ports {
            let vip = service.vip.expect("a service with ports has a VIP");
            let destination = kernel
                .destination(vip, port.listen, port.protocol.ip_protocol())
                .expect("every port has an entry");
            for (caller, subject) in &callers {
                let decision = evaluate(policy, *caller, &service.name, port);
                let (verdict, rule) = kernel.judge(*subject, &destination);
                assert_eq!(verdict, decision.verdict, "{caller:?} to {}", service.name);
                let names = ids.rules.names();
                let expected = decision.rule.map(|rule| &*rule.name);
                assert_eq!(names.get(&rule).copied(), expected);
                let protected = destination.flags & destination_flag::PROTECTED != 0;
                assert!(protected || verdict != Verdict::Denied);
            }
            for client in CLIENTS {
                let decision = evaluate(policy, Caller::Outside(client), &service.name, port);
                let (verdict, _) = kernel.judge_address(client, &destination);
                assert_eq!(verdict, decision.verdict, "{client} to {}", service.name);
            }
        }
    }
}
