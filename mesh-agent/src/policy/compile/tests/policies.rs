//! Random policies, small enough that rules often meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::policy::model::{
    Action, DefaultAction, Egress, Endpoint, Location, Mode, Node, OnWeightChange, Place, Policy,
    Port, PortMatch, Protocol, Rule, Service, ServiceName, Source, Split, Target, Tls, Workload,
};

pub(super) const SERVICES: &[&str] = &["a/x", "a/y", "a/z", "b/x", "b/y", "c/x"];
const NAMESPACES: &[&str] = &["a", "b", "c", "empty"];
const VERSIONS: &[&str] = &["v1", "v2", "v3"];
const PORTS: &[(&str, u16, Protocol)] = &[
    ("http", 80, Protocol::Http),
    ("admin", 81, Protocol::Tcp),
    ("dns", 53, Protocol::Udp),
    ("dns-tcp", 53, Protocol::Tcp),
];
const NETS: &[&str] = &[
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "192.168.0.0/16",
    "::/0",
    "::/64",
    "fd00::/8",
    "fd00:1::/32",
    "fd00:1::1/128",
];
const ADDRESSES: &[&str] = &[
    "10.0.0.1",
    "10.1.0.1",
    "10.1.2.1",
    "10.1.2.3",
    "192.168.7.7",
    "8.8.8.8",
    "::5",
    "fd00::1",
    "fd00:1::1",
    "fd00:1::2",
    "2001:db8::1",
];

pub(super) fn name(text: &str) -> ServiceName {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    ServiceName {
        namespace: namespace.into(),
        name: name.into(),
    }
}

pub(super) fn place() -> Place {
    Place {
        file: "a.toml".into(),
        line: 1,
        column: 1,
    }
}

/// Addresses outside the mesh: those the nets are about, and any.
pub(super) fn outside() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        4 => select(ADDRESSES).prop_map(|text| text.parse().expect("an address")),
        1 => any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        1 => any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).to_canonical()),
    ]
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![
        4 => select(SERVICES).prop_map(|text| Source::Service(name(text))),
        2 => select(NAMESPACES).prop_map(|text| Source::Namespace(text.into())),
        1 => Just(Source::Any),
        1 => Just(Source::Host),
        1 => Just(Source::Node("edge-2".into())),
        2 => net().prop_map(Source::Cidr),
    ]
}

fn net() -> impl Strategy<Value = IpNet> {
    let listed = select(NETS).prop_map(|text| text.parse().expect("a net"));
    let random = (outside(), 0..=128u8).prop_map(|(ip, length)| {
        let most = if ip.is_ipv4() { 32 } else { 128 };
        IpNet::new(ip, length.min(most)).expect("in range").trunc()
    });
    prop_oneof![3 => listed, 1 => random]
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        3 => select(SERVICES).prop_map(|text| Target::Service(name(text))),
        2 => select(NAMESPACES).prop_map(|text| Target::Namespace(text.into())),
        3 => net().prop_map(Target::Cidr),
    ]
}

fn port_match() -> impl Strategy<Value = PortMatch> {
    prop_oneof![
        select(PORTS).prop_map(|(name, ..)| PortMatch::Name(name.into())),
        select(PORTS).prop_map(|(_, number, _)| PortMatch::Number(number)),
        Just(PortMatch::Number(443)),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    (
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec(source(), 1..4),
        prop::collection::vec(target(), 1..4),
        prop::collection::vec(port_match(), 0..3),
    )
        .prop_map(|(deny, audit, from, to, ports)| Rule {
            name: "".into(),
            action: if deny { Action::Deny } else { Action::Allow },
            mode: if audit { Mode::Audit } else { Mode::Enforce },
            from,
            to,
            ports,
            place: place(),
        })
}

fn endpoints() -> impl Strategy<Value = Vec<(usize, &'static str, u32)>> {
    prop::collection::vec((0..8usize, select(VERSIONS), 1..4u32), 0..7)
}

fn service() -> impl Strategy<Value = Service> {
    let ports = subsequence(PORTS, 0..=PORTS.len());
    (ports, endpoints(), any::<[bool; 4]>()).prop_map(
        |(ports, endpoints, [leaves, keeps, strict, remote])| {
            let ports: Vec<Port> = ports
                .into_iter()
                .map(|(name, listen, protocol)| Port {
                    name: name.into(),
                    listen,
                    protocol,
                })
                .collect();
            let endpoint = |(number, (port, version, weight)): (usize, (usize, &str, u32))| {
                Some(Endpoint {
                    address: SocketAddr::from(([10, 9, 0, 0], 1000 + number as u16)),
                    port: port.checked_rem(ports.len())?,
                    version: version.into(),
                    weight,
                    location: if remote && number % 2 == 0 {
                        Location::Node("edge-2".into())
                    } else {
                        Location::External
                    },
                    place: place(),
                })
            };
            Service {
                name: name("a/x"),
                place: place(),
                vip: None,
                endpoints: endpoints
                    .into_iter()
                    .enumerate()
                    .filter_map(endpoint)
                    .collect(),
                ports,
                workload: None,
                workload_place: place(),
                egress: if leaves { Egress::Allow } else { Egress::Deny },
                affinity: keeps.then_some(Duration::from_secs(60)),
                on_weight_change: OnWeightChange::Keep,
                tls: if strict { Tls::Strict } else { Tls::Permissive },
            }
        },
    )
}

/// A service's splits: one for everyone or not, and some for callers, no caller twice.
fn splits() -> impl Strategy<Value = Vec<(Option<Vec<Source>>, Vec<u32>)>> {
    let sources: Vec<Source> = [
        Source::Service(name("a/x")),
        Source::Service(name("b/y")),
        Source::Namespace("a".into()),
        Source::Namespace("b".into()),
        Source::Host,
    ]
    .into();
    let weights = || prop::collection::vec(0..20u32, VERSIONS.len()).prop_map(positive);
    (
        prop::option::of(weights()),
        subsequence(sources.clone(), 0..=sources.len()),
        1..3usize,
        weights(),
        weights(),
    )
        .prop_map(|(common, sources, at, first, second)| {
            let (ones, others) = sources.split_at(at.min(sources.len()));
            let particular = [(ones, first), (others, second)]
                .into_iter()
                .filter(|(from, _)| !from.is_empty())
                .map(|(from, weights)| (Some(from.to_vec()), weights));
            let common = common.map(|weights| (None, weights));
            common.into_iter().chain(particular).collect()
        })
}

fn positive(mut weights: Vec<u32>) -> Vec<u32> {
    if weights.iter().all(|weight| *weight == 0) {
        weights[0] = 1;
    }
    weights
}

/// The service of that number: its name, VIP and endpoints are its own.
fn place_service(number: usize, mut service: Service) -> Service {
    service.name = name(SERVICES[number]);
    service.vip =
        (!service.ports.is_empty()).then(|| Ipv4Addr::new(10, 96, 0, 1 + number as u8).into());
    service.workload = Some(match number % 4 {
        0 => Workload::Systemd(format!("s{number}.service").into()),
        1 => Workload::Systemd(format!("s{number}-*.service").into()),
        2 => Workload::Cgroup(format!("/k.slice/s{number}-*.scope").into()),
        _ => Workload::Uid(1000 + number as u32),
    });
    for endpoint in &mut service.endpoints {
        endpoint
            .address
            .set_port(endpoint.address.port() + 100 * number as u16);
    }
    service
}

/// Policies of all of [`SERVICES`] with up to eight rules, named `r0`, `r1` and so on.
pub(super) fn policy() -> impl Strategy<Value = Policy> {
    (
        any::<bool>(),
        prop::collection::vec(service(), SERVICES.len()),
        prop::collection::vec(rule(), 0..9),
        prop::collection::vec(splits(), SERVICES.len()),
    )
        .prop_map(|(deny, services, mut rules, splits)| {
            for (number, rule) in rules.iter_mut().enumerate() {
                rule.name = format!("r{number}").into();
            }
            let services = services
                .into_iter()
                .enumerate()
                .map(|(number, service)| place_service(number, service))
                .map(|service| (service.name.clone(), service))
                .collect();
            Policy {
                default: if deny {
                    DefaultAction::Deny
                } else {
                    DefaultAction::Allow
                },
                default_place: None,
                nodes: vec![Node {
                    name: "edge-2".into(),
                    address: ADDRESSES[0].parse().expect("an address"),
                }],
                services,
                splits: SERVICES
                    .iter()
                    .zip(splits)
                    .flat_map(|(service, splits)| of_service(service, splits))
                    .collect(),
                rules: rules.into_iter().map(Arc::new).collect(),
            }
        })
}

fn of_service(service: &str, splits: Vec<(Option<Vec<Source>>, Vec<u32>)>) -> Vec<Split> {
    let versions = || VERSIONS.iter().map(|version| Arc::from(*version));
    splits
        .into_iter()
        .map(|(from, weights)| Split {
            service: name(service),
            from: from.unwrap_or_default(),
            weights: versions().zip(weights).collect(),
            place: place(),
        })
        .collect()
}
