//! One policy map: an inner map for each slot, written as a difference, grown when it is full.

use std::cmp::Ordering;
use std::ops::AddAssign;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use aya::Pod;
use aya::maps::lpm_trie::{self, LpmTrie};
use aya::maps::{
    Array, ArrayOfMaps, FromMapData, HashMap, InnerMap, IterableMap, Map, MapData, MapError,
};
use mesh_common::{PrefixKey, RuleSlots, SLOTS};
use mesh_sys::create_array_of_maps;

use super::DataplaneError;
use super::stats::{Usage, memory};

/// `BPF_F_NO_PREALLOC`: memory for entries that are there, not for those that could be.
const NO_PREALLOC: u32 = 1;
/// `BPF_F_INNER_MAP`: arrays of different lengths may take each other's place.
const INNER_MAP: u32 = 1 << 12;
/// Least capacity of an inner map, entries.
const LEAST_CAPACITY: usize = 16;

/// For how many entries a map is made that is to hold `entries`.
pub(super) fn capacity(entries: usize) -> usize {
    (entries + entries / 4)
        .max(LEAST_CAPACITY)
        .next_power_of_two()
}

/// How many entries a change touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Inserted or replaced.
    pub written: usize,
    /// Deleted.
    pub deleted: usize,
}

impl AddAssign for Touched {
    fn add_assign(&mut self, other: Self) {
        self.written += other.written;
        self.deleted += other.deleted;
    }
}

/// A kind of inner map.
pub(super) trait Inner: InnerMap + FromMapData {
    /// What one entry is, with its key.
    type Entry: Clone + PartialEq;

    fn create(capacity: u32) -> Result<Self, MapError>;

    fn fd(&self) -> BorrowedFd<'_>;

    fn write(&mut self, index: usize, entry: &Self::Entry) -> Result<(), MapError>;

    /// Makes the map hold `new` where it holds `old`, both sorted.
    fn change(&mut self, old: &[Self::Entry], new: &[Self::Entry]) -> Result<Touched, MapError>;
}

/// Walks two sorted lists; `write` gets what is new or different, `delete` what is gone.
fn difference<E: PartialEq>(
    old: &[E],
    new: &[E],
    order: impl Fn(&E, &E) -> Ordering,
    mut change: impl FnMut(&E, bool) -> Result<(), MapError>,
) -> Result<Touched, MapError> {
    let mut touched = Touched::default();
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let next = match (old.peek(), new.peek()) {
            (None, None) => return Ok(touched),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(is)) => order(was, is),
        };
        let gone = if next.is_le() { old.next() } else { None };
        let comes = if next.is_ge() { new.next() } else { None };
        match (gone, comes) {
            (Some(was), None) => {
                change(was, false)?;
                touched.deleted += 1;
            }
            (was, Some(is)) if was != Some(is) => {
                change(is, true)?;
                touched.written += 1;
            }
            _ => {}
        }
    }
}

impl<K: Pod + Ord, V: Pod + PartialEq> Inner for HashMap<MapData, K, V> {
    type Entry = (K, V);

    fn create(capacity: u32) -> Result<Self, MapError> {
        Self::create(capacity, NO_PREALLOC)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        IterableMap::map(self).fd().as_fd()
    }

    fn write(&mut self, _index: usize, (key, value): &(K, V)) -> Result<(), MapError> {
        self.insert(key, value, 0)
    }

    fn change(&mut self, old: &[(K, V)], new: &[(K, V)]) -> Result<Touched, MapError> {
        difference(
            old,
            new,
            |a, b| a.0.cmp(&b.0),
            |(key, value), write| {
                if write {
                    self.insert(key, value, 0)
                } else {
                    self.remove(key)
                }
            },
        )
    }
}

impl<V: Pod + PartialEq> Inner for Array<MapData, V> {
    type Entry = V;

    fn create(capacity: u32) -> Result<Self, MapError> {
        Self::create(capacity, INNER_MAP)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        IterableMap::<u32, V>::map(self).fd().as_fd()
    }

    fn write(&mut self, index: usize, entry: &V) -> Result<(), MapError> {
        self.set(index as u32, entry, 0)
    }

    /// What is past the end stays: nothing points there.
    fn change(&mut self, old: &[V], new: &[V]) -> Result<Touched, MapError> {
        let mut touched = Touched::default();
        for (index, entry) in new.iter().enumerate() {
            if old.get(index) != Some(entry) {
                self.write(index, entry)?;
                touched.written += 1;
            }
        }
        Ok(touched)
    }
}

/// Prefix length in bits, key and value of a trie.
type Prefix = ((u32, PrefixKey), RuleSlots);

impl Inner for LpmTrie<MapData, PrefixKey, RuleSlots> {
    type Entry = Prefix;

    fn create(capacity: u32) -> Result<Self, MapError> {
        Self::create(capacity, NO_PREALLOC)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        IterableMap::map(self).fd().as_fd()
    }

    fn write(&mut self, _index: usize, ((bits, key), value): &Prefix) -> Result<(), MapError> {
        self.insert(&lpm_trie::Key::new(*bits, *key), value, 0)
    }

    fn change(&mut self, old: &[Prefix], new: &[Prefix]) -> Result<Touched, MapError> {
        difference(
            old,
            new,
            |a, b| a.0.cmp(&b.0),
            |((bits, key), value), write| {
                let key = lpm_trie::Key::new(*bits, *key);
                if write {
                    self.insert(&key, value, 0)
                } else {
                    self.remove(&key)
                }
            },
        )
    }
}

/// The copy of a policy map in one slot.
struct Copy<M: Inner> {
    map: M,
    capacity: usize,
    entries: Vec<M::Entry>,
    /// Whether the kernel side sees it.
    linked: bool,
}

/// A policy map.
pub(super) struct Table<M: Inner> {
    outer: ArrayOfMaps<MapData, M>,
    /// What the slots hold; `None` for what an earlier agent wrote there.
    copies: [Option<Copy<M>>; SLOTS as usize],
}

impl<M: Inner> Table<M> {
    /// Makes and pins the map of maps if it is not there. aya would make one whose inner maps
    /// have type information, and kernels before 6.2 let no map without it, such as those made
    /// later, take their place (`bpf_map_meta_equal` in kernel/bpf/map_in_map.c).
    pub(super) fn prepare(pin: &Path) -> Result<(), DataplaneError> {
        if pin.exists() {
            return Ok(());
        }
        let template = M::create(1)?;
        let outer = MapData::from_fd(create_array_of_maps(SLOTS, Inner::fd(&template))?)?;
        Ok(outer.pin(pin)?)
    }

    pub(super) fn new(map: Map) -> Result<Self, DataplaneError>
    where
        ArrayOfMaps<MapData, M>: TryFrom<Map, Error = MapError>,
    {
        Ok(Self {
            outer: ArrayOfMaps::try_from(map)?,
            copies: [None, None],
        })
    }

    /// Makes the copy in `slot`, which is not in force, hold `new`. A copy that had to be made
    /// anew is seen by the kernel side after [`Self::link`].
    pub(super) fn write(&mut self, slot: u32, new: &[M::Entry]) -> Result<Touched, MapError> {
        let place = &mut self.copies[slot as usize];
        if let Some(copy) = place.as_mut().filter(|copy| copy.capacity >= new.len()) {
            // Forgotten while it changes: an error on the way leaves a copy nobody knows.
            let old = std::mem::take(&mut copy.entries);
            let touched = copy.map.change(&old, new);
            match touched {
                Ok(_) => copy.entries = new.to_vec(),
                Err(_) => *place = None,
            }
            return touched;
        }
        let capacity = capacity(new.len());
        let mut map = M::create(capacity as u32)?;
        for (index, entry) in new.iter().enumerate() {
            map.write(index, entry)?;
        }
        *place = Some(Copy {
            map,
            capacity,
            entries: new.to_vec(),
            linked: false,
        });
        Ok(Touched {
            written: new.len(),
            deleted: 0,
        })
    }

    /// Whether the kernel side sees the copy in `slot`.
    pub(super) fn is_linked(&self, slot: u32) -> bool {
        self.copies[slot as usize]
            .as_ref()
            .is_none_or(|copy| copy.linked)
    }

    /// Shows the kernel side a copy that was made anew. Takes as long as [`Self::quiesce`].
    pub(super) fn link(&mut self, slot: u32) -> Result<(), MapError> {
        match &mut self.copies[slot as usize] {
            Some(copy) if !copy.linked => {
                self.outer.set(slot, &copy.map, 0)?;
                copy.linked = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Waits until no program runs that read `slot` before: an update of a map of maps returns
    /// only then (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c).
    pub(super) fn quiesce(&mut self, slot: u32) -> Result<(), MapError> {
        match &self.copies[slot as usize] {
            Some(copy) => self.outer.set(slot, &copy.map, 0),
            None => Ok(()),
        }
    }

    /// Whether an earlier agent has left something in `slot`: this one can neither read it nor tell how much memory it
    /// takes.
    pub(super) fn is_inherited(&self, slot: u32) -> bool {
        let is_empty = || matches!(self.outer.get(&slot, 0), Err(MapError::KeyNotFound));
        self.copies[slot as usize].is_none() && !is_empty()
    }

    /// Adds the copies that this agent has made: the capacity of the largest, and all their memory.
    pub(super) fn add_usage(&self, usage: &mut Usage) {
        for copy in self.copies.iter().flatten() {
            usage.capacity = usage.capacity.max(copy.capacity as u64);
            usage.memory += memory(Inner::fd(&copy.map));
        }
    }

    /// What `slot` holds, if this agent wrote it.
    pub(super) fn entries(&self, slot: u32) -> Option<&[M::Entry]> {
        self.copies[slot as usize]
            .as_ref()
            .map(|copy| copy.entries.as_slice())
    }

    /// How many entries `slot` holds, if this agent wrote it.
    pub(super) fn len(&self, slot: u32) -> Option<usize> {
        self.entries(slot).map(<[M::Entry]>::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_touched() {
        let old = [(1, 'a'), (2, 'b'), (4, 'd')];
        let new = [(1, 'a'), (2, 'x'), (3, 'c'), (5, 'e')];
        let mut changes = Vec::new();
        let touched = difference(
            &old,
            &new,
            |a, b| a.0.cmp(&b.0),
            |entry, write| {
                changes.push((*entry, write));
                Ok(())
            },
        )
        .expect("no errors");
        assert_eq!(
            touched,
            Touched {
                written: 3,
                deleted: 1
            }
        );
        let expected = [
            ((2, 'x'), true),
            ((3, 'c'), true),
            ((4, 'd'), false),
            ((5, 'e'), true),
        ];
        assert_eq!(changes, expected);
    }
}
