//! Files: Landlock allows what the settings name and the few that the kernel side is at. Nothing can be
//! executed and nothing mounted.
//!
//! Directories that may be replaced while the agent runs are allowed by the one they are in: a rule is for what is
//! there when it is made.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, LandlockStatus, RestrictionStatus, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};

use super::SandboxError;
use crate::config::AgentConfig;

/// The newest interface that was tried.
const NEWEST: ABI = ABI::V6;
/// Where the service manager has put credentials, which certificates may link to.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// Where the service manager is told things.
const MANAGER: &str = "NOTIFY_SOCKET";

/// What may be done, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// To read.
    read: Vec<PathBuf>,
    /// To read, write, make and remove.
    keep: Vec<PathBuf>,
    /// To append to, and to make where they have been renamed.
    log: Vec<PathBuf>,
    /// To pin in.
    pin: Vec<PathBuf>,
}

impl Files {
    /// What an agent with these settings needs; cgroup2 is mounted at `cgroups`.
    pub fn of(config: &AgentConfig, cgroups: &Path) -> Self {
        let AgentConfig {
            paths,
            tunnel,
            admin,
            access_log,
            ..
        } = config;
        // Of itself, and the ports that clients get. Of others it shows what everybody can read.
        let mut read = vec![PathBuf::from("/proc"), cgroups.to_owned()];
        // How many values a per-CPU map has.
        read.push("/sys/devices/system/cpu".into());
        read.extend(with_parent(&paths.config_dir));
        read.extend(with_parent(&tunnel.certificates));
        read.extend(std::env::var_os(CREDENTIALS).map(PathBuf::from));
        let token = admin.access.token_file.as_deref();
        read.extend(token.into_iter().flat_map(with_parent));
        let log = access_log.file.as_deref();
        Self {
            read,
            keep: vec![paths.state_dir.clone(), paths.run_dir.clone()],
            log: log
                .and_then(Path::parent)
                .map(Path::to_owned)
                .into_iter()
                .collect(),
            pin: with_parent(&paths.bpffs).collect(),
        }
    }
}

/// A path and, unless that is at the top of the file system with everything else in it, the directory
/// it is in. Links are followed now and not later.
fn with_parent(path: &Path) -> impl Iterator<Item = PathBuf> {
    let parent = path
        .parent()
        .filter(|parent| parent.components().count() > 2);
    let target = path.canonicalize().ok();
    [Some(path.to_owned()), target, parent.map(Path::to_owned)]
        .into_iter()
        .flatten()
}

/// Limits the calling thread and those it starts; the version of the interface. `None` if the kernel has none.
pub(super) fn limit(files: &Files) -> Result<Option<u32>, SandboxError> {
    let status = restrict(files).map_err(|error| SandboxError::Kernel {
        what: "files",
        error: io::Error::other(error),
    })?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, .. }
            if status.ruleset != RulesetStatus::NotEnforced =>
        {
            Some(effective_abi.min(NEWEST) as u32)
        }
        _ => None,
    })
}

fn restrict(files: &Files) -> Result<RestrictionStatus, RulesetError> {
    let pin = AccessFs::ReadDir
        | AccessFs::ReadFile
        | AccessFs::MakeDir
        | AccessFs::MakeReg
        | AccessFs::RemoveDir
        | AccessFs::RemoveFile
        | AccessFs::Refer;
    let keep = pin | AccessFs::WriteFile | AccessFs::Truncate;
    let rules = ruleset()?
        .add_rules(allow(&files.read, AccessFs::ReadFile | AccessFs::ReadDir))?
        .add_rules(allow(&files.keep, keep))?
        .add_rules(allow(&files.log, AccessFs::WriteFile | AccessFs::MakeReg))?
        .add_rules(allow(&files.pin, pin))?;
    rules.restrict_self()
}

/// Everything is forbidden that this kernel can forbid.
fn ruleset() -> Result<RulesetCreated, RulesetError> {
    let mut scope: BitFlags<Scope> = Scope::Signal.into();
    let abstract_manager = std::env::var_os(MANAGER)
        .is_some_and(|address| address.as_encoded_bytes().starts_with(b"@"));
    if !abstract_manager {
        scope |= Scope::AbstractUnixSocket;
    }
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(scope)?
        .create()
}

/// Rules for what is there; for a file, what makes sense for one.
fn allow(
    paths: &[PathBuf],
    access: impl Into<BitFlags<AccessFs>>,
) -> impl Iterator<Item = Result<landlock::PathBeneath<landlock::PathFd>, RulesetError>> {
    path_beneath_rules(paths, access)
}
