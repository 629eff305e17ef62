//! The tables of the splits, walked as the kernel side walks them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::EndpointEntry;
use proptest::prelude::*;

use super::kernel::Kernel;
use super::policies::policy;
use super::verdicts::callers;
use super::{Ids, address, compile};
use crate::policy::eval::split_for;
use crate::policy::model::{Endpoint, Policy, Service};

/// What each endpoint of a port should get: its version's weight, and its share of that.
fn shares(
    service: &Service,
    port: usize,
    weights: Option<&[(Arc<str>, u32)]>,
) -> Vec<(SocketAddr, u64, u64)> {
    let of_port = || service.endpoints.iter().filter(move |e| e.port == port);
    let within = |endpoint: &Endpoint| -> u64 {
        let same = |other: &&Endpoint| weights.is_none() || other.version == endpoint.version;
        of_port().filter(same).map(|e| u64::from(e.weight)).sum()
    };
    let of_version = |endpoint: &Endpoint| -> u64 {
        let weights = weights.unwrap_or_default();
        let found = weights.iter().find(|(v, _)| *v == endpoint.version);
        found.map_or(0, |(_, weight)| u64::from(*weight))
    };
    let share = |endpoint: &Endpoint| {
        let version = if weights.is_none() {
            1
        } else {
            of_version(endpoint)
        };
        let numerator = version * u64::from(endpoint.weight);
        (endpoint.address, numerator, within(endpoint))
    };
    of_port()
        .map(share)
        .filter(|(_, numerator, _)| *numerator > 0)
        .collect()
}

/// The sum of the weights of versions that have an endpoint.
fn total(service: &Service, port: usize, weights: Option<&[(Arc<str>, u32)]>) -> u64 {
    let Some(weights) = weights else {
        return 1;
    };
    let has = |version: &Arc<str>| {
        let mut endpoints = service.endpoints.iter();
        endpoints.any(|e| e.port == port && e.version == *version)
    };
    let used = weights.iter().filter(|(version, _)| has(version));
    used.map(|(_, weight)| u64::from(*weight)).sum()
}

/// Each frontend and caller with the endpoints it gets in `rounds` periods.
fn walk(
    policy: &Policy,
    mut check: impl FnMut(&Service, usize, Option<&[(Arc<str>, u32)]>, &[EndpointEntry], usize),
) {
    let mut ids = Ids::new(1);
    let entries = compile(policy, &mut ids);
    let kernel = Kernel(&entries);
    // A multiple of every sum of up to seven weights of up to three: whole rounds of all sets.
    const ROUNDS: u64 = 4;
    for service in policy.services.values() {
        for (index, port) in service.ports.iter().enumerate() {
            let vip = service.vip.expect("a service with ports has a VIP");
            let protocol = port.protocol.ip_protocol();
            let destination = kernel
                .destination(vip, port.listen, protocol)
                .expect("known");
            for (caller, subject) in callers(policy, &mut ids) {
                let split = kernel.split(subject, &destination);
                let positions = 0..u64::from(split.period) * ROUNDS;
                let chosen: Vec<EndpointEntry> = positions
                    .map(|position| kernel.at_position(&split, position))
                    .collect();
                let weights = split_for(policy, caller, &service.name);
                let weights = weights.map(|split| split.weights.as_slice());
                check(service, index, weights, &chosen, split.period as usize);
            }
        }
    }
}

fn count(chosen: &[EndpointEntry], of: SocketAddr) -> u64 {
    let same =
        |entry: &&EndpointEntry| entry.port == of.port() && entry.address == address(of.ip());
    chosen.iter().filter(same).count() as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_period_gives_each_version_its_exact_share(policy in policy()) {
        walk(&policy, |service, port, weights, chosen, period| {
            let total = total(service, port, weights);
            let shares = shares(service, port, weights);
            assert_eq!(chosen.is_empty(), shares.is_empty(), "none only where there is none");
            if weights.is_none() {
                return;
            }
            for round in chosen.chunks(period.max(1)) {
                let mut got: BTreeMap<u32, u64> = BTreeMap::new();
                for endpoint in round {
                    *got.entry(endpoint.version).or_default() += 1;
                }
                let mut got: Vec<u64> = got.into_values().collect();
                let mut due: BTreeMap<&str, u64> = BTreeMap::new();
                for (version, weight) in weights.unwrap_or_default() {
                    let mut of_port = service.endpoints.iter().filter(|e| e.port == port);
                    if *weight > 0 && of_port.any(|e| e.version == *version) {
                        due.insert(version, u64::from(*weight) * period as u64 / total);
                    }
                }
                let mut due: Vec<u64> = due.into_values().collect();
                got.sort_unstable();
                due.sort_unstable();
                assert_eq!(got, due);
            }
        });
    }

    #[test]
    fn endpoints_of_a_version_share_evenly_from_the_first_call_on(policy in policy()) {
        walk(&policy, |service, port, weights, chosen, _| {
            let total = total(service, port, weights);
            let shares = shares(service, port, weights);
            for length in 1..=chosen.len() {
                for (endpoint, numerator, within) in &shares {
                    let exact = length as f64 * *numerator as f64 / (within * total) as f64;
                    let got = count(&chosen[..length], *endpoint) as f64;
                    // Within one for the version, and within one for the endpoint in it.
                    assert!((got - exact).abs() < 2.0, "{endpoint}: {got} of {exact}");
                }
            }
        });
    }
}

/// A service with one port and endpoints of these versions and weights.
fn one_service(endpoints: &[(&str, u32)], weights: &[(&str, u32)]) -> (Policy, Ids) {
    let text = endpoints
        .iter()
        .enumerate()
        .map(|(number, (version, weight))| {
            format!(
                "{{ address = \"10.9.0.1:{}\", version = \"{version}\", weight = {weight} }},\n",
                1000 + number
            )
        })
        .collect::<String>();
    let split = weights
        .iter()
        .map(|(version, weight)| format!("{version} = {weight}"))
        .collect::<Vec<_>>()
        .join(", ");
    let mut file = format!(
        "[[service]]\nname = \"s\"\nworkload = {{ uid = 7 }}\nports = [{{ name = \"http\", listen = 80 }}]\n\
         endpoints = [\n{text}]\n"
    );
    if !weights.is_empty() {
        file.push_str(&format!(
            "[[split]]\nservice = \"default/s\"\nweights = {{ {split} }}\n"
        ));
    }
    let local = crate::policy::parse::LocalNode {
        name: "edge-1".into(),
        address: None,
        trust_domain: "mesh.local".into(),
    };
    let sources = crate::policy::source::SourceSet::from_texts([("a.toml", file)]);
    let parsed = crate::policy::parse::parse(&sources, &local);
    let shown: String = parsed.diagnostics.iter().map(|d| d.render(false)).collect();
    (parsed.policy.expect(&shown), Ids::new(1))
}

fn digest(endpoints: &[(&str, u32)], weights: &[(&str, u32)]) -> u32 {
    let (policy, mut ids) = one_service(endpoints, weights);
    for version in ["v1", "v2"] {
        ids.versions.id(version);
    }
    compile(&policy, &mut ids).splits[0].1.digest
}

#[test]
fn the_digest_tells_tables_apart() {
    let tables = [
        digest(&[("v1", 1), ("v2", 1)], &[("v1", 1), ("v2", 1)]),
        digest(&[("v2", 1), ("v1", 1)], &[("v1", 1), ("v2", 1)]),
        digest(&[("v1", 1), ("v2", 1)], &[("v1", 99), ("v2", 1)]),
        digest(&[("v1", 1), ("v2", 1)], &[("v1", 1), ("v2", 99)]),
        digest(&[("v1", 2), ("v1", 1)], &[]),
        digest(&[("v1", 1), ("v1", 2)], &[]),
        digest(&[("v1", 1), ("v1", 1)], &[]),
        digest(&[("v1", 1), ("v1", 1), ("v1", 1)], &[]),
    ];
    for (index, table) in tables.iter().enumerate() {
        assert!(
            !tables[..index].contains(table),
            "{index} is as another one"
        );
    }
    let canary = |rest: &[(&str, u32)]| digest(rest, &[("v1", 99), ("v2", 1)]);
    let same = [("v1", 1), ("v2", 1)];
    assert_eq!(canary(&same), canary(&same));
}
