//! The policy in the kernel: written into the slot that is not in force, then put in force by
//! one store.

use std::collections::HashSet;
use std::thread::{self, Scope, ScopedJoinHandle};

use aya::Ebpf;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use mesh_common::{
    Active, CgroupIdentity, Destination, EndpointEntry, PolicyHeader, PrefixKey, RuleKey,
    RuleSlots, SLOTS, ScheduleSlot, Selector, SocketKey, Split, SplitKey, Subject, SubjectInfo,
};

use super::DataplaneError;
use super::cgroup::{Cgroup, Hierarchy};
use super::entries::Entries as _;
use super::http;
use super::pins::Pins;
use super::stats::Usage;
use super::table::{Inner, Table, Touched};
use crate::policy::compile::Entries;
use crate::policy::judge::InForce;

/// `BPF_NOEXIST`: insert only.
const NO_EXIST: u64 = 1;

type Destinations = Table<HashMap<MapData, SocketKey, Destination>>;
type Rules = Table<HashMap<MapData, RuleKey, RuleSlots>>;
type Subjects = Table<HashMap<MapData, u32, SubjectInfo>>;
type Uids = Table<HashMap<MapData, u32, u32>>;
type Splits = Table<HashMap<MapData, SplitKey, Split>>;
type Schedule = Table<Array<MapData, ScheduleSlot>>;
type Endpoints = Table<Array<MapData, EndpointEntry>>;
type Egress = Table<LpmTrie<MapData, PrefixKey, RuleSlots>>;
type Selectors = Table<Array<MapData, Selector>>;

/// The maps of the policy, and of the cgroups it attributes.
pub(super) struct PolicyMaps {
    active: Array<MapData, Active>,
    headers: Array<MapData, PolicyHeader>,
    destinations: Destinations,
    rules: Rules,
    subjects: Subjects,
    uids: Uids,
    splits: Splits,
    schedule: Schedule,
    endpoints: Endpoints,
    egress: Egress,
    sources: Egress,
    selectors: Selectors,
    cgroups: HashMap<MapData, u64, CgroupIdentity>,
    /// Whether every cgroup is attributed under a slot's selectors, as far as this agent knows.
    attributed: [bool; SLOTS as usize],
    hierarchy: Hierarchy,
    /// [`header_flag`](mesh_common::header_flag) bits of every policy on this node.
    common_flags: u32,
}

/// The policy in force, and what cgroups are under it.
pub(super) struct Applied<'p> {
    pub(super) entries: InForce<'p>,
    pub(super) header: PolicyHeader,
    slot: u32,
    selectors: &'p [Selector],
    cgroups: &'p HashMap<MapData, u64, CgroupIdentity>,
}

impl Applied<'_> {
    /// The subject of a cgroup as the kernel side sees it.
    pub(super) fn seen(&self, cgroup: u64) -> Option<u32> {
        let identity = self.cgroups.get(&cgroup, 0).ok()?;
        identity.subject.get(self.slot as usize).copied()
    }

    /// The subject of a cgroup by its path.
    pub(super) fn attribute(&self, cgroup: &Cgroup, root: usize) -> u32 {
        attribute(cgroup, self.selectors, root).0
    }
}

/// Makes the maps of maps that are not pinned yet. Before the programs are loaded.
pub(super) fn prepare(pins: &Pins) -> Result<(), DataplaneError> {
    Destinations::prepare(&pins.map("DESTINATIONS"))?;
    Rules::prepare(&pins.map("RULES"))?;
    Subjects::prepare(&pins.map("SUBJECTS"))?;
    Uids::prepare(&pins.map("UIDS"))?;
    Splits::prepare(&pins.map("SPLITS"))?;
    Schedule::prepare(&pins.map("SCHEDULE"))?;
    Endpoints::prepare(&pins.map("ENDPOINTS"))?;
    Egress::prepare(&pins.map("EGRESS"))?;
    Egress::prepare(&pins.map("SOURCES"))?;
    Selectors::prepare(&pins.map("SELECTORS"))
}

/// Takes the map `name` out of the loaded object.
pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, DataplaneError> {
    ebpf.take_map(name).ok_or(DataplaneError::NoMap(name))
}

impl PolicyMaps {
    pub(super) fn new(
        ebpf: &mut Ebpf,
        hierarchy: Hierarchy,
        common_flags: u32,
    ) -> Result<Self, DataplaneError> {
        Ok(Self {
            active: take(ebpf, "ACTIVE")?.try_into()?,
            headers: take(ebpf, "HEADERS")?.try_into()?,
            destinations: Table::new(take(ebpf, "DESTINATIONS")?)?,
            rules: Table::new(take(ebpf, "RULES")?)?,
            subjects: Table::new(take(ebpf, "SUBJECTS")?)?,
            uids: Table::new(take(ebpf, "UIDS")?)?,
            splits: Table::new(take(ebpf, "SPLITS")?)?,
            schedule: Table::new(take(ebpf, "SCHEDULE")?)?,
            endpoints: Table::new(take(ebpf, "ENDPOINTS")?)?,
            egress: Table::new(take(ebpf, "EGRESS")?)?,
            sources: Table::new(take(ebpf, "SOURCES")?)?,
            selectors: Table::new(take(ebpf, "SELECTORS")?)?,
            cgroups: take(ebpf, "CGROUPS")?.try_into()?,
            attributed: [false; SLOTS as usize],
            hierarchy,
            common_flags,
        })
    }

    /// The slot in force; `None` before the first policy.
    pub(super) fn active_slot(&self) -> Result<Option<u32>, MapError> {
        Ok(self.active.get(&0, 0)?.slot_plus_one.checked_sub(1))
    }

    /// Summary of the policy in force.
    pub(super) fn header(&self) -> Result<Option<PolicyHeader>, MapError> {
        self.active_slot()?
            .map(|slot| self.headers.get(&slot, 0))
            .transpose()
    }

    /// Puts `entries` in force as `revision`. On an error the policy in force stays.
    pub(super) fn apply(
        &mut self,
        entries: &Entries,
        revision: u64,
        id_epoch: u64,
    ) -> Result<Touched, MapError> {
        let slot = self.active_slot()?.map_or(0, |slot| (slot + 1) % SLOTS);
        let same_selectors = self.attributed[slot as usize]
            && self.selectors.entries(slot) == Some(entries.selectors.as_slice());
        // An error on the way must not look like work that is done when it is tried again.
        self.attributed[slot as usize] = false;
        let touched = self.write(slot, entries)?;
        let header = PolicyHeader {
            revision,
            selectors: entries.selectors.len() as u32,
            flags: entries.header_flags | self.common_flags,
            id_epoch,
        };
        self.headers.set(slot, header, 0)?;
        if !same_selectors {
            // Whoever created a cgroup before this has matched it against the old selectors,
            // and it is there to be walked over; whoever does so after it uses the new ones.
            self.selectors.quiesce(slot)?;
            self.attribute_all(slot, &entries.selectors)?;
        }
        self.attributed[slot as usize] = true;
        self.active.set(
            0,
            Active {
                slot_plus_one: slot + 1,
            },
            0,
        )?;
        Ok(touched)
    }

    /// The entries in force; `None` if this agent did not write them.
    pub(super) fn in_force(&self) -> Result<Option<Applied<'_>>, MapError> {
        let Some(slot) = self.active_slot()? else {
            return Ok(None);
        };
        let header = self.headers.get(&slot, 0)?;
        let entries = || {
            Some(InForce {
                destinations: self.destinations.entries(slot)?,
                rules: self.rules.entries(slot)?,
                subjects: self.subjects.entries(slot)?,
                uids: self.uids.entries(slot)?,
                splits: self.splits.entries(slot)?,
                schedule: self.schedule.entries(slot)?,
                endpoints: self.endpoints.entries(slot)?,
                egress: self.egress.entries(slot)?,
                sources: self.sources.entries(slot)?,
                header_flags: header.flags,
            })
        };
        let applied = |entries| Applied {
            entries,
            header,
            slot,
            selectors: self.selectors.entries(slot).unwrap_or_default(),
            cgroups: &self.cgroups,
        };
        Ok(entries().map(applied))
    }

    /// How many entries the map `name` has in the slot in force, if it is one of these.
    pub(super) fn entries(&self, name: &str) -> Option<usize> {
        let slot = self.active_slot().ok()??;
        match name {
            "DESTINATIONS" => self.destinations.len(slot),
            "RULES" => self.rules.len(slot),
            "SUBJECTS" => self.subjects.len(slot),
            "UIDS" => self.uids.len(slot),
            "SPLITS" => self.splits.len(slot),
            "SCHEDULE" => self.schedule.len(slot),
            "ENDPOINTS" => self.endpoints.len(slot),
            "EGRESS" => self.egress.len(slot),
            "SOURCES" => self.sources.len(slot),
            "SELECTORS" => self.selectors.len(slot),
            "CGROUPS" => self.cgroups.count(),
            _ => None,
        }
    }

    /// Adds the copies that are in a policy map, if it is one.
    pub(super) fn add_usage(&self, usage: &mut Usage) {
        match usage.map {
            "DESTINATIONS" => self.destinations.add_usage(usage),
            "RULES" => self.rules.add_usage(usage),
            "SUBJECTS" => self.subjects.add_usage(usage),
            "UIDS" => self.uids.add_usage(usage),
            "SPLITS" => self.splits.add_usage(usage),
            "SCHEDULE" => self.schedule.add_usage(usage),
            "ENDPOINTS" => self.endpoints.add_usage(usage),
            "EGRESS" => self.egress.add_usage(usage),
            "SOURCES" => self.sources.add_usage(usage),
            "SELECTORS" => self.selectors.add_usage(usage),
            _ => {}
        }
    }

    /// Waits until nobody reads the slot that was in force before the last [`Self::apply`].
    pub(super) fn quiesce(&mut self) -> Result<(), MapError> {
        match self.active_slot()? {
            Some(slot) => self.destinations.quiesce(slot),
            None => Ok(()),
        }
    }

    /// Lets go of what an earlier agent has left in the slot that is not in force: nobody can tell any more how much memory
    /// it takes. To be called when nobody reads it, so after [`Self::quiesce`].
    pub(super) fn drop_inherited(&mut self) -> Result<(), MapError> {
        let Some(active) = self.active_slot()? else {
            return Ok(());
        };
        let other = (active + 1) % SLOTS;
        if self.destinations.is_inherited(other) {
            self.write(other, &Entries::default())?;
        }
        Ok(())
    }

    fn write(&mut self, slot: u32, entries: &Entries) -> Result<Touched, MapError> {
        let mut touched = self.destinations.write(slot, &entries.destinations)?;
        touched += self.rules.write(slot, &entries.rules)?;
        touched += self.subjects.write(slot, &entries.subjects)?;
        touched += self.uids.write(slot, &entries.uids)?;
        touched += self.splits.write(slot, &entries.splits)?;
        touched += self.schedule.write(slot, &entries.schedule)?;
        touched += self.endpoints.write(slot, &entries.endpoints)?;
        touched += self.egress.write(slot, &entries.egress)?;
        touched += self.sources.write(slot, &entries.sources)?;
        touched += self.selectors.write(slot, &entries.selectors)?;
        self.link(slot)?;
        Ok(touched)
    }

    /// Shows the kernel side the copies that were made anew, all at once: each takes as long as
    /// an RCU grace period, and those that begin together end together.
    fn link(&mut self, slot: u32) -> Result<(), MapError> {
        let Self {
            active: _,
            headers: _,
            destinations,
            rules,
            subjects,
            uids,
            splits,
            schedule,
            endpoints,
            egress,
            sources,
            selectors,
            cgroups: _,
            common_flags: _,
            attributed: _,
            hierarchy: _,
        } = self;
        thread::scope(|scope| {
            let links = [
                link_aside(scope, destinations, slot),
                link_aside(scope, rules, slot),
                link_aside(scope, subjects, slot),
                link_aside(scope, uids, slot),
                link_aside(scope, splits, slot),
                link_aside(scope, schedule, slot),
                link_aside(scope, endpoints, slot),
                link_aside(scope, egress, slot),
                link_aside(scope, sources, slot),
                link_aside(scope, selectors, slot),
            ];
            let mut links = links.into_iter().flatten();
            links.try_for_each(|link| match link.join() {
                Ok(linked) => linked,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    /// Attributes every cgroup that exists under the selectors of `slot`. One that there is no
    /// room for stays unknown: its calls to protected services are denied.
    fn attribute_all(&mut self, slot: u32, selectors: &[Selector]) -> Result<(), MapError> {
        let root = self.hierarchy.prefix().len();
        let mut forgotten = 0;
        for cgroup in self.hierarchy.walk() {
            let known = self.cgroups.get(&cgroup.id, 0).ok();
            let mut identity = known.unwrap_or_default();
            let subject = attribute(&cgroup, selectors, root).0;
            let place = &mut identity.subject[slot as usize];
            if std::mem::replace(place, subject) == subject {
                continue;
            }
            match self.cgroups.insert(cgroup.id, identity, 0) {
                Err(_) if known.is_none() => forgotten += 1,
                result => result?,
            }
        }
        if forgotten > 0 {
            tracing::error!(
                cgroups = forgotten,
                "cgroups cannot be remembered: their calls to protected services fail"
            );
        }
        Ok(())
    }

    /// Cgroups whose workloads speak HTTP; `None` if none is to, or this agent does not know.
    pub(super) fn http_cgroups(&self) -> Result<Option<Vec<Cgroup>>, MapError> {
        let Some(slot) = self.active_slot()? else {
            return Ok(None);
        };
        let found = self
            .destinations
            .entries(slot)
            .zip(self.selectors.entries(slot));
        Ok(found.and_then(|(destinations, selectors)| {
            http::wanted(destinations, selectors, &self.hierarchy)
        }))
    }

    /// Forgets cgroups that are gone and remembers those that were not seen to be created.
    pub(super) fn reconcile_cgroups(&mut self) -> Result<(), MapError> {
        let known: HashSet<u64> = self.cgroups.keys().collect::<Result<_, _>>()?;
        // Walked after the map was read: what is not there now is gone.
        let existing = self.hierarchy.walk();
        let ids: HashSet<u64> = existing.iter().map(|cgroup| cgroup.id).collect();
        for gone in known.difference(&ids) {
            // The kernel side may have forgotten it meanwhile.
            let _ = self.cgroups.remove(gone);
        }
        let root = self.hierarchy.prefix().len();
        for cgroup in existing.iter().filter(|cgroup| !known.contains(&cgroup.id)) {
            let subject = [0, 1].map(|slot| {
                let selectors = self.selectors.entries(slot);
                selectors.map_or(0, |selectors| attribute(cgroup, selectors, root).0)
            });
            // What the kernel side wrote meanwhile stays.
            let _ = self
                .cgroups
                .insert(cgroup.id, CgroupIdentity { subject }, NO_EXIST);
        }
        Ok(())
    }
}

/// Links a table on a thread of its own; `None` if there is nothing to link.
fn link_aside<'scope, M: Inner + Send>(
    scope: &'scope Scope<'scope, '_>,
    table: &'scope mut Table<M>,
    slot: u32,
) -> Option<ScopedJoinHandle<'scope, Result<(), MapError>>>
where
    M::Entry: Send,
{
    (!table.is_linked(slot)).then(|| scope.spawn(move || table.link(slot)))
}

/// The subject of a cgroup: of the selectors that match, the deepest, and of those the first.
pub(super) fn attribute(cgroup: &Cgroup, selectors: &[Selector], root: usize) -> Subject {
    let path = cgroup.path.as_bytes();
    let mut best = (0, Subject::HOST);
    for selector in selectors {
        if let Some(depth) = selector.matches(path, root)
            && depth > best.0
        {
            best = (depth, Subject(selector.subject));
        }
    }
    best.1
}
