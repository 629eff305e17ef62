//! The running agent: reloads the policy when the files change and answers what is asked of it.
//!
//! Comes in: settings, changed files, records. Goes out: a policy in force, snapshots, log
//! lines.

mod access;
mod calls;
mod ceiling;
mod denials;
mod flows;
mod heads;
mod health;
mod inbound;
mod leaving;
mod live;
mod loaded;
mod names;
mod paths;
mod requests;
mod run;
mod saved;
mod shares;
mod sweep;
mod tunnel;
mod view;
mod watch;
pub mod words;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aya::util::nr_cpus;
use mesh_common::{DenialRecord, FlowRecord, Reason};
use mesh_sys::memory;
use nix::time::{ClockId, clock_gettime};

use self::access::AccessLog;
use self::calls::Calls;
use self::ceiling::{Ceiling, needed};
use self::denials::Denials;
use self::flows::Flows;
use self::heads::Heads;
use self::health::Health;
use self::live::Live;
pub use self::live::Watcher;
use self::loaded::{Loaded, render};
use self::names::Names;
pub use self::run::{load, run};
use self::saved::Saved;
use self::shares::Opened;
pub use self::sweep::Sweeper;
use self::sweep::Sweeps;
use self::tunnel::{Inherited, Tunnel, View};
use crate::admin::{Rejected, Reloaded};
use crate::budget::Budget;
use crate::config::AgentConfig;
use crate::dataplane::{Dataplane, DataplaneError, Options, Reader, Record, Records, Usher};
use crate::policy::diagnostic::Diagnostic;
use crate::policy::ids::Ids;
use crate::policy::model::{OnWeightChange, Policy, Split};
use crate::policy::parse::Previous;
use crate::policy::source::SourceSet;
use crate::sandbox::{self, Files, Sandbox, SandboxError};
use crate::telemetry::status::resident_bytes;

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel side.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The files are broken, and there is no earlier policy to enforce.
    #[error("the configuration is invalid, and no earlier policy is known to enforce instead")]
    Configuration(Vec<Diagnostic>),
    /// The ceiling is too low for anything.
    #[error("[limits] memory = {} MiB is too little: the agent and its BPF maps need {} MiB on this host", limit >> 20, needed.div_ceil(1 << 20))]
    TooLittleMemory {
        /// What there may be, bytes.
        limit: u64,
        /// What is needed, bytes.
        needed: u64,
    },
    /// It cannot be confined.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A thread or a watch.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Flows and sessions that come and go between two times of tidying while memory is given back:
/// where there are more, new ones need it again.
const CALM: u64 = 1000;
/// How much resident memory may grow before what is freed of it is given back, bytes.
const SLACK: u64 = 1 << 20;

/// The agent.
pub struct Agent {
    config: AgentConfig,
    started: Instant,
    dataplane: Mutex<Dataplane>,
    state: Mutex<State>,
    denials: Arc<Mutex<Denials>>,
    flows: Arc<Flows>,
    /// Requests that are followed here and not in the kernel.
    calls: Arc<Calls>,
    /// `None` where the agent only loads the policy, or none can be had.
    usher: Option<Arc<Usher>>,
    sandbox: OnceLock<Sandbox>,
    /// `None` where the agent only loads the policy.
    tunnel: Mutex<Option<Tunnel>>,
    health: Mutex<Health>,
    ceiling: Ceiling,
    sweeps: Sweeps,
    live: Live,
    ready: AtomicBool,
    /// Whether a reload has left freed memory on the heap.
    heap_to_tidy: AtomicBool,
    /// Resident memory when freed memory was given back last, bytes.
    tidied: AtomicU64,
    /// Flows and sessions that had come and gone when the host was tidied last.
    flows_seen: AtomicU64,
    /// Whether any has since memory was given back.
    flows_to_tidy: AtomicBool,
}

/// The agent's threads that read, sweep and look at flows; dropping them ends them.
pub struct Threads {
    _records: Reader,
    _sweeper: Sweeper,
    _watcher: Watcher,
}

/// What the agent knows of its policy.
struct State {
    ids: Ids,
    current: Option<Arc<Current>>,
    rejected: Option<RejectedSet>,
    reloads_ok: u64,
    reloads_rejected: u64,
}

/// The policy in force.
struct Current {
    policy: Policy,
    names: Names,
    digest: String,
    sources: Arc<SourceSet>,
    warnings: Vec<Diagnostic>,
    rule_files: BTreeSet<Arc<str>>,
    revision: u64,
    /// Memory that was found to be enough for it, bytes.
    needed: u64,
    applied: SystemTime,
    took: Duration,
    /// What was opened when the splits last changed.
    opened_before: Opened,
    /// What becomes of flows to endpoints that leave, by service; those that are kept are not
    /// here.
    on_weight_change: HashMap<u32, OnWeightChange>,
}

impl Current {
    fn previous(&self) -> Previous<'_> {
        Previous {
            sources: &self.sources,
            policy: &self.policy,
            warnings: &self.warnings,
            rule_files: &self.rule_files,
        }
    }
}

/// A set of files that was not applied.
struct RejectedSet {
    when: SystemTime,
    diagnostics: String,
}

impl Agent {
    /// Loads the kernel side, puts the policy in force and attaches the programs, in this
    /// order. What an earlier agent left in force stays so until then. No thread is started.
    ///
    /// # Errors
    ///
    /// Another agent is running, the kernel refuses, or there is no policy to enforce.
    pub fn load(
        config: AgentConfig,
        usher: Option<Arc<Usher>>,
    ) -> Result<(Arc<Self>, Records), StartError> {
        let limit = config.limits.memory;
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let budget = Budget::new(limit, cpus as u32)
            .map_err(|needed| StartError::TooLittleMemory { limit, needed })?;
        let saved = Saved::load(&config.paths.state_dir);
        let (dataplane, records) = Dataplane::load(Options {
            bpffs: &config.paths.bpffs,
            cgroup_root: config.paths.cgroup_root.as_deref(),
            log_level: config.log.kernel as u8,
            sockets: config.sockets.allowed,
            series: budget.series,
            usher: usher.as_ref(),
        })?;
        for (hook, error) in dataplane.unserved() {
            tracing::warn!(
                hook,
                error,
                "this kernel does not offer the hook; watching directories instead"
            );
        }
        let (ids, sources) = match saved {
            Some(saved) => (saved.ids, Some(Arc::unwrap_or_clone(saved.sources))),
            None => (Ids::new(epoch()), None),
        };
        let hierarchy = dataplane.hierarchy().clone();
        let flows = Arc::new(Flows::new(
            hierarchy.clone(),
            config.node.clone(),
            AccessLog::new(&config.access_log)?,
        ));
        flows.keep(budget.flow_records);
        let denials = Denials::new(hierarchy, Arc::clone(&flows));
        let agent = Arc::new(Self {
            config,
            started: Instant::now(),
            dataplane: Mutex::new(dataplane),
            state: Mutex::new(State {
                ids,
                current: None,
                rejected: None,
                reloads_ok: 0,
                reloads_rejected: 0,
            }),
            denials: Arc::new(Mutex::new(denials)),
            flows,
            calls: Arc::new(Calls::new(budget.http_bytes)),
            usher,
            sandbox: OnceLock::new(),
            tunnel: Mutex::new(None),
            health: Mutex::default(),
            ceiling: Ceiling::new(budget),
            sweeps: Sweeps::default(),
            live: Live::default(),
            ready: AtomicBool::new(false),
            heap_to_tidy: AtomicBool::new(false),
            tidied: AtomicU64::new(0),
            flows_seen: AtomicU64::new(0),
            flows_to_tidy: AtomicBool::new(false),
        });
        agent.first_policy(sources)?;
        agent.follow_flows();
        lock(&agent.dataplane).attach()?;
        // The kernel object and its BTF are gone, and so is what reading the files took.
        memory::give_back();
        agent.ready.store(true, Ordering::Release);
        Ok((agent, records))
    }

    /// Confines the process for good.
    ///
    /// # Errors
    ///
    /// There are threads already, or the kernel refuses.
    fn confine(&self) -> Result<(), StartError> {
        let files = Files::of(&self.config, lock(&self.dataplane).hierarchy().mount());
        let sandbox = sandbox::enter(&files)?;
        if sandbox.landlock.is_none() {
            tracing::warn!(
                "this kernel has no Landlock: the agent can open every file that root can"
            );
        }
        tracing::info!(
            capabilities = sandbox.capabilities.join(" "),
            landlock = sandbox.landlock,
            "confined"
        );
        let _ = self.sandbox.set(sandbox);
        Ok(())
    }

    /// Starts to read records and to look at flows.
    ///
    /// # Errors
    ///
    /// There are no threads.
    pub fn start(self: &Arc<Self>, records: Records) -> Result<Threads, StartError> {
        self.flows.start_access_log()?;
        let reader = Arc::clone(self);
        let each = move |record| match record {
            Record::Denial(record) => reader.record(record),
            Record::Flow(record) => reader.flow(record),
        };
        let mut heads = Heads::new(Arc::clone(&self.calls));
        Ok(Threads {
            _records: records.read(each, move |head| heads.take(head))?,
            _sweeper: Sweeper::start(self)?,
            _watcher: Watcher::start(self)?,
        })
    }

    /// Applies the files; if they are broken the last good ones; if there are none, what is in
    /// force already stays.
    fn first_policy(&self, saved: Option<SourceSet>) -> Result<(), StartError> {
        let started = Instant::now();
        let mut state = lock(&self.state);
        let local = self.config.local_node();
        let files = self.read_files(&state.ids, None);
        let problems = match files {
            // Nothing came before, so there is nothing to be the same as.
            Ok(None) => return Ok(()),
            Ok(Some(loaded)) => return Ok(self.apply(&mut state, loaded, started)?),
            Err(problems) => problems,
        };
        self.reject(&mut state, &problems);
        let last = saved.map(|sources| Loaded::from_sources(sources, &local, &state.ids));
        match last {
            Some(Ok(loaded)) => {
                tracing::warn!("enforcing the last good policy instead");
                Ok(self.apply(&mut state, loaded, started)?)
            }
            _ if lock(&self.dataplane).header()?.is_some() => {
                tracing::warn!("the policy an earlier agent put in force stays");
                Ok(())
            }
            _ => Err(StartError::Configuration(problems)),
        }
    }

    /// Reads the files again and puts them in force, all or nothing.
    ///
    /// # Errors
    ///
    /// What is wrong with them; the policy in force stays.
    pub fn reload(&self) -> Result<Reloaded, Rejected> {
        let started = Instant::now();
        let mut state = lock(&self.state);
        let current = state.current.clone();
        let previous = current.as_deref().map(Current::previous);
        let loaded = self
            .read_files(&state.ids, previous)
            .map_err(|problems| self.reject(&mut state, &problems))?;
        let Some(loaded) = loaded else {
            state.rejected = None;
            let (revision, digest) = current.map_or((0, String::new()), |current| {
                (current.revision, current.digest.clone())
            });
            return Ok(Reloaded { revision, digest });
        };
        let digest = loaded.digest.clone();
        self.apply(&mut state, loaded, started).map_err(|error| {
            let problem = Diagnostic::error("kernel", error.to_string());
            self.reject(&mut state, &[problem])
        })?;
        state.rejected = None;
        let revision = state.current.as_ref().map_or(0, |current| current.revision);
        self.heap_to_tidy.store(true, Ordering::Relaxed);
        Ok(Reloaded { revision, digest })
    }

    /// What the files say, if that is new, sound and not too large.
    fn read_files(
        &self,
        ids: &Ids,
        previous: Option<Previous<'_>>,
    ) -> Result<Option<Loaded>, Vec<Diagnostic>> {
        let directory = &self.config.paths.config_dir;
        let read = Loaded::from_directory(directory, &self.config.local_node(), ids, previous)?;
        read.map(|loaded| self.ceiling.admit(loaded)).transpose()
    }

    fn apply(
        &self,
        state: &mut State,
        mut loaded: Loaded,
        started: Instant,
    ) -> Result<(), DataplaneError> {
        if let Some(tunnel) = &*lock(&self.tunnel) {
            tunnel.publish(self.view_of(&loaded.policy, &mut loaded.ids));
        }
        let mut dataplane = lock(&self.dataplane);
        let revision = dataplane.next_revision()?;
        let touched = dataplane.apply(&loaded.entries, revision, loaded.ids.epoch)?;
        let took = started.elapsed();
        for warning in &loaded.warnings {
            tracing::warn!("{}", warning.render(false));
        }
        tracing::info!(
            revision,
            services = loaded.policy.services.len(),
            rules = loaded.policy.rules.len(),
            entries = loaded.entries.len(),
            written = touched.written,
            deleted = touched.deleted,
            took_ms = took.as_millis() as u64,
            "policy in force"
        );
        let names = Names::new(&loaded.ids, &loaded.policy);
        let opened_before = match &state.current {
            Some(current) if same_splits(&current.policy, &loaded.policy) => {
                current.opened_before.clone()
            }
            _ => dataplane.stats().map_or_else(
                |_| Opened::new(),
                |stats| shares::opened(&stats.flows, &names),
            ),
        };
        let on_weight_change = on_weight_change(&loaded.policy, &mut loaded.ids);
        let needed = needed(&loaded);
        let sources = Arc::new(loaded.sources);
        state.ids = loaded.ids.clone();
        state.reloads_ok += 1;
        state.current = Some(Arc::new(Current {
            names,
            digest: loaded.digest.clone(),
            sources: Arc::clone(&sources),
            warnings: loaded.warnings,
            rule_files: loaded.rule_files,
            policy: loaded.policy,
            revision,
            needed,
            applied: SystemTime::now(),
            took,
            opened_before,
            on_weight_change,
        }));
        dataplane.quiesce()?;
        drop(dataplane);
        // Whoever was judged under the old policy is on its way to a socket that can be seen.
        self.sweeps.ask();
        let saved = Saved::new(loaded.ids, sources);
        if let Err(error) = saved.store(&self.config.paths.state_dir) {
            let directory = self.config.paths.state_dir.display();
            tracing::error!(%directory, %error, "cannot save the policy for the next boot");
        }
        Ok(())
    }

    /// Starts to carry calls between nodes, with listeners that the service manager has passed on.
    ///
    /// # Errors
    ///
    /// There are no threads, or the maps are gone.
    fn start_tunnel(&self, inherited: Inherited) -> Result<(), StartError> {
        let denials = Arc::clone(&self.denials);
        let note = move |denial| lock(&denials).note(denial);
        let calls = Arc::clone(&self.calls);
        let dataplane = lock(&self.dataplane);
        let started = Tunnel::start(
            &self.config,
            &dataplane,
            self.usher.clone(),
            inherited,
            calls,
            self.ceiling.budget.warm_connections,
            note,
        )?;
        drop(dataplane);
        let mut state = lock(&self.state);
        let view = match state.current.clone() {
            Some(current) => self.view_of(&current.policy, &mut state.ids),
            // What an earlier agent listened for is not wanted, as long as nobody knows why.
            None => View::default(),
        };
        started.publish(view);
        drop(state);
        started.settle();
        *lock(&self.tunnel) = Some(started);
        Ok(())
    }

    /// Ends that; flows may end by themselves for a moment.
    fn stop_tunnel(&self) {
        let tunnel = lock(&self.tunnel).take();
        drop(tunnel);
    }

    /// Reads certificates again.
    fn reload_certificates(&self) {
        if let Some(tunnel) = &*lock(&self.tunnel) {
            tunnel.reload_certificates();
        }
    }

    /// Where certificates are.
    fn certificate_directories(&self) -> Vec<PathBuf> {
        let tunnel = lock(&self.tunnel);
        tunnel.as_ref().map(Tunnel::directories).unwrap_or_default()
    }

    fn view_of(&self, policy: &Policy, ids: &mut Ids) -> View {
        View::new(policy, ids, &self.config.node.name)
    }

    /// Remembers that the newest files are not in force, and says so once.
    fn reject(&self, state: &mut State, problems: &[Diagnostic]) -> Rejected {
        let diagnostics = render(problems);
        let known = state
            .rejected
            .as_ref()
            .is_some_and(|old| old.diagnostics == diagnostics);
        if !known {
            state.reloads_rejected += 1;
            tracing::error!("the configuration is not applied:\n{diagnostics}");
            let when = SystemTime::now();
            state.rejected = Some(RejectedSet {
                when,
                diagnostics: diagnostics.clone(),
            });
        }
        Rejected { diagnostics }
    }

    /// Puts the current policy in force once more.
    fn reapply(&self) {
        let mut state = lock(&self.state);
        let Some(current) = state.current.clone() else {
            return;
        };
        let started = Instant::now();
        let sources = SourceSet::clone(&current.sources);
        let again = Loaded::from_sources(sources, &self.config.local_node(), &state.ids);
        let applied = match again {
            Ok(loaded) => self
                .apply(&mut state, loaded, started)
                .map_err(|error| error.to_string()),
            Err(problems) => Err(render(&problems)),
        };
        if let Err(error) = applied {
            tracing::error!(error, "CRITICAL: the policy cannot be put in force again");
        }
    }

    /// Brings the kernel side up to date with the host.
    fn tidy(&self) {
        if let Err(error) = lock(&self.dataplane).tidy(since_boot().as_nanos() as u64) {
            tracing::error!(%error, "cannot bring the kernel side up to date");
        }
        if self.memory_is_to_tidy() {
            memory::give_back();
            memory::forget_code();
            let left = resident_bytes().unwrap_or_default();
            self.tidied.store(left, Ordering::Relaxed);
        }
        self.keep_below_ceiling();
    }

    /// Whether there is memory to give back that is not needed again at once: a reload's, or that
    /// of flows that have calmed and of questions that were answered.
    fn memory_is_to_tidy(&self) -> bool {
        let seen = lock(&self.tunnel).as_ref().map_or(0, Tunnel::changes);
        let before = self.flows_seen.swap(seen, Ordering::Relaxed);
        let lately = seen.saturating_sub(before);
        if lately > 0 {
            self.flows_to_tidy.store(true, Ordering::Relaxed);
        }
        let reloaded = self.heap_to_tidy.swap(false, Ordering::Relaxed);
        let grown =
            resident_bytes().unwrap_or_default() > self.tidied.load(Ordering::Relaxed) + SLACK;
        let calm = lately < CALM;
        reloaded || calm && (self.flows_to_tidy.swap(false, Ordering::Relaxed) || grown)
    }

    fn record(&self, record: Option<DenialRecord>) {
        let untunnelled = |record: &DenialRecord| record.reason == Reason::NoTunnel.0;
        if record.as_ref().is_some_and(untunnelled)
            && let Some(tunnel) = &*lock(&self.tunnel)
        {
            tunnel.look_for_callers();
        }
        let current = self.current();
        let mut denials = lock(&self.denials);
        match record {
            Some(record) => match &current {
                Some(current) => denials.take(&record, &current.names),
                None => denials.take(&record, Names::none()),
            },
            None => denials.malformed += 1,
        }
    }

    fn flow(&self, record: Option<FlowRecord>) {
        match &self.current() {
            Some(current) => self.flows.take(record, &current.names),
            None => self.flows.take(record, Names::none()),
        }
    }

    /// Tells the kernel side whether openings of flows are wanted.
    fn follow_flows(&self) {
        self.want_openings(self.flows.opens_are_wanted());
    }

    fn want_openings(&self, wanted: bool) {
        if let Err(error) = lock(&self.dataplane).follow_flows(wanted) {
            tracing::error!(%error, "cannot ask for records of openings");
        }
    }

    /// Who looks into other network namespaces.
    fn usher(&self) -> std::io::Result<&Usher> {
        let missing = "there is no process that looks into other network namespaces (see the log)";
        self.usher
            .as_deref()
            .ok_or_else(|| std::io::Error::other(missing))
    }

    fn current(&self) -> Option<Arc<Current>> {
        lock(&self.state).current.clone()
    }
}

fn on_weight_change(policy: &Policy, ids: &mut Ids) -> HashMap<u32, OnWeightChange> {
    let all = policy.services.values();
    let differ = all.filter(|service| service.on_weight_change != OnWeightChange::Keep);
    differ
        .map(|service| {
            let id = ids.subjects.id(&service.name.to_string());
            (id, service.on_weight_change)
        })
        .collect()
}

fn same_splits(a: &Policy, b: &Policy) -> bool {
    let key = |split: &Split| {
        (
            split.service.clone(),
            split.from.clone(),
            split.weights.clone(),
        )
    };
    a.splits.iter().map(key).eq(b.splits.iter().map(key))
}

/// The time that the kernel side counts in.
fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(Duration::from)
        .unwrap_or_default()
}

/// A time since boot as a time of day.
fn wall_time(since_boot_ns: u64) -> SystemTime {
    SystemTime::now() - since_boot().saturating_sub(Duration::from_nanos(since_boot_ns))
}

/// A number that no earlier id table of this host had.
fn epoch() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos() as u64
}

/// Locks; a panic of another thread while it held the lock leaves data that is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
