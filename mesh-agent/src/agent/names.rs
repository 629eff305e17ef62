//! Numbers back to names: what ids in counters and records mean to people.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use mesh_common::{DEFAULT_RULE, Subject};

use crate::policy::ids::{Ids, Table};
use crate::policy::model::{Place, Policy};

/// Names by id.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Of the ids; see [`Ids::epoch`].
    pub(super) epoch: u64,
    subjects: HashMap<u32, Arc<str>>,
    versions: HashMap<u32, Arc<str>>,
    rules: HashMap<u32, Arc<str>>,
    targets: HashMap<u32, TargetName>,
    places: HashMap<Arc<str>, Place>,
    default_place: Option<Place>,
}

/// An endpoint on another node.
#[derive(Debug)]
pub(super) struct TargetName {
    /// Where it listens there.
    pub(super) endpoint: Arc<str>,
    /// The node.
    pub(super) node: Arc<str>,
}

impl Names {
    pub(super) fn new(ids: &Ids, policy: &Policy) -> Self {
        let places = policy
            .rules
            .iter()
            .map(|rule| (Arc::clone(&rule.name), rule.place.clone()));
        let targets = ids.targets.names().into_iter();
        Self {
            epoch: ids.epoch,
            targets: targets
                .filter_map(|(id, name)| Some((id, target(name)?)))
                .collect(),
            subjects: names(&ids.subjects),
            versions: names(&ids.versions),
            rules: names(&ids.rules),
            places: places.collect(),
            default_place: policy.default_place.clone(),
        }
    }

    /// Names of nothing.
    pub(super) fn none() -> &'static Self {
        static NONE: LazyLock<Names> = LazyLock::new(Names::default);
        &NONE
    }

    /// An endpoint on another node.
    pub(super) fn target(&self, id: u32) -> Option<&TargetName> {
        self.targets.get(&id)
    }

    /// A caller or a called service; `-` for one outside the mesh.
    pub(super) fn subject(&self, id: u32) -> Arc<str> {
        match Subject(id) {
            Subject::UNKNOWN => "unknown".into(),
            Subject::HOST => "host".into(),
            Subject::ANY => "*".into(),
            Subject::OUTSIDE => "outside".into(),
            _ => lookup(&self.subjects, id),
        }
    }

    /// A called service; `-` for one outside the mesh.
    pub(super) fn service(&self, id: u32) -> Arc<str> {
        if id == 0 {
            "-".into()
        } else {
            self.subject(id)
        }
    }

    /// A version; `-` where none was chosen.
    pub(super) fn version(&self, id: u32) -> Arc<str> {
        if id == 0 {
            "-".into()
        } else {
            lookup(&self.versions, id)
        }
    }

    /// A rule: `default` for the default, `-` where the reason is not policy.
    pub(super) fn rule(&self, id: u32) -> Arc<str> {
        match id {
            0 => "-".into(),
            DEFAULT_RULE => "default".into(),
            _ => lookup(&self.rules, id),
        }
    }

    /// Where the rule stands, if it still does.
    pub(super) fn place(&self, rule: u32) -> Option<&Place> {
        if rule == DEFAULT_RULE {
            return self.default_place.as_ref();
        }
        self.places.get(self.rules.get(&rule)?)
    }
}

/// Reads what [`target_name`](crate::policy::compile::target_name) writes.
fn target(name: &str) -> Option<TargetName> {
    let (_, rest) = name.rsplit_once(' ')?;
    let (endpoint, node) = rest.split_once('@')?;
    Some(TargetName {
        endpoint: endpoint.into(),
        node: node.into(),
    })
}

fn names(table: &Table) -> HashMap<u32, Arc<str>> {
    table
        .names()
        .into_iter()
        .map(|(id, name)| (id, name.into()))
        .collect()
}

fn lookup(names: &HashMap<u32, Arc<str>>, id: u32) -> Arc<str> {
    names.get(&id).cloned().unwrap_or_else(|| "unknown".into())
}
