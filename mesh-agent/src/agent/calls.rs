//! Requests that the agent itself has followed, by who calls whom and how it went.
//!
//! Comes in: requests that are over, from any thread. Goes out: series for metrics. How many there can be
//! has a bound; what is beyond it is counted as such.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use mesh_common::REQUEST_BUCKETS;
use mesh_common::http::{Method, Unparsed, request_bucket};

use super::lock;
use super::names::Names;
use crate::http::{Memory, Outcome};
use crate::telemetry::snapshot::{
    Crossing, RequestDurations, RequestProtocol, RequestRoute, RequestSeries, Snapshot,
    UnparsedSeries,
};

/// Most pairs of caller and version.
const MOST_ROUTES: usize = 4096;
/// Most ways in which requests of one pair can go.
const MOST_SERIES: usize = 256;

/// Who calls whom, by the ids of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    pub(crate) source: u32,
    pub(crate) service: u32,
    pub(crate) version: u32,
    pub(crate) crossing: Crossing,
    pub(crate) protocol: RequestProtocol,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Calls {
    /// For connections that are followed.
    pub(crate) memory: Memory,
    routes: Mutex<HashMap<Route, Arc<Tally>>>,
    unparsed: Mutex<BTreeMap<(u32, Unparsed), u64>>,
    dropped: AtomicU64,
}

/// What is counted of a route; whoever holds one may add to it.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    series: BTreeMap<(Method, u16, Option<u8>), u64>,
    buckets: [u64; REQUEST_BUCKETS],
    sum_ns: u64,
    dropped: u64,
}

impl Calls {
    /// All connections that are followed may hold so many bytes.
    pub(crate) fn new(memory: usize) -> Self {
        Self {
            memory: Memory::new(memory),
            routes: Mutex::default(),
            unparsed: Mutex::default(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Where requests of `route` are counted; `None` if there are too many routes.
    pub(crate) fn tally(&self, route: Route) -> Option<Arc<Tally>> {
        let mut routes = lock(&self.routes);
        if !routes.contains_key(&route) && routes.len() >= MOST_ROUTES {
            // Those of policies that are gone, as well as any other that nobody uses now.
            routes.retain(|_, tally| Arc::strong_count(tally) > 1);
        }
        if !routes.contains_key(&route) && routes.len() >= MOST_ROUTES {
            self.dropped.fetch_add(1, Relaxed);
            return None;
        }
        Some(Arc::clone(routes.entry(route).or_default()))
    }

    /// Counts a connection to `service` that cannot be followed any further.
    pub(crate) fn unparsed(&self, service: u32, why: Unparsed) {
        let mut unparsed = lock(&self.unparsed);
        let count = match unparsed.len() {
            MOST_ROUTES.. => unparsed.get_mut(&(service, why)),
            _ => Some(unparsed.entry((service, why)).or_default()),
        };
        match count {
            Some(count) => *count += 1,
            None => _ = self.dropped.fetch_add(1, Relaxed),
        }
    }

    /// Adds what was counted.
    pub(super) fn tell(&self, snapshot: &mut Snapshot, names: &Names) {
        for (route, tally) in &*lock(&self.routes) {
            tally.tell(&route.named(names), snapshot);
        }
        let unparsed = lock(&self.unparsed);
        let series = unparsed
            .iter()
            .map(|((service, why), count)| UnparsedSeries {
                destination_service: names.service(*service),
                reason: *why,
                count: *count,
            });
        snapshot.unparsed.extend(series);
    }

    /// Requests and connections that were not counted by how they went, for want of room.
    pub(super) fn dropped(&self) -> u64 {
        let routes = lock(&self.routes);
        let of_routes = routes.values().map(|tally| lock(&tally.0).dropped);
        self.dropped.load(Relaxed) + of_routes.sum::<u64>()
    }
}

impl Tally {
    /// Counts a request.
    pub(crate) fn add(&self, outcome: Outcome) {
        let mut counts = lock(&self.0);
        if let Some(waited) = outcome.waited {
            counts.buckets[request_bucket(waited).min(REQUEST_BUCKETS - 1)] += 1;
            counts.sum_ns += waited;
        }
        let key = (outcome.method, outcome.code, outcome.grpc);
        if counts.series.len() < MOST_SERIES || counts.series.contains_key(&key) {
            *counts.series.entry(key).or_default() += 1;
        } else {
            counts.dropped += 1;
        }
    }

    fn tell(&self, route: &RequestRoute, snapshot: &mut Snapshot) {
        let counts = lock(&self.0);
        let series = counts.series.iter();
        let series = series.map(|((method, code, grpc), count)| RequestSeries {
            route: route.clone(),
            method: method.name(),
            response_code: *code,
            // Only what the policy says speaks gRPC is asked for it.
            grpc_status: grpc
                .filter(|_| route.protocol == RequestProtocol::Grpc)
                .map(u16::from),
            count: *count,
        });
        snapshot.requests.extend(series);
        snapshot.request_durations.push(RequestDurations {
            route: route.clone(),
            buckets: counts.buckets,
            sum_ns: counts.sum_ns,
        });
    }
}

impl Route {
    fn named(&self, names: &Names) -> RequestRoute {
        RequestRoute {
            source_service: names.subject(self.source),
            destination_service: names.service(self.service),
            destination_version: names.version(self.version),
            crossing: self.crossing,
            protocol: self.protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(source: u32) -> Route {
        Route {
            source,
            service: 7,
            version: 0,
            crossing: Crossing::Outbound,
            protocol: RequestProtocol::Grpc,
        }
    }

    fn outcome(code: u16, grpc: Option<u8>) -> Outcome {
        Outcome {
            method: Method::Post,
            code,
            grpc,
            waited: (code != 0).then_some(300_000),
        }
    }

    fn told(calls: &Calls) -> Snapshot {
        let mut snapshot = Snapshot::default();
        calls.tell(&mut snapshot, &Names::default());
        snapshot
    }

    #[test]
    fn requests_are_counted_by_how_they_went() {
        let calls = Calls::new(4 << 20);
        let tally = calls.tally(route(1)).expect("room");
        for (code, grpc) in [(200, Some(0)), (200, Some(0)), (200, Some(14)), (0, None)] {
            tally.add(outcome(code, grpc));
        }
        calls.unparsed(7, Unparsed::NotHttp);
        let snapshot = told(&calls);
        let series = snapshot.requests.iter();
        let series = series.map(|s| (s.method, s.response_code, s.grpc_status, s.count));
        assert_eq!(
            series.collect::<Vec<_>>(),
            [
                ("POST", 0, None, 1),
                ("POST", 200, Some(0), 2),
                ("POST", 200, Some(14), 1)
            ]
        );
        let [durations] = &snapshot.request_durations[..] else {
            panic!("{:?}", snapshot.request_durations);
        };
        assert_eq!((durations.sum_ns, durations.buckets[2]), (900_000, 3));
        let [unparsed] = &snapshot.unparsed[..] else {
            panic!("{:?}", snapshot.unparsed);
        };
        assert_eq!((unparsed.reason, unparsed.count), (Unparsed::NotHttp, 1));
    }

    #[test]
    fn series_and_routes_have_a_bound_and_what_is_beyond_is_counted() {
        let calls = Calls::new(4 << 20);
        let tally = calls.tally(route(0)).expect("room");
        for code in 200..600 {
            tally.add(outcome(code, None));
        }
        tally.add(outcome(200, None));
        assert_eq!(told(&calls).requests.len(), MOST_SERIES);
        assert_eq!(calls.dropped(), 400 - MOST_SERIES as u64);

        let held: Vec<_> = (1..MOST_ROUTES as u32)
            .map(|source| calls.tally(route(source)))
            .collect();
        assert!(calls.tally(route(u32::MAX)).is_none());
        assert_eq!(calls.dropped(), 401 - MOST_SERIES as u64);
        // Routes that nobody uses make room.
        drop(held);
        assert!(calls.tally(route(u32::MAX)).is_some());
    }
}
