//! The kernel side as the agent handles it: load, attach, apply a policy, read counters.
//!
//! Comes in: entries from [`crate::policy::compile`]. Goes out: map contents and records, with
//! ids still being numbers. aya's types do not leave this module.

mod addresses;
mod cgroup;
mod diag;
mod entries;
mod flows;
mod guard;
mod http;
mod migrate;
pub(crate) mod netns;
mod pins;
mod policy_maps;
mod programs;
mod records;
mod stats;
mod survey;
mod table;
mod tracefs;
mod tunnel;
pub mod usher;
mod weight;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use aya::Ebpf;
use mesh_common::{Counter, PolicyHeader};
use mesh_sys::{effective_programs, netns_cookie, open_pin};

use self::addresses::LocalAddresses;
pub(crate) use self::cgroup::runs_below;
pub use self::cgroup::{Cgroup, Hierarchy};
pub use self::diag::can_abort;
#[cfg(test)]
pub(crate) use self::diag::socket_between;
pub(crate) use self::diag::{Aborted, KINDS, SockDiag, Socket, Wanted, state};
use self::flows::Memory;
pub(crate) use self::flows::{FlowJudge, Late, Leaving, Place, Standing};
use self::guard::Guard;
use self::http::HttpPrograms;
pub use self::http::{HTTP_HOOKS, HttpState};
use self::migrate::Inherited;
pub use self::pins::{Pins, PinsError};
use self::policy_maps::PolicyMaps;
use self::programs::Globals;
pub use self::programs::{HOOKS, Hooked};
use self::records::Followed;
pub use self::records::{Reader, Record, Records};
use self::stats::StatsMaps;
pub use self::stats::{Stats, Usage};
pub use self::survey::survey;
pub use self::table::Touched;
pub(crate) use self::tunnel::TunnelMaps;
pub use self::usher::Usher;
pub use self::weight::maps_bytes;
use crate::policy::compile::Entries;

/// What the kernel side needs to know of its host.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The BPF file system.
    pub bpffs: &'a Path,
    /// The cgroup the mesh is limited to; `None` for the whole host.
    pub cgroup_root: Option<&'a Path>,
    /// Level of the programs' own log, 0 (off) to 5 (trace).
    pub log_level: u8,
    /// Kinds of sockets that services may make: [`mesh_common::header_flag`], `ALLOW_*`.
    pub sockets: u32,
    /// How many series of each kind there may be.
    pub series: u32,
    /// Who does what takes more rights than the agent keeps; `None` where nothing is kept running.
    pub usher: Option<&'a Arc<Usher>>,
}

/// The kernel side.
pub struct Dataplane {
    pins: Pins,
    hierarchy: Hierarchy,
    ebpf: Option<Ebpf>,
    guard: Option<Guard>,
    http: HttpPrograms,
    inherited: Inherited,
    policy: PolicyMaps,
    stats: StatsMaps,
    addresses: LocalAddresses,
    memory: Memory,
    followed: Followed,
    unserved: Vec<(&'static str, String)>,
}

impl Dataplane {
    /// Loads the programs on the pinned maps, makes the maps that are missing, and lets new
    /// cgroups be seen. What is in force already stays in force.
    ///
    /// # Errors
    ///
    /// Another agent is running, or the kernel refuses.
    pub fn load(options: Options<'_>) -> Result<(Self, Records), DataplaneError> {
        let mut hierarchy = Hierarchy::find(options.cgroup_root)?;
        if let Some(usher) = options.usher {
            hierarchy = hierarchy.with_usher(Arc::clone(usher));
        }
        let pins = Pins::take(options.bpffs, options.usher.cloned())?;
        let globals = Globals {
            netns_cookie: netns_cookie()?,
            root: hierarchy.prefix(),
            log_level: options.log_level,
        };
        let inherited = Inherited::take(&pins)?;
        policy_maps::prepare(&pins)?;
        let mut ebpf = programs::load(&pins, globals)?;
        inherited.move_links(&pins)?;
        let unserved = programs::attach_tracepoints(&ebpf, &pins, options.usher.map(Arc::as_ref));
        let http = HttpPrograms::new(&mut ebpf);
        let records = Records::new(&mut ebpf)?;
        let dataplane = Self {
            policy: PolicyMaps::new(&mut ebpf, hierarchy.clone(), options.sockets)?,
            stats: StatsMaps::new(&mut ebpf, options.series)?,
            addresses: LocalAddresses::new(&mut ebpf)?,
            memory: Memory::default(),
            followed: Followed::new(&mut ebpf)?,
            ebpf: Some(ebpf),
            guard: None,
            http,
            inherited,
            pins,
            hierarchy,
            unserved,
        };
        Ok((dataplane, records))
    }

    /// Puts the loaded programs in force. Called once, after the first policy is applied.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn attach(&mut self) -> Result<(), DataplaneError> {
        self.addresses.refresh()?;
        if let Some(mut ebpf) = self.ebpf.take() {
            programs::attach(&mut ebpf, &self.pins, &self.hierarchy)?;
            self.guard = Some(Guard::new(&self.pins, &ebpf)?);
        }
        self.inherited.remove()?;
        self.sync_http()
    }

    /// Puts back what somebody has removed: pins, links, the file system they are on. What
    /// was missing, in words.
    ///
    /// # Errors
    ///
    /// It cannot be put back.
    pub fn repair(&mut self) -> Result<Vec<String>, DataplaneError> {
        match &mut self.guard {
            Some(guard) => guard.repair(&mut self.pins, &self.hierarchy),
            None => Ok(Vec::new()),
        }
    }

    /// Summary of the policy in force; `None` before the first.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn header(&self) -> Result<Option<PolicyHeader>, DataplaneError> {
        Ok(self.policy.header()?)
    }

    /// The number that the next policy gets.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn next_revision(&self) -> Result<u64, DataplaneError> {
        let last = self.header()?.map_or(0, |header| header.revision);
        Ok(last.max(self.inherited.revision) + 1)
    }

    /// Puts `entries` in force in one step. On an error the policy in force stays.
    ///
    /// # Errors
    ///
    /// The kernel refuses, such as for lack of memory.
    pub fn apply(
        &mut self,
        entries: &Entries,
        revision: u64,
        id_epoch: u64,
    ) -> Result<Touched, DataplaneError> {
        let old_epoch = self.header()?.map(|header| header.id_epoch);
        let touched = self.policy.apply(entries, revision, id_epoch)?;
        if old_epoch.is_some_and(|old| old != id_epoch) {
            self.stats.forget();
            self.stats.make_room()?;
        }
        if self.ebpf.is_none() {
            self.sync_http()?;
        }
        Ok(touched)
    }

    /// Puts the programs that read requests on the cgroups of the workloads that get them.
    ///
    /// # Errors
    ///
    /// The kernel does not tell which policy is in force.
    pub fn sync_http(&mut self) -> Result<(), DataplaneError> {
        let wanted = self.policy.http_cgroups()?;
        self.http
            .sync(&self.pins, &self.hierarchy, wanted.as_deref());
        Ok(())
    }

    /// How the programs that read requests are attached.
    pub fn http(&self) -> HttpState {
        self.http.state()
    }

    /// Waits until no program reads the policy that was in force before the last
    /// [`Self::apply`], so that the next one may write over it. If an earlier agent put that in force, its memory is
    /// given back: see [`Self::usage`].
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn quiesce(&mut self) -> Result<(), DataplaneError> {
        self.policy.quiesce()?;
        if let Err(error) = self.policy.drop_inherited() {
            tracing::warn!(%error, "memory of an earlier agent's policy is neither given back nor counted");
        }
        Ok(())
    }

    /// What was counted so far.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn stats(&self) -> Result<Stats, DataplaneError> {
        Ok(self.stats.read()?)
    }

    /// The map of what is remembered with sockets.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub(crate) fn sockets(&self) -> io::Result<OwnedFd> {
        open_pin(&self.pins.map("SOCKETS"))
    }

    /// What the tunnel shares with the kernel side; each of its threads has its own handle.
    ///
    /// # Errors
    ///
    /// The maps are not pinned.
    pub(crate) fn tunnel(&self) -> Result<TunnelMaps, DataplaneError> {
        TunnelMaps::open(&self.pins)
    }

    /// Judges established flows by the policy in force; `None` if this agent did not put it
    /// there, and so does not know it.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub(crate) fn flow_judge(&mut self) -> Result<Option<FlowJudge<'_>>, DataplaneError> {
        let Some(entries) = self.policy.in_force()? else {
            return Ok(None);
        };
        let (host, addresses) = (&self.hierarchy, &self.addresses);
        Ok(Some(FlowJudge::new(
            entries,
            host,
            addresses,
            &mut self.memory,
        )))
    }

    /// Counts a flow that was cut; whether there was room for its series.
    pub(crate) fn count_late(&mut self, late: &Late) -> bool {
        self.stats.count_late(&late.key())
    }

    /// Whether the kernel side is to record the beginning of every flow.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub(crate) fn follow_flows(&mut self, wanted: bool) -> Result<(), DataplaneError> {
        Ok(self.followed.set(wanted)?)
    }

    /// What the kernel side counted of `counter`; 0 if it cannot be read.
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        self.stats.counter(counter).unwrap_or_default()
    }

    /// Since when decisions are counted: since their map is pinned.
    pub fn counting_since(&self) -> Option<SystemTime> {
        let pin = fs::metadata(self.pins.map("DECISIONS")).ok()?;
        pin.modified().ok()
    }

    /// Says whether new series may be made, as far as there is room for them. What is counted
    /// already goes on being counted.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub(crate) fn allow_series(&mut self, allowed: bool) -> Result<(), DataplaneError> {
        Ok(self.stats.grow(allowed)?)
    }

    /// Memory of all maps, bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.weighed().iter().map(|map| map.memory).sum()
    }

    /// All maps, with the copies in policy maps, and not yet how many entries they have.
    fn weighed(&self) -> Vec<Usage> {
        let mut usage = stats::usage(&self.pins);
        for map in &mut usage {
            self.policy.add_usage(map);
        }
        usage
    }

    /// How full the maps are. A policy that an earlier agent has left in force is not in it: asking for its maps takes
    /// CAP_SYS_ADMIN.
    pub fn usage(&self) -> Vec<Usage> {
        let mut usage = self.weighed();
        for map in &mut usage {
            let entries = self
                .policy
                .entries(map.map)
                .or_else(|| self.stats.entries(map.map));
            let addresses = (map.map == "LOCAL_ADDRESSES").then(|| self.addresses.len());
            map.entries = entries.or(addresses).unwrap_or_default() as u64;
            let most = self.stats.most(map.map).unwrap_or(map.capacity);
            map.capacity = map.capacity.min(most);
        }
        usage
    }

    /// Each hook, and whether its program really acts on the mesh's cgroup.
    pub fn effective(&self) -> Vec<(&'static Hooked, bool)> {
        let directory = self.hierarchy.open().ok();
        HOOKS
            .iter()
            .map(|hooked| (hooked, self.acts(hooked, directory.as_ref())))
            .collect()
    }

    fn acts(&self, hooked: &Hooked, directory: Option<&File>) -> bool {
        let Some(attach_type) = hooked.attach_type else {
            return !self.unserved.iter().any(|(hook, _)| *hook == hooked.hook);
        };
        let program = programs::pinned_program(&self.pins, hooked.program);
        let effective =
            directory.map(|directory| effective_programs(directory.as_fd(), attach_type));
        match (program, effective) {
            (Some(program), Some(Ok(effective))) => effective.contains(&program),
            _ => false,
        }
    }

    /// Hooks that this kernel does not offer, and why.
    pub fn unserved(&self) -> &[(&'static str, String)] {
        &self.unserved
    }

    /// The part of the cgroup hierarchy the mesh is about.
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// Brings up to date what the kernel side cannot see by itself: cgroups and addresses of
    /// the host; and forgets affinity that expired before `now_ns` (since boot).
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn tidy(&mut self, now_ns: u64) -> Result<(), DataplaneError> {
        // First: a new workload may take its first connection at any moment.
        self.sync_http()?;
        self.addresses.refresh()?;
        self.policy.reconcile_cgroups()?;
        self.stats.expire_affinity(now_ns);
        Ok(())
    }
}

/// Why the kernel side does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The pin directory.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// The object does not load as such.
    #[error("cannot load the kernel object: {0}")]
    Object(#[from] aya::EbpfError),
    /// The verifier refused a program.
    #[error("this kernel refuses the program {program}: {error} (see mesh-agent doctor)")]
    Load {
        /// Which one.
        program: &'static str,
        /// What it said.
        error: aya::programs::ProgramError,
    },
    /// A hook cannot be attached to.
    #[error("cannot attach to {hook}: {error} (see mesh-agent doctor)")]
    Attach {
        /// Which one.
        hook: &'static str,
        /// What the kernel said.
        error: AttachError,
    },
    /// A link cannot be pinned.
    #[error("cannot pin: {0}")]
    Pin(#[from] aya::pin::PinError),
    /// The object lacks a map.
    #[error("the kernel object has no map {0}")]
    NoMap(&'static str),
    /// A map refuses.
    #[error("a BPF map refuses: {0}")]
    Map(#[from] aya::maps::MapError),
    /// Anything else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a hook cannot be attached to.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The program.
    #[error(transparent)]
    Program(#[from] aya::programs::ProgramError),
    /// The link.
    #[error(transparent)]
    Link(#[from] aya::programs::links::LinkError),
}
