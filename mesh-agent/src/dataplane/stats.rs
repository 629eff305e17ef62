//! Counters as the kernel has them: ids instead of names, added up over the CPUs.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya::Ebpf;
use aya::maps::{
    Array, HashMap, MapData, MapError, MapType, PerCpuArray, PerCpuHashMap, PerCpuValues,
};
use aya::util::nr_cpus;
use mesh_common::http::{RequestKey, RequestStats, UnparsedKey};
use mesh_common::{
    AffinityKey, AffinityValue, Counter, DecisionKey, FlowKey, FlowStats, SplitKey, room,
};

use super::DataplaneError;
use super::entries::Entries as _;
use super::pins::Pins;
use super::policy_maps::take;
use super::programs::MAPS;

/// The maps that hold counters.
pub(super) struct StatsMaps {
    flows: PerCpuHashMap<MapData, FlowKey, FlowStats>,
    requests: PerCpuHashMap<MapData, RequestKey, RequestStats>,
    unparsed: PerCpuHashMap<MapData, UnparsedKey, u64>,
    decisions: PerCpuHashMap<MapData, DecisionKey, [u64; 2]>,
    counters: PerCpuArray<MapData, u64>,
    split_counters: HashMap<MapData, SplitKey, u64>,
    affinity: HashMap<MapData, AffinityKey, AffinityValue>,
    room: Array<MapData, u64>,
    /// How many series of each kind there may be.
    series: u32,
    /// Whether more may be made than there are.
    grows: bool,
}

/// Maps that may have fewer entries than they could, and their index in `ROOM`.
const LIMITED: [(&str, u32); 4] = [
    ("FLOWS", room::FLOWS),
    ("DECISIONS", room::DECISIONS),
    ("REQUESTS", room::REQUESTS),
    ("UNPARSED", room::UNPARSED),
];

/// What was counted so far.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Flows.
    pub flows: Vec<(FlowKey, FlowStats)>,
    /// HTTP requests.
    pub requests: Vec<(RequestKey, RequestStats)>,
    /// Connections whose requests could not be followed.
    pub unparsed: Vec<(UnparsedKey, u64)>,
    /// Decisions.
    pub decisions: Vec<(DecisionKey, u64)>,
    /// What the programs count about themselves, by [`Counter`].
    pub counters: [u64; Counter::COUNT as usize],
}

/// How full a map is.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Its name.
    pub map: &'static str,
    /// Entries in use.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
    /// Memory the kernel charges for it, bytes.
    pub memory: u64,
}

impl StatsMaps {
    /// With room for so many `series` of each kind.
    pub(super) fn new(ebpf: &mut Ebpf, series: u32) -> Result<Self, DataplaneError> {
        let mut maps = Self {
            room: take(ebpf, "ROOM")?.try_into()?,
            series,
            grows: true,
            flows: take(ebpf, "FLOWS")?.try_into()?,
            requests: take(ebpf, "REQUESTS")?.try_into()?,
            unparsed: take(ebpf, "UNPARSED")?.try_into()?,
            decisions: take(ebpf, "DECISIONS")?.try_into()?,
            counters: take(ebpf, "COUNTERS")?.try_into()?,
            split_counters: take(ebpf, "SPLIT_COUNTERS")?.try_into()?,
            affinity: take(ebpf, "AFFINITY")?.try_into()?,
        };
        maps.make_room()?;
        Ok(maps)
    }

    /// Whether new series are counted from now on.
    pub(super) fn grow(&mut self, grows: bool) -> Result<(), MapError> {
        self.grows = grows;
        self.make_room()
    }

    /// Says how many more series may be made: as many as there is room for, if any.
    pub(super) fn make_room(&mut self) -> Result<(), MapError> {
        for (map, kind) in LIMITED {
            let there = self.entries(map).unwrap_or_default() as u64;
            let room = u64::from(self.series).saturating_sub(there);
            self.room.set(kind, if self.grows { room } else { 0 }, 0)?;
        }
        Ok(())
    }

    /// Most entries of a map that may have fewer than it could.
    pub(super) fn most(&self, name: &str) -> Option<u64> {
        let limited = LIMITED.iter().any(|(map, _)| *map == name);
        limited.then_some(self.series.into())
    }

    /// Reads all counters.
    pub(super) fn read(&self) -> Result<Stats, MapError> {
        let mut stats = Stats::default();
        self.flows.for_each(|key, cpus| {
            let sum = cpus.iter().fold(FlowStats::default(), add);
            stats.flows.push((*key, sum));
        })?;
        self.requests.for_each(|key, cpus| {
            let sum = cpus.iter().fold(RequestStats::default(), add_requests);
            stats.requests.push((*key, sum));
        })?;
        self.unparsed.for_each(|key, cpus| {
            stats.unparsed.push((*key, cpus.iter().sum()));
        })?;
        self.decisions.for_each(|key, cpus| {
            let sum = cpus.iter().map(|[count, _]| count).sum();
            stats.decisions.push((*key, sum));
        })?;
        for (index, total) in stats.counters.iter_mut().enumerate() {
            *total = self.counters.get(&(index as u32), 0)?.iter().sum();
        }
        Ok(stats)
    }

    /// One of the programs' own counters.
    pub(super) fn counter(&self, counter: Counter) -> Result<u64, MapError> {
        Ok(self.counters.get(&counter.0, 0)?.iter().sum())
    }

    /// Adds one to the series of a late denial; whether there was room for it. Nobody else
    /// writes series of this reason, so reading, adding and writing back loses nothing.
    pub(super) fn count_late(&mut self, key: &DecisionKey) -> bool {
        let mut values = match (self.decisions.get(key, 0), nr_cpus()) {
            (Ok(values), _) => values.to_vec(),
            (Err(MapError::KeyNotFound), Ok(cpus)) => vec![[0; 2]; cpus],
            _ => return false,
        };
        if let Some([count, _]) = values.first_mut() {
            *count += 1;
        }
        PerCpuValues::try_from(values)
            .is_ok_and(|values| self.decisions.insert(key, values, 0).is_ok())
    }

    /// Forgets everything that is keyed by ids, after ids have started over.
    pub(super) fn forget(&mut self) {
        let keys = self.flows.keys_where(|_| true);
        forget_keys(keys, |key| self.flows.remove(key));
        let keys = self.requests.keys_where(|_| true);
        forget_keys(keys, |key| self.requests.remove(key));
        let keys = self.unparsed.keys_where(|_| true);
        forget_keys(keys, |key| self.unparsed.remove(key));
        let keys = self.decisions.keys_where(|_| true);
        forget_keys(keys, |key| self.decisions.remove(key));
        let keys = self.split_counters.keys_where(|_| true);
        forget_keys(keys, |key| self.split_counters.remove(key));
        let keys = self.affinity.keys_where(|_| true);
        forget_keys(keys, |key| self.affinity.remove(key));
    }

    /// How many entries the map `name` has, if it is one of these.
    pub(super) fn entries(&self, name: &str) -> Option<usize> {
        match name {
            "FLOWS" => self.flows.count(),
            "REQUESTS" => self.requests.count(),
            "UNPARSED" => self.unparsed.count(),
            "DECISIONS" => self.decisions.count(),
            "SPLIT_COUNTERS" => self.split_counters.count(),
            "AFFINITY" => self.affinity.count(),
            _ => None,
        }
    }

    /// Removes affinity entries that expired before `now_ns` (since boot).
    pub(super) fn expire_affinity(&mut self, now_ns: u64) {
        let expired = self.affinity.keys_where(|value| value.expires_ns < now_ns);
        for key in expired {
            // It may be gone.
            let _ = self.affinity.remove(&key);
        }
    }
}

/// A key that vanishes meanwhile is forgotten all the same.
fn forget_keys<K>(keys: Vec<K>, mut remove: impl FnMut(&K) -> Result<(), MapError>) {
    for key in &keys {
        let _ = remove(key);
    }
}

fn add_requests(mut total: RequestStats, cpu: &RequestStats) -> RequestStats {
    total.unanswered += cpu.unanswered;
    total.elapsed_ns += cpu.elapsed_ns;
    for (sum, count) in total.buckets.iter_mut().zip(cpu.buckets) {
        *sum += count;
    }
    total
}

fn add(mut total: FlowStats, cpu: &FlowStats) -> FlowStats {
    total.opened += cpu.opened;
    total.closed += cpu.closed;
    total.failed += cpu.failed;
    total.sent_bytes += cpu.sent_bytes;
    total.received_bytes += cpu.received_bytes;
    total.retransmits += cpu.retransmits;
    total.connect_ns += cpu.connect_ns;
    total.rtt_ns += cpu.rtt_ns;
    total.duration_ns += cpu.duration_ns;
    add_buckets(&mut total.connect_buckets, &cpu.connect_buckets);
    add_buckets(&mut total.rtt_buckets, &cpu.rtt_buckets);
    add_buckets(&mut total.duration_buckets, &cpu.duration_buckets);
    total
}

fn add_buckets(total: &mut [u64], cpu: &[u64]) {
    for (sum, count) in total.iter_mut().zip(cpu) {
        *sum += count;
    }
}

/// Capacity and memory of every pinned map, without the copies in policy maps. How many entries there are
/// only the owner of a map knows.
pub(super) fn usage(pins: &Pins) -> Vec<Usage> {
    MAPS.iter().filter_map(|map| usage_of(pins, map)).collect()
}

fn usage_of(pins: &Pins, map: &'static str) -> Option<Usage> {
    let data = MapData::from_pin(pins.map(map)).ok()?;
    let info = data.info().ok()?;
    let mut usage = Usage {
        map,
        entries: 0,
        capacity: 0,
        memory: memory(data.fd().as_fd()),
    };
    // How much the copies in a policy map hold, only who made them can ask.
    if info.map_type().ok()? != MapType::ArrayOfMaps {
        usage.capacity = u64::from(info.max_entries());
    }
    Some(usage)
}

/// Memory of a map as the kernel accounts it.
pub(super) fn memory(map: BorrowedFd<'_>) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|bytes| bytes.trim().parse().ok())
        .unwrap_or_default()
}
