//! The dynamic table.

use std::collections::VecDeque;

use super::field::Name;
use super::{Field, HpackError, MOST_TABLE};

/// The size of a table that nobody has said anything about, bytes.
const DEFAULT_SIZE: u32 = 4096;

#[derive(Clone, Copy, Debug)]
struct Entry {
    field: Field,
    name_length: u16,
    /// As the peers count it, bytes.
    size: u32,
}

/// Fields that later blocks refer to, the newest first.
///
/// How large it may be is agreed on by SETTINGS, but whoever fills it says in a block what becomes
/// of that, so SETTINGS need not be seen.
#[derive(Debug)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
    size: u32,
    most: u32,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            most: DEFAULT_SIZE,
        }
    }
}

impl Table {
    /// Adds a field and drops the oldest for which there is no room. One that is larger than the
    /// whole table empties it.
    pub(super) fn push(&mut self, field: Field, name_length: u32, size: u32) {
        self.shrink(self.most.saturating_sub(size));
        // A name that fits is shorter than the largest table.
        if let Ok(name_length) = u16::try_from(name_length)
            && size <= self.most
        {
            self.size += size;
            self.entries.push_front(Entry {
                field,
                name_length,
                size,
            });
        }
    }

    /// # Errors
    ///
    /// It may not be so large.
    pub(super) fn resize(&mut self, most: u32) -> Result<(), HpackError> {
        if most > MOST_TABLE {
            return Err(HpackError::TableSize);
        }
        self.most = most;
        self.shrink(most);
        Ok(())
    }

    pub(super) fn get(&self, index: u32) -> Result<Field, HpackError> {
        self.entry(index).map(|entry| entry.field)
    }

    /// The name of a field, and its length.
    pub(super) fn name(&self, index: u32) -> Result<(Name, u32), HpackError> {
        let entry = self.entry(index)?;
        Ok((entry.field.name(), entry.name_length.into()))
    }

    /// How large it is, bytes as the peers count them.
    #[cfg(test)]
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    pub(super) fn held(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    fn entry(&self, index: u32) -> Result<&Entry, HpackError> {
        self.entries
            .get(index as usize)
            .ok_or(HpackError::Malformed)
    }

    fn shrink(&mut self, most: u32) {
        while self.size > most {
            let Some(oldest) = self.entries.pop_back() else {
                break;
            };
            self.size -= oldest.size;
        }
    }
}

const _: () = assert!(size_of::<Entry>() <= 12);
// An entry counts 32 bytes besides its name.
const _: () = assert!(MOST_TABLE - 32 <= u16::MAX as u32);
