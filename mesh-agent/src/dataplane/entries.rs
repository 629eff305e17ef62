//! The entries of hash maps, read many at a time: a system call for each would be most of what a
//! scrape costs.

use aya::Pod;
use aya::maps::{HashMap, IterableMap, MapData, MapError, PerCpuHashMap, PerCpuValues};
use aya::sys::SyscallError;
use mesh_sys::batch;

/// How many are read at once: some 50 KiB of the largest, for two CPUs.
const AT_ONCE: usize = 64;

/// A hash map.
pub(super) trait Entries {
    type Key: Pod;
    type Value: Pod;

    fn data(&self) -> &MapData;

    /// Shows `visit` every entry: its key, and a value, or one for each CPU.
    fn for_each(&self, visit: impl FnMut(&Self::Key, &[Self::Value])) -> Result<(), MapError> {
        batch::for_each(self.data(), AT_ONCE, visit).map_err(|io_error| {
            let call = "bpf_map_lookup_batch";
            SyscallError { call, io_error }.into()
        })
    }

    /// How many there are; `None` if that cannot be read.
    fn count(&self) -> Option<usize> {
        let mut count = 0;
        self.for_each(|_, _| count += 1).ok().map(|()| count)
    }

    /// The keys of those whose value is like that, as far as they can be read.
    fn keys_where(&self, mut is_like: impl FnMut(&Self::Value) -> bool) -> Vec<Self::Key> {
        let mut keys = Vec::new();
        // Those that were read before an error are there.
        let _ = self.for_each(|key, values| {
            if values.iter().any(&mut is_like) {
                keys.push(*key);
            }
        });
        keys
    }
}

impl<K: Pod, V: Pod> Entries for HashMap<MapData, K, V> {
    type Key = K;
    type Value = V;

    fn data(&self) -> &MapData {
        IterableMap::<K, V>::map(self)
    }
}

impl<K: Pod, V: Pod> Entries for PerCpuHashMap<MapData, K, V> {
    type Key = K;
    type Value = V;

    fn data(&self) -> &MapData {
        IterableMap::<K, PerCpuValues<V>>::map(self)
    }
}
