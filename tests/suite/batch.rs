//! Hash maps, read many entries at a time.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::thread;

use aya::maps::{Array, HashMap, IterableMap, MapData, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use mesh_sys::batch::for_each;

/// `BPF_F_NO_PREALLOC`, as the mesh makes its maps.
const GROWS: u32 = 1;
const ENTRIES: u32 = 1000;

fn full() -> HashMap<MapData, u32, u64> {
    let mut map = HashMap::create(2 * ENTRIES, GROWS).expect("a map");
    for number in 0..ENTRIES {
        let value = u64::from(number) << 32;
        map.insert(number, value, 0).expect("room");
    }
    map
}

fn data(map: &HashMap<MapData, u32, u64>) -> &MapData {
    IterableMap::<u32, u64>::map(map)
}

/// How often each entry is shown.
fn shown(map: &MapData, at_once: usize) -> BTreeMap<u32, usize> {
    let mut shown = BTreeMap::new();
    for_each(map, at_once, |key: &u32, values: &[u64]| {
        assert_eq!(values, [u64::from(*key) << 32]);
        *shown.entry(*key).or_default() += 1;
    })
    .expect("the kernel reads it");
    shown
}

fn once_each(numbers: Range<u32>) -> BTreeMap<u32, usize> {
    numbers.map(|number| (number, 1)).collect()
}

/// With room for one, the first bucket that two share does not fit: of 1,000 entries some do.
#[test]
fn every_entry_is_shown_once() {
    let map = full();
    for at_once in [0, 1, 7, 64, 5000] {
        assert_eq!(
            shown(data(&map), at_once),
            once_each(0..ENTRIES),
            "{at_once}"
        );
    }
    let empty = HashMap::create(16, GROWS).expect("a map");
    assert_eq!(shown(data(&empty), 64), once_each(0..0));
}

#[test]
fn what_stays_is_shown_once_whatever_comes_and_goes() {
    let mut map = full();
    let id = data(&map).info().expect("the kernel tells").id();
    let reader = MapData::from_id(id).expect("the same map");
    thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for number in (ENTRIES..2 * ENTRIES).cycle().take(20_000) {
                let value = u64::from(number) << 32;
                // For a moment the kernel may have no memory at hand.
                if map.insert(number, value, 0).is_ok() {
                    map.remove(&number).expect("it is there");
                }
            }
        });
        let mut times = 0;
        while !changes.is_finished() || times == 0 {
            let mut seen = shown(&reader, 64);
            seen.retain(|number, _| *number < ENTRIES);
            assert_eq!(seen, once_each(0..ENTRIES));
            times += 1;
        }
    });
}

#[test]
fn values_come_of_every_cpu() {
    let cpus = nr_cpus().expect("how many there are") as u64;
    let mut map = PerCpuHashMap::<_, u32, [u64; 2]>::create(16, GROWS).expect("a map");
    let values: Vec<[u64; 2]> = (0..cpus).map(|cpu| [cpu, cpu + 7]).collect();
    let stored = PerCpuValues::try_from(values.clone()).expect("one for each");
    map.insert(3, stored, 0).expect("room");
    let data = IterableMap::<u32, PerCpuValues<[u64; 2]>>::map(&map);
    let mut seen = Vec::new();
    for_each(data, 64, |key: &u32, values: &[[u64; 2]]| {
        seen.push((*key, values.to_vec()))
    })
    .expect("the kernel reads it");
    assert_eq!(seen, [(3, values)]);
}

#[test]
fn other_maps_and_types_are_refused() {
    let hash = full();
    let array = Array::<_, u64>::create(1, 0).expect("a map");
    let array = IterableMap::<u32, u64>::map(&array);
    // The kernel would write 8 bytes for each.
    let narrow = PerCpuHashMap::<_, u32, u32>::create(16, GROWS).expect("a map");
    let narrow = IterableMap::<u32, PerCpuValues<u32>>::map(&narrow);
    for refused in [
        for_each(narrow, 64, |_: &u32, _: &[u32]| ()),
        for_each(data(&hash), 64, |_: &u64, _: &[u64]| ()),
        for_each(data(&hash), 64, |_: &u32, _: &[u32]| ()),
        for_each(array, 64, |_: &u32, _: &[u64]| ()),
    ] {
        let error = refused.expect_err("it does not fit");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
