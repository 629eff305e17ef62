//! Names to numbers: the kernel sees ids only.
//!
//! A name keeps its id for as long as it is known, over reloads and restarts, and an id is
//! never given to another name: counters in the kernel stay what they are. The table is saved
//! with the last good policy.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;
use mesh_common::{DEFAULT_RULE, Subject};
use serde::{Deserialize, Serialize};

/// One number space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    next: u32,
    ids: HashMap<String, u32, RandomState>,
}

impl Table {
    fn starting_at(next: u32) -> Self {
        Self {
            next,
            ids: HashMap::default(),
        }
    }

    /// 0 is none.
    fn of_targets() -> Self {
        Self::starting_at(1)
    }

    /// The id of `name`, given out if it has none.
    pub fn id(&mut self, name: &str) -> u32 {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.next;
        self.next += 1;
        self.ids.insert(name.to_owned(), id);
        id
    }

    /// Names by id.
    pub fn names(&self) -> BTreeMap<u32, &str> {
        self.ids
            .iter()
            .map(|(name, id)| (*id, name.as_str()))
            .collect()
    }
}

/// All number spaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// Changes whenever ids start over; see [`mesh_common::PolicyHeader::id_epoch`].
    pub epoch: u64,
    /// Services as `namespace/name`, namespaces as `namespace/*`, other nodes as `node name`.
    pub subjects: Table,
    /// Ports of services as `namespace/name:port/protocol`.
    pub frontends: Table,
    /// Version labels.
    pub versions: Table,
    /// Rules by name.
    pub rules: Table,
    /// Endpoints on other nodes as `frontend address@node`.
    #[serde(default = "Table::of_targets")]
    pub targets: Table,
}

impl Ids {
    /// A table without names.
    pub fn new(epoch: u64) -> Self {
        Self {
            epoch,
            subjects: Table::starting_at(Subject::FIRST_NAMED),
            frontends: Table::starting_at(1),
            versions: Table::starting_at(1),
            rules: Table::starting_at(DEFAULT_RULE + 1),
            targets: Table::of_targets(),
        }
    }
}
