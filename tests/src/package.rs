//! The Debian package on a machine with systemd. Only in a guest of `cargo xtask vm --systemd`.

use std::collections::BTreeSet;
use std::fs;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

use crate::agent;
use crate::guest;
use crate::systemd::{property, run, wait_until};

/// As it was built.
pub const CURRENT: &str = "/mesh/packages/current.deb";
/// The same with a higher version.
pub const NEWER: &str = "/mesh/packages/newer.deb";
/// Where the agent serves HTTP if nobody says otherwise.
const ADMIN: &str = "127.0.0.1:15020";
/// Where policy is dropped.
const POLICY: &str = "/etc/mesh/conf.d";

/// The installed package; dropping it purges it.
#[derive(Debug)]
pub struct Package(());

impl Package {
    /// Installs it with apt, on a machine that does not have it.
    ///
    /// # Panics
    ///
    /// It cannot be installed, or the agent does not run then.
    pub fn install() -> Self {
        guest::systemd_required().expect("a guest");
        assert!(!Self::is_installed(), "a clean machine");
        let this = Self(());
        apt("install", CURRENT);
        this.is_running();
        this
    }

    /// The one that is installed, or else is now. It stays.
    ///
    /// # Panics
    ///
    /// As [`Self::install`].
    pub fn keep() -> ManuallyDrop<Self> {
        let this = match Self::is_installed() {
            true => Self(()),
            false => Self::install(),
        };
        ManuallyDrop::new(this)
    }

    /// Whether it is installed.
    pub fn is_installed() -> bool {
        Path::new("/usr/bin/mesh-agent").exists()
    }

    /// Its version.
    pub fn version(&self) -> String {
        run("dpkg-query", &["-W", "-f", "${Version}", "mesh-agent"])
    }

    /// Panics unless the units are up and the agent says that nothing is wrong.
    #[track_caller]
    pub fn is_running(&self) {
        wait_until("the agent is active", || {
            property("mesh-agent.service", "ActiveState") == "active"
        });
        assert_eq!(property("mesh-load.service", "ActiveState"), "active");
        assert_eq!(property("mesh-usher.socket", "ActiveState"), "active");
        for unit in [
            "mesh-agent.service",
            "mesh-load.service",
            "mesh-usher.socket",
        ] {
            assert_eq!(property(unit, "UnitFileState"), "enabled", "{unit}");
        }
        run("mesh-agent", &["status"]);
    }

    /// Drops a file of policy the way editors do.
    ///
    /// # Panics
    ///
    /// The file system's error.
    pub fn write_policy(&self, name: &str, text: &str) {
        let next = Path::new("/run/shop.next");
        fs::write(next, text).expect("written");
        fs::copy(next, Path::new(POLICY).join(format!(".{name}"))).expect("copied");
        let (from, to) = (format!("{POLICY}/.{name}"), format!("{POLICY}/{name}"));
        fs::rename(from, to).expect("renamed");
        fs::remove_file(next).expect("removed");
    }

    /// The sum of a metric's series that have all of `labels`.
    ///
    /// # Panics
    ///
    /// The agent does not answer.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let admin: SocketAddr = ADMIN.parse().expect("an address");
        agent::metric_from(admin, name, labels).expect("the agent answers")
    }

    /// The latest denials of a caller, the oldest first.
    ///
    /// # Panics
    ///
    /// The agent does not answer.
    pub fn denials(&self, caller: &str) -> Vec<Value> {
        let denied = ["flows", "--verdict", "denied", "--from", caller];
        let said = run("mesh-agent", &[&denied[..], &["-o", "jsonl"]].concat());
        // What was not shown is said on the last line.
        let records = said.lines().filter(|line| line.starts_with('{'));
        let parse = |line| serde_json::from_str(line).expect("a record");
        records.map(parse).collect()
    }
}

impl Drop for Package {
    fn drop(&mut self) {
        apt("purge", "mesh-agent");
    }
}

/// Runs apt without questions; what it printed.
///
/// # Panics
///
/// It fails.
#[track_caller]
pub fn apt(verb: &str, package: &str) -> String {
    run("apt-get", &["-y", "--allow-downgrades", verb, package])
}

/// Everything on this machine that a package could leave behind: files, units among them, pins, users.
///
/// # Panics
///
/// The machine cannot be looked at.
pub fn inventory() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for root in [
        "/etc",
        "/usr",
        "/var",
        "/opt",
        "/srv",
        "/root",
        "/run",
        "/sys/fs/bpf",
    ] {
        walk(Path::new(root), &mut all);
    }
    for file in ["/etc/passwd", "/etc/group"] {
        let text = fs::read_to_string(file).expect("readable");
        all.extend(text.lines().map(|line| format!("{file}: {line}")));
    }
    all
}

fn walk(directory: &Path, all: &mut BTreeSet<String>) {
    let path = directory.display().to_string();
    if COMES_AND_GOES.contains(&path.as_str()) {
        return;
    }
    all.insert(path);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        // What is gone again meanwhile is not left behind.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), all),
            Ok(_) => {
                let path = entry.path().display().to_string();
                if !COMES_AND_GOES.contains(&path.as_str()) {
                    all.insert(path);
                }
            }
            Err(_) => {}
        }
    }
}

/// What apt, dpkg and systemd write on their own account.
const COMES_AND_GOES: [&str; 13] = [
    "/run/systemd/ask-password-block",
    "/var/log/dpkg.log",
    "/run/shop",
    "/run/systemd/inaccessible",
    "/run/systemd/journal",
    "/run/systemd/transient",
    "/run/systemd/units",
    "/run/log",
    "/var/cache",
    "/var/lib/apt",
    "/var/log/apt",
    "/var/log/journal",
    "/var/lib/systemd/timers",
];
