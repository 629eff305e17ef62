//! Reads hash maps of the kernel, many entries with each system call.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::Pod;
use aya::maps::{MapData, MapType};
use aya::util::nr_cpus;
use aya_obj::generated::bpf_cmd;

/// Shows `visit` every entry of a hash map: its key, and a value, or one for each possible CPU
/// (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6). `at_once` entries are asked for at once, or, where more share a
/// bucket, as many as those are.
///
/// An entry that is there all the time is shown once, whatever happens to others meanwhile.
///
/// # Errors
///
/// `InvalidInput` if `map` is no hash map, or none of such keys and values; the kernel's error.
pub fn for_each<K: Pod, V: Pod>(
    map: &MapData,
    at_once: usize,
    mut visit: impl FnMut(&K, &[V]),
) -> io::Result<()> {
    let mut batch = Batch::new(map, at_once.max(1))?;
    loop {
        let more = batch.read(map)?;
        for (key, values) in batch.keys.iter().zip(batch.values.chunks(batch.cpus)) {
            visit(key, values);
        }
        if !more {
            return Ok(());
        }
    }
}

/// Room for some entries, and where in the map the next ones are.
struct Batch<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    /// Values of an entry.
    cpus: usize,
    /// For how many entries there is room.
    room: usize,
    /// Most entries of the map.
    most: usize,
    /// The kernel's: the next bucket.
    next: u32,
    begun: bool,
}

impl<K: Pod, V: Pod> Batch<K, V> {
    fn new(map: &MapData, room: usize) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let kind = info.map_type().map_err(io::Error::other)?;
        // The kernel rounds the value of a CPU up to so many bytes.
        let (cpus, rounded) = match kind {
            MapType::Hash | MapType::LruHash => (1, 1),
            MapType::PerCpuHash | MapType::LruPerCpuHash => {
                (nr_cpus().map_err(|(_, error)| error)?, 8)
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let fits = info.key_size() as usize == size_of::<K>()
            && info.value_size() as usize == size_of::<V>()
            && size_of::<V>().is_multiple_of(rounded);
        if !fits {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self {
            keys: Vec::new(),
            values: Vec::new(),
            cpus,
            room,
            most: info.max_entries() as usize,
            next: 0,
            begun: false,
        })
    }

    /// Reads the next entries; whether there may be more.
    fn read(&mut self, map: &MapData) -> io::Result<bool> {
        loop {
            let result = self.ask(map);
            match result.as_ref().map_err(io::Error::raw_os_error) {
                Ok(()) => return Ok(true),
                Err(Some(libc::ENOENT)) => return Ok(false),
                // More entries in one bucket than there is room for.
                Err(Some(libc::ENOSPC)) if self.room < self.most => self.room *= 2,
                Err(_) => return result.map(|()| false),
            }
        }
    }

    fn ask(&mut self, map: &MapData) -> io::Result<()> {
        self.keys.clear();
        self.values.clear();
        self.keys.reserve(self.room);
        self.values.reserve(self.room * self.cpus);
        let mut next = 0;
        let mut attr = super::empty_attr();
        attr.batch.map_fd = map.fd().as_fd().as_raw_fd() as u32;
        attr.batch.count = self.room as u32;
        attr.batch.keys = self.keys.as_mut_ptr() as u64;
        attr.batch.values = self.values.as_mut_ptr() as u64;
        attr.batch.out_batch = &raw mut next as u64;
        if self.begun {
            attr.batch.in_batch = &raw const self.next as u64;
        }
        let result = super::bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr).map(drop);
        let done = match &result {
            Ok(()) => true,
            Err(error) => error.raw_os_error() == Some(libc::ENOENT),
        };
        if done {
            // SAFETY: plain data, and what the kernel has said of this command.
            let count = (unsafe { attr.batch.count } as usize).min(self.room);
            // SAFETY: there is room for `room` keys, of which the kernel has written so many, of
            // this size; any bytes are one.
            unsafe { self.keys.set_len(count) };
            // SAFETY: the same, with a value for each CPU that the kernel knows.
            unsafe { self.values.set_len(count * self.cpus) };
            (self.next, self.begun) = (next, true);
        }
        result
    }
}
