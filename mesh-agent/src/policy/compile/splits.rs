//! Tables that the choice of an endpoint walks.

use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::sync::Arc;

use mesh_common::{EndpointEntry, ScheduleSlot, Split, SplitKey, endpoint_flag};

use super::{Ids, Numbered, Services, address, subject, target_id};
use crate::policy::model::{Endpoint, Location, Policy, Service, ServiceName, Split as Weights};
use crate::policy::schedule::spread;

/// The tables of all frontends.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) splits: Vec<(SplitKey, Split)>,
    pub(super) schedule: Vec<ScheduleSlot>,
    pub(super) endpoints: Vec<EndpointEntry>,
}

pub(super) fn tables(policy: &Policy, services: &Services<'_>, ids: &mut Ids) -> Tables {
    let mut by_service: BTreeMap<_, Vec<&Weights>> = BTreeMap::new();
    for split in &policy.splits {
        by_service.entry(&split.service).or_default().push(split);
    }
    let mut tables = Tables::default();
    for name in policy.services.keys() {
        let splits = by_service.get(name).map(Vec::as_slice).unwrap_or_default();
        for port in 0..services[name].frontends.len() {
            tables.add_frontend(services, name, port, splits, ids);
        }
    }
    tables.splits.sort_unstable_by_key(|(key, _)| *key);
    tables
}

impl Tables {
    fn add_frontend(
        &mut self,
        services: &Services<'_>,
        name: &ServiceName,
        port: usize,
        splits: &[&Weights],
        ids: &mut Ids,
    ) {
        let Numbered {
            service, frontends, ..
        } = &services[name];
        let frontend = frontends[port];
        let endpoints: Vec<&Endpoint> = service
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.port == port)
            .collect();
        let first = self.endpoints.len() as u32;
        self.endpoints.extend(
            endpoints
                .iter()
                .map(|endpoint| entry(service, endpoint, ids)),
        );
        let common = splits.iter().find(|split| split.from.is_empty());
        let sets = match common {
            Some(split) => by_version(&endpoints, split),
            None => vec![(1, (0..endpoints.len()).collect())],
        };
        let table = self.add_table(&endpoints, first, &sets);
        self.splits.push((
            SplitKey {
                subject: 0,
                frontend,
            },
            table,
        ));
        for split in splits.iter().filter(|split| !split.from.is_empty()) {
            let table = self.add_table(&endpoints, first, &by_version(&endpoints, split));
            for source in &split.from {
                if let Some(subject) = subject(source, services, ids) {
                    self.splits.push((SplitKey { subject, frontend }, table));
                }
            }
        }
    }

    /// Adds the table of weighted sets of endpoints; `first` is the index of the first of them.
    fn add_table(
        &mut self,
        endpoints: &[&Endpoint],
        first: u32,
        sets: &[(u32, Vec<usize>)],
    ) -> Split {
        let weight_of = |set: &Vec<usize>, weight: u32| if set.is_empty() { 0 } else { weight };
        let weights: Vec<u32> = sets
            .iter()
            .map(|(weight, set)| weight_of(set, *weight))
            .collect();
        let order = spread(&weights);

        let headers = self.add_sets(endpoints, first, sets, &order);
        let offset = self.schedule.len() as u32;
        let mut ranks = vec![0u32; sets.len()];
        for set in &order {
            let slot = match self.only_member(headers[*set]) {
                Some(endpoint) => ScheduleSlot {
                    a: endpoint,
                    b: ScheduleSlot::ENDPOINT,
                },
                None => ScheduleSlot {
                    a: headers[*set],
                    b: ranks[*set],
                },
            };
            self.schedule.push(slot);
            ranks[*set] += 1;
        }
        let digest = self.digest(&order, &headers);
        Split {
            offset,
            period: order.len() as u32,
            digest,
            _pad: 0,
        }
    }

    /// The endpoint of a set that has just one.
    fn only_member(&self, header: u32) -> Option<u32> {
        let header = header as usize;
        (self.schedule[header].a == 1).then(|| self.schedule[header + 1].a)
    }

    /// Adds each set's header and members; returns where the headers are.
    fn add_sets(
        &mut self,
        endpoints: &[&Endpoint],
        first: u32,
        sets: &[(u32, Vec<usize>)],
        order: &[usize],
    ) -> Vec<u32> {
        let mut headers = Vec::new();
        for (index, (_, set)) in sets.iter().enumerate() {
            let weights: Vec<u32> = set.iter().map(|member| endpoints[*member].weight).collect();
            let members = spread(&weights);
            let per_period = order.iter().filter(|chosen| **chosen == index).count() as u32;
            headers.push(self.schedule.len() as u32);
            self.schedule.push(ScheduleSlot {
                a: members.len() as u32,
                b: per_period,
            });
            self.schedule
                .extend(members.iter().map(|member| ScheduleSlot {
                    a: first + set[*member] as u32,
                    b: 0,
                }));
        }
        headers
    }

    /// A number that changes when a table means something else, however much it has moved:
    /// the order of its sets, and the endpoints of each.
    fn digest(&self, order: &[usize], headers: &[u32]) -> u32 {
        let mut hasher = std::hash::DefaultHasher::new();
        order.iter().for_each(|set| hasher.write_usize(*set));
        for header in headers {
            let header = *header as usize;
            let members = self.schedule[header].a;
            hasher.write_u32(members);
            for member in &self.schedule[header + 1..][..members as usize] {
                let endpoint = &self.endpoints[member.a as usize];
                hasher.write(&endpoint.address.0);
                hasher.write_u16(endpoint.port);
                hasher.write_u32(endpoint.version);
                hasher.write_u32(endpoint.target);
            }
        }
        hasher.finish() as u32
    }
}

/// The endpoints of each version that has a weight.
fn by_version(endpoints: &[&Endpoint], split: &Weights) -> Vec<(u32, Vec<usize>)> {
    let members = |version: &Arc<str>| {
        (0..endpoints.len())
            .filter(|index| endpoints[*index].version == *version)
            .collect()
    };
    split
        .weights
        .iter()
        .map(|(version, weight)| (*weight, members(version)))
        .collect()
}

fn entry(service: &Service, endpoint: &Endpoint, ids: &mut Ids) -> EndpointEntry {
    let mut flags = 0;
    if endpoint.address.ip().is_loopback() {
        flags |= endpoint_flag::LOOPBACK;
    }
    flags |= match endpoint.location {
        Location::Node(_) => endpoint_flag::REMOTE,
        Location::Local => endpoint_flag::THIS_NODE,
        Location::External => 0,
    };
    EndpointEntry {
        address: address(endpoint.address.ip()),
        version: ids.versions.id(&endpoint.version),
        port: endpoint.address.port(),
        flags,
        target: target_id(service, endpoint, ids),
    }
}
