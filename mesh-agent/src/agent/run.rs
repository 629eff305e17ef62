//! The agent's main loop: signals, changed files, new addresses and cgroups, time.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_sys::{inherited, memory};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;

use super::watch::{CertificateWatch, CgroupWatch, Watch};
use super::{Agent, StartError, lock};
use crate::admin;
use crate::config::AgentConfig;
use crate::dataplane::Usher;
use crate::identity::Identity;

/// Quiet time after which a change of the files is taken for complete.
const SETTLE: Duration = Duration::from_millis(200);
/// Longest time that changes can put off a reload.
const SETTLE_AT_MOST: Duration = Duration::from_secs(2);
/// How often the files are looked at without a sign of change: some file systems give none.
const RESCAN: Duration = Duration::from_secs(30);
/// How often the kernel side is brought up to date with the host.
const TIDY: Duration = Duration::from_secs(10);
/// How often it is looked whether everything is in force.
const HEALTH: Duration = Duration::from_secs(2);
/// How long an agent takes to stop that has no flows.
const BESIDES_DRAINING: Duration = Duration::from_secs(10);
/// From linux/rtnetlink.h: groups for IPv4 and IPv6 interface addresses.
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
/// See [`RTMGRP_IPV4_IFADDR`].
const RTMGRP_IPV6_IFADDR: u32 = 0x100;

/// Runs the agent until SIGTERM or SIGINT. What is enforced stays enforced.
///
/// # Errors
///
/// It does not start.
pub fn run(config: AgentConfig) -> Result<(), StartError> {
    // Before anything is opened and any thread is started.
    let inherited = inherited::take().unwrap_or_else(|error| {
        tracing::warn!(%error, "what the service manager passes on is not taken");
        Vec::new()
    });
    let signals = block_signals()?;
    std::fs::create_dir_all(&config.paths.run_dir)?;
    let server = admin::Server::bind(admin::Options {
        listen: Some(config.admin.listen),
        run_dir: Some(config.paths.run_dir.clone()),
        access: config.admin.access.clone(),
        names: host_names(&config.node.name),
        ..admin::Options::default()
    })
    .map_err(io::Error::other)?;
    let drain = config.tunnel.drain;
    let watch = Watch::new(&config.paths.config_dir)?;
    let certificates = CertificateWatch::new()?;
    let usher = find_usher(&config.paths.bpffs);
    let (agent, records) = Agent::load(config, usher)?;
    // Everything that takes more rights is done, and there is no other thread yet.
    agent.confine()?;
    let threads = agent.start(records)?;
    agent.start_tunnel(inherited)?;
    let running = server
        .start(Arc::clone(&agent) as _)
        .map_err(io::Error::other)?;
    notify(&[NotifyState::Ready]);
    tracing::info!("ready");
    certificates.renew(&agent.certificate_directories());
    // Most of it was needed to start.
    memory::forget_code();
    Loop::new(&agent, signals, watch, certificates)?.run()?;
    notify(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(time_to_stop(drain)),
    ]);
    agent.stop_tunnel();
    agent.want_openings(false);
    drop((running, threads));
    tracing::info!("stopped; the policy stays in force (mesh-agent unload ends it)");
    Ok(())
}

/// Puts the policy in force as [`run`] does, and leaves it so: what `run` starts from later.
///
/// # Errors
///
/// As at the start of [`run`].
pub fn load(config: AgentConfig) -> Result<(), StartError> {
    let usher = find_usher(&config.paths.bpffs);
    let (agent, _records) = Agent::load(config, usher)?;
    agent.want_openings(false);
    tracing::info!("the policy is in force without an agent (mesh-agent unload ends it)");
    Ok(())
}

/// Who looks into other network namespaces; without, those are left alone, and it is said.
fn find_usher(bpffs: &Path) -> Option<Arc<Usher>> {
    match Usher::find(bpffs) {
        Ok(usher) => Some(usher),
        Err(error) => {
            tracing::error!(%error, "no usher: new cgroups are noticed late, and calls and flows in other network namespaces not at all");
            None
        }
    }
}

/// How long the service manager is to wait for the end, microseconds.
fn time_to_stop(drain: Duration) -> u32 {
    let micros = (drain + BESIDES_DRAINING).as_micros();
    u32::try_from(micros).unwrap_or(u32::MAX)
}

/// Names by which browsers may ask for this node: its own, and that of its certificate.
fn host_names(node: &Arc<str>) -> Vec<Arc<str>> {
    let certified = Identity::Node(Arc::clone(node)).readable_name();
    vec![Arc::clone(node), certified.into()]
}

/// Blocks the signals the loop waits for, in every thread that is started later.
fn block_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// Tells systemd, if it wants to know.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}

struct Loop<'a> {
    agent: &'a Agent,
    signals: SignalFd,
    watch: Watch,
    certificates: CertificateWatch,
    /// When they last changed.
    certificates_changed: Option<Instant>,
    /// Only where the kernel does not tell of new cgroups, or requests are to be read in them.
    cgroups: Option<CgroupWatch>,
    addresses: OwnedFd,
    /// When files last changed and when they began to.
    changed: Option<(Instant, Instant)>,
    waiting_logged: bool,
    rescan: Instant,
    tidy: Instant,
    health: Instant,
}

impl<'a> Loop<'a> {
    fn new(
        agent: &'a Agent,
        signals: SignalFd,
        watch: Watch,
        certificates: CertificateWatch,
    ) -> io::Result<Self> {
        let dataplane = lock(&agent.dataplane);
        let cgroups = match dataplane.unserved() {
            [] => None,
            _ => Some(CgroupWatch::new(dataplane.hierarchy())?),
        };
        drop(dataplane);
        let now = Instant::now();
        Ok(Self {
            agent,
            signals,
            watch,
            certificates,
            certificates_changed: None,
            cgroups,
            addresses: address_events()?,
            changed: None,
            waiting_logged: false,
            rescan: now + RESCAN,
            tidy: now + TIDY,
            health: now + HEALTH,
        })
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            self.watch_cgroups()?;
            self.wait()?;
            while let Some(signal) = self.signals.read_signal()? {
                if signal.ssi_signo != Signal::SIGHUP as u32 {
                    return Ok(());
                }
                self.reload_now();
                self.agent.reload_certificates();
                self.agent.flows.reopen_access_log();
            }
            self.take_file_events();
            self.take_certificate_events();
            if self.host_changed() || Instant::now() >= self.tidy {
                self.agent.tidy();
                self.tidy = Instant::now() + TIDY;
            }
            if Instant::now() >= self.health {
                self.agent.check_health();
                self.agent.follow_flows();
                if self.agent.is_well() {
                    notify(&[NotifyState::Watchdog]);
                }
                self.health = Instant::now() + HEALTH;
            }
        }
    }

    /// Begins to watch for new cgroups once a workload speaks HTTP.
    fn watch_cgroups(&mut self) -> io::Result<()> {
        let dataplane = lock(&self.agent.dataplane);
        if self.cgroups.is_none() && dataplane.http().wanted {
            self.cgroups = Some(CgroupWatch::new(dataplane.hierarchy())?);
            // One may have come between the policy and the watch.
            self.tidy = Instant::now();
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let cgroups = self
            .cgroups
            .as_ref()
            .map_or(self.watch.as_fd(), AsFd::as_fd);
        let fds = [
            self.signals.as_fd(),
            self.watch.as_fd(),
            self.addresses.as_fd(),
            self.certificates.as_fd(),
            cgroups,
        ];
        let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let timeout = self.deadline().saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn deadline(&self) -> Instant {
        let regular = self.rescan.min(self.tidy).min(self.health);
        let certificates = self.certificates_changed.map(|changed| changed + SETTLE);
        let settled = self.settled().into_iter().chain(certificates);
        settled.fold(regular, Instant::min)
    }

    /// When the changes of the files are taken for complete, if there are any.
    fn settled(&self) -> Option<Instant> {
        let (last, first) = self.changed?;
        Some((last + SETTLE).min(first + SETTLE_AT_MOST))
    }

    /// Reloads when files have changed and nobody is writing.
    fn take_file_events(&mut self) {
        let now = Instant::now();
        if self.watch.take_events() {
            let first = self.changed.map_or(now, |(_, first)| first);
            self.changed = Some((now, first));
        }
        if now >= self.rescan {
            self.watch.renew();
            self.rescan = now + RESCAN;
            self.changed.get_or_insert((now - SETTLE, now - SETTLE));
            self.certificates_changed.get_or_insert(now - SETTLE);
        }
        if self.settled().is_some_and(|settled| now >= settled) {
            self.watch.renew();
            self.reload_unless_written();
        }
    }

    /// Reads certificates again when they have changed, once nothing has for a moment.
    fn take_certificate_events(&mut self) {
        let now = Instant::now();
        if self.certificates.take_events() {
            self.certificates_changed.get_or_insert(now);
        }
        if self
            .certificates_changed
            .is_some_and(|changed| now >= changed + SETTLE)
        {
            self.certificates_changed = None;
            self.agent.reload_certificates();
            let directories = self.agent.certificate_directories();
            self.certificates.renew(&directories);
        }
    }

    fn reload_unless_written(&mut self) {
        if let Some(file) = self.watch.being_written() {
            if !self.waiting_logged {
                tracing::info!(file, "waiting for the file to be closed before reloading");
            }
            self.waiting_logged = true;
            // Looked at again when it is closed, or else with the next rescan.
            self.changed = None;
            return;
        }
        self.reload_now();
    }

    fn reload_now(&mut self) {
        self.changed = None;
        self.waiting_logged = false;
        notify(&[NotifyState::Reloading]);
        // What is wrong is logged and shown by `status`.
        let _ = self.agent.reload();
        notify(&[NotifyState::Ready]);
    }

    /// Whether addresses or, where that has to be watched, cgroups have come or gone.
    fn host_changed(&mut self) -> bool {
        let mut buffer = [0u8; 4096];
        let mut changed = false;
        while recv(
            self.addresses.as_raw_fd(),
            &mut buffer,
            MsgFlags::MSG_DONTWAIT,
        )
        .is_ok()
        {
            changed = true;
        }
        if let Some(cgroups) = &mut self.cgroups {
            changed |= cgroups.take_events(lock(&self.agent.dataplane).hierarchy());
        }
        changed
    }
}

/// A socket that becomes readable when an address of this host comes or goes (rtnetlink(7)).
fn address_events() -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkRoute,
    )?;
    bind(
        fd.as_raw_fd(),
        &NetlinkAddr::new(0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR),
    )?;
    Ok(fd)
}
