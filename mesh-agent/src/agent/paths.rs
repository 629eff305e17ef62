//! Cgroups by id, remembered: where the kernel does not tell, the hierarchy is walked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dataplane::Hierarchy;

/// How often unknown cgroups are looked for in the hierarchy.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Most cgroups whose path is remembered.
const REMEMBERED: usize = 1024;

/// See the module.
pub(super) struct CgroupPaths {
    hierarchy: Hierarchy,
    paths: HashMap<u64, Arc<str>>,
    looked: Option<Instant>,
}

impl CgroupPaths {
    pub(super) fn new(hierarchy: Hierarchy) -> Self {
        Self {
            hierarchy,
            paths: HashMap::new(),
            looked: None,
        }
    }

    /// Path of a cgroup, if it still exists. The hierarchy is not walked for every question.
    pub(super) fn get(&mut self, id: u64) -> Option<Arc<str>> {
        if let Some(path) = self.paths.get(&id) {
            return Some(Arc::clone(path));
        }
        if let Some(path) = self.hierarchy.path_of(id) {
            if self.paths.len() >= REMEMBERED {
                self.paths.clear();
            }
            let path = Arc::<str>::from(path);
            self.paths.insert(id, Arc::clone(&path));
            return Some(path);
        }
        let due = self
            .looked
            .is_none_or(|looked| looked.elapsed() > LOOK_AGAIN);
        if due {
            self.looked = Some(Instant::now());
            let walk = self.hierarchy.walk().into_iter().take(REMEMBERED * 16);
            self.paths = walk.map(|cgroup| (cgroup.id, cgroup.path.into())).collect();
        }
        self.paths.get(&id).cloned()
    }
}
