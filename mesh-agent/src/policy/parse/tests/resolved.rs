//! What correct files mean.

use std::time::Duration;

use super::{parsed, policy};
use crate::policy::model::{
    Action, DefaultAction, Egress, Location, Mode, OnWeightChange, Protocol, ServiceName, Source,
    Target, Tls, Workload,
};

fn name(namespace: &str, name: &str) -> ServiceName {
    ServiceName {
        namespace: namespace.into(),
        name: name.into(),
    }
}

#[test]
fn the_example_is_a_policy_without_warnings() {
    let shop = include_str!("../../../../../examples/conf.d/10-shop.toml");
    let parsed = parsed(&[("10-shop.toml", shop)]);
    assert_eq!(parsed.diagnostics, []);
    let policy = parsed.policy.expect("a policy");
    assert_eq!(policy.services.len(), 2);
    let payments = &policy.services[&name("shop", "payments")];
    assert_eq!(
        payments.vip,
        Some("10.96.0.10".parse().expect("an address"))
    );
    assert!(
        payments
            .endpoints
            .iter()
            .all(|endpoint| endpoint.location == Location::Local)
    );
    assert_eq!(
        policy.splits[0].weights,
        [("v1".into(), 99), ("v2".into(), 1)]
    );
    assert_eq!(
        policy.rules[0].place.line as usize,
        shop.lines()
            .position(|line| line == "[[allow]]")
            .expect("a rule")
            + 1
    );
}

#[test]
fn defaults() {
    let policy = policy(
        "[[service]]\nname = \"a\"\nports = [{ name = \"p\", listen = 53 }]\nendpoints = [{ address = \"192.0.2.1:53\" }]\n",
    );
    assert_eq!(policy.default, DefaultAction::Deny);
    assert_eq!(policy.default_place, None);
    assert_eq!(policy.nodes.len(), 1);
    let service = &policy.services[&name("default", "a")];
    assert!(
        service
            .vip
            .is_some_and(|vip| vip.to_string().starts_with("10.96."))
    );
    assert_eq!((service.egress, service.affinity), (Egress::Allow, None));
    assert_eq!(service.ports[0].protocol, Protocol::Tcp);
    let endpoint = &service.endpoints[0];
    assert_eq!(
        (&*endpoint.version, endpoint.weight, endpoint.port),
        ("default", 1, 0)
    );
    assert_eq!(endpoint.location, Location::External);
    assert_eq!((endpoint.place.line, endpoint.place.column), (4, 14));
}

#[test]
fn everything_that_can_be_said() {
    let policy = policy(
        r#"
[mesh]
default = "allow"
vip_range = "fd00:96::/112"

[[deny]]
name = "second"
from = ["host", "shop/*", "*"]
to = ["shop/*", "default/dns"]
ports = ["dns", 80]
mode = "audit"

[[allow]]
name = "third"
from = ["default/dns"]
to = [{ cidr = "192.0.2.0/24" }, { cidr = "2001:db8::/32" }]
ports = [443]

[[service]]
name = "dns"
ports = [
  { name = "dns", listen = 53, protocol = "udp" },
  { name = "dns-tcp", listen = 53 },
]
workload = { cgroup = "/machine.slice/dns-*.scope" }
egress = "deny"
affinity = "client"
affinity_timeout = "1h30m"
tls = "permissive"
endpoints = [
  { address = "[::1]:5353", port = "dns", weight = 3 },
  { address = "[::1]:5353", port = "dns-tcp" },
  { address = "[2001:db8::1]:53", port = "dns" },
]
"#,
    );
    assert_eq!(policy.default, DefaultAction::Allow);
    assert_eq!(policy.default_place.expect("a place").line, 3);
    let dns = &policy.services[&name("default", "dns")];
    assert!(
        dns.vip
            .is_some_and(|vip| vip.to_string().starts_with("fd00:96::"))
    );
    assert_eq!(dns.affinity, Some(Duration::from_secs(5400)));
    assert_eq!(dns.on_weight_change, OnWeightChange::Keep);
    assert_eq!(dns.tls, Tls::Permissive);
    assert_eq!(
        dns.workload,
        Some(Workload::Cgroup("/machine.slice/dns-*.scope".into()))
    );
    assert_eq!(dns.workload_place.line, 25);
    assert_eq!(
        dns.endpoints.iter().map(|e| e.port).collect::<Vec<_>>(),
        [0, 1, 0]
    );
    let [second, third] = policy.rules.as_slice() else {
        panic!("two rules");
    };
    assert_eq!(
        (second.action, second.mode, second.place.line),
        (Action::Deny, Mode::Audit, 6)
    );
    assert_eq!(
        second.from,
        [Source::Host, Source::Namespace("shop".into()), Source::Any]
    );
    assert_eq!(second.to[1], Target::Service(name("default", "dns")));
    assert_eq!((third.action, third.to.len()), (Action::Allow, 2));
}

#[test]
fn rules_are_in_file_order() {
    let rule = |kind: &str, name: &str| {
        format!("[[{kind}]]\nname = \"{name}\"\nfrom = [\"*\"]\nto = [\"shop/payments\"]\n")
    };
    let first = rule("deny", "a") + &rule("allow", "b") + &rule("deny", "c");
    let parsed = parsed(&[
        ("20.toml", &rule("allow", "d")),
        ("10.toml", &first),
        ("base.toml", super::BASE),
    ]);
    let policy = parsed.policy.expect("a policy");
    let names: Vec<&str> = policy.rules.iter().map(|rule| &*rule.name).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
}

#[test]
fn endpoints_find_their_node() {
    let text = r#"
[[node]]
name = "edge-2"
address = "10.0.0.12"
[[service]]
name = "a"
ports = [{ name = "p", listen = 1 }]
endpoints = [
  { address = "127.0.0.1:1", node = "edge-1" },
  { address = "127.0.0.1:1", node = "edge-2" },
  { address = "10.0.0.11:1" },
  { address = "10.0.0.12:1" },
  { address = "10.0.0.13:1" },
  { address = "10.0.0.12:2", tls = "off" },
]
"#;
    let parsed = parsed(&[("a.toml", text)]);
    let policy = parsed.policy.expect("a policy");
    let locations: Vec<_> = policy.services[&name("default", "a")]
        .endpoints
        .iter()
        .map(|e| e.location.clone())
        .collect();
    let edge2 = Location::Node("edge-2".into());
    assert_eq!(
        locations,
        [
            Location::Local,
            edge2.clone(),
            Location::Local,
            edge2,
            Location::External,
            Location::External
        ]
    );
    assert_eq!(policy.nodes.len(), 2);
    assert_eq!(parsed.diagnostics.len(), 0);
}

#[test]
fn callers_of_this_node_are_the_hosts() {
    let rule = |node: &str| {
        format!(
            "[[node]]\nname = \"edge-2\"\naddress = \"10.0.0.12\"\n[[service]]\nname = \"a\"\n\
             ports = [{{ name = \"p\", listen = 1 }}]\n\
             endpoints = [{{ address = \"127.0.0.1:1\", node = \"edge-1\" }}]\n\
             [[allow]]\nname = \"r\"\nfrom = [{{ node = \"{node}\" }}]\nto = [\"default/a\"]\n"
        )
    };
    for (node, source) in [
        ("edge-1", Source::Host),
        ("edge-2", Source::Node("edge-2".into())),
    ] {
        let policy = parsed(&[("a.toml", &rule(node))]).policy.expect("a policy");
        assert_eq!(policy.rules[0].from, [source]);
    }
}

#[test]
fn no_files_are_an_empty_policy() {
    let parsed = parsed(&[]);
    assert_eq!(
        parsed
            .diagnostics
            .iter()
            .map(|d| d.code)
            .collect::<Vec<_>>(),
        ["empty-policy"]
    );
    assert!(
        parsed
            .policy
            .is_some_and(|policy| policy.services.is_empty())
    );
}

#[test]
fn windows_line_ends_and_byte_order_marks_are_fine() {
    let text = format!("\u{feff}{}", super::BASE.replace('\n', "\r\n"));
    assert_eq!(parsed(&[("a.toml", &text)]).diagnostics, []);
}

#[test]
fn a_mesh_of_two_nodes_has_warnings_only() {
    let text = r#"
[[node]]
name = "edge-2"
address = "10.0.0.12"
[[service]]
name = "payments"
namespace = "shop"
ports = [{ name = "http", listen = 80, protocol = "http" }]
workload = { systemd = "payments-*.service" }
endpoints = [
  { address = "127.0.0.1:8081", version = "v1", node = "edge-1" },
  { address = "127.0.0.1:8082", version = "v2", node = "edge-2" },
]
[[split]]
service = "shop/payments"
weights = { v1 = 99, v2 = 1 }
[[deny]]
name = "no-dev-in-prod"
from = ["dev/*"]
to = ["shop/*"]
"#;
    let parsed = parsed(&[("a.toml", text)]);
    let codes: Vec<_> = parsed.diagnostics.iter().map(|d| d.code).collect();
    assert_eq!(codes, ["unknown-namespace"]);
    let policy = parsed.policy.expect("a policy");
    assert_eq!(policy.rules[0].from, [Source::Namespace("dev".into())]);
}

#[test]
fn flows_to_endpoints_that_leave() {
    let (drain, close) = (
        |timeout, rate| OnWeightChange::Drain {
            timeout: Duration::from_secs(timeout),
            rate,
        },
        |rate| OnWeightChange::Close { rate },
    );
    for (text, expected) in [
        ("", OnWeightChange::Keep),
        ("on_weight_change = \"keep\"", OnWeightChange::Keep),
        ("on_weight_change = \"drain\"", drain(30, 100)),
        (
            "on_weight_change = \"drain\"\ndrain_timeout = \"5m\"\nclose_rate = 7",
            drain(300, 7),
        ),
        ("on_weight_change = \"close\"", close(100)),
        ("on_weight_change = \"close\"\nclose_rate = 1", close(1)),
    ] {
        let text = format!("[[service]]\nname = \"a\"\nworkload = {{ uid = 7 }}\n{text}\n");
        let service = &policy(&text).services[&name("default", "a")];
        assert_eq!(service.on_weight_change, expected, "{text}");
    }
}
