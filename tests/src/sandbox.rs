//! A place for one agent: directories, a BPF file system and a cgroup subtree of its own.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use crate::cgroup::Cgroup;
use crate::guest;
use crate::leftovers;

/// See the module.
#[derive(Debug)]
pub struct Sandbox {
    /// The cgroup subtree the mesh is limited to. Dropped before the directories, so that
    /// nothing uses them any more.
    pub cgroup: Cgroup,
    bpffs: Bpffs,
    directory: TempDir,
    admin: SocketAddr,
    node: Node,
}

/// The agent's ceiling: a build for tests is larger than the one people install.
const MEMORY: &str = "256MiB";

/// Which node the sandbox is.
#[derive(Debug)]
struct Node {
    name: String,
    /// Where other nodes reach it.
    address: Option<IpAddr>,
}

impl Sandbox {
    /// Makes one; `purpose` shows in the names of its cgroups.
    ///
    /// # Errors
    ///
    /// This is not root, or the kernel lacks something.
    pub fn new(purpose: &str) -> io::Result<Self> {
        Self::with_admin(purpose, free_port()?)
    }

    /// Makes one whose agent serves HTTP at `admin`.
    ///
    /// # Errors
    ///
    /// As for [`Self::new`].
    pub fn with_admin(purpose: &str, admin: SocketAddr) -> io::Result<Self> {
        let node = Node {
            name: "edge-1".into(),
            address: None,
        };
        Self::make(purpose, admin, node)
    }

    /// Makes one that is the node `name`, which others reach at `address`.
    ///
    /// # Errors
    ///
    /// As for [`Self::new`].
    pub fn for_node(name: &str, address: IpAddr) -> io::Result<Self> {
        let node = Node {
            name: name.into(),
            address: Some(address),
        };
        Self::make(name, free_port()?, node)
    }

    fn make(purpose: &str, admin: SocketAddr, node: Node) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(leftovers::remove);
        let name = leftovers::name(purpose, NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::Builder::new()
            .prefix(&name)
            .rand_bytes(0)
            .tempdir()?;
        for name in ["conf.d", "state", "run", "bpf", "tls"] {
            fs::create_dir(directory.path().join(name))?;
        }
        let sandbox = Self {
            cgroup: Cgroup::new(purpose)?,
            bpffs: Bpffs::mount(directory.path().join("bpf"))?,
            directory,
            admin,
            node,
        };
        fs::write(sandbox.agent_toml(), sandbox.settings())?;
        Ok(sandbox)
    }

    /// Lets the agent be at the root of the machine's cgroups. Only in a guest.
    ///
    /// # Errors
    ///
    /// This is no guest, and somebody's machine.
    pub fn take_whole_machine(&self) -> io::Result<()> {
        guest::required()?;
        let settings = self.settings();
        let everything = settings
            .lines()
            .filter(|line| !line.starts_with("cgroup_root"));
        let everything: Vec<_> = everything.collect();
        fs::write(self.agent_toml(), everything.join("\n"))
    }

    /// Sets the ceiling of the agent's memory, such as `32MiB`, for the next start.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn limit_memory(&self, memory: &str) -> io::Result<()> {
        let settings = self.settings().replace(MEMORY, memory);
        fs::write(self.agent_toml(), settings)
    }

    /// Path of the agent's settings, for `--config`.
    pub fn agent_toml(&self) -> PathBuf {
        self.path("agent.toml")
    }

    /// A path in its directory: `conf.d`, `state`, `run`, `bpf`, `tls` and whatever a test puts there.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the agent serves HTTP.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Writes a file of the policy the way editors do: a new file renamed into place.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn write_policy(&self, name: &str, text: &str) -> io::Result<()> {
        let (next, path) = (
            self.path(&format!("next-{name}")),
            self.path("conf.d").join(name),
        );
        fs::write(&next, text)?;
        fs::rename(next, path)
    }

    /// Where the pin of a map is.
    pub fn map_pin(&self, map: &str) -> PathBuf {
        self.pins().join("maps").join(map)
    }

    /// Where the pins of links are.
    pub fn link_pins(&self) -> PathBuf {
        self.pins().join("links")
    }

    fn pins(&self) -> PathBuf {
        let version = mesh_common::ABI_VERSION.to_string();
        self.bpffs.path.join("mesh").join(version)
    }

    fn settings(&self) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        let Node { name, address } = &self.node;
        let address = address.map(|address| format!("address = \"{address}\"\n"));
        format!(
            r#"[limits]
memory = "{MEMORY}"
[node]
name = "{name}"
{}[paths]
config_dir = "{}"
state_dir = "{}"
bpffs = "{}"
run_dir = "{}"
cgroup_root = "{}"
[tunnel]
certificates = "{}"
[admin]
listen = "{}"
"#,
            address.unwrap_or_default(),
            path("conf.d"),
            path("state"),
            path("bpf"),
            path("run"),
            self.cgroup.path().display(),
            path("tls"),
            self.admin
        )
    }
}

/// A mounted BPF file system: with it go all pins and, with them, all programs.
#[derive(Debug)]
struct Bpffs {
    path: PathBuf,
}

impl Bpffs {
    fn mount(path: PathBuf) -> io::Result<Self> {
        mount(
            Some("bpf"),
            &path,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )?;
        Ok(Self { path })
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        remove_pins(&self.path.join("mesh"));
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            eprintln!("left behind: {} is mounted: {error}", self.path.display());
        }
    }
}

fn remove_pins(path: &Path) {
    // Gone already after `unload`.
    let _ = fs::remove_dir_all(path);
}

/// A TCP port of the calling thread's loopback that nobody uses at the moment. Not one that the
/// kernel gives to clients: somebody who dials it before the server is there could be given it
/// for his own end, and be connected to himself.
///
/// # Errors
///
/// Loopback is down, or all are in use.
pub fn free_port() -> io::Result<SocketAddr> {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = process::id().wrapping_mul(31) % 10_000 + NEXT.fetch_add(1, Ordering::Relaxed);
    let port = |number: u32| PORTS.start + ((first + number) % PORTS.len() as u32) as u16;
    let mut free = (0..100).filter_map(|number| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port(number)));
        TcpListener::bind(address).ok()?.local_addr().ok()
    });
    free.next()
        .ok_or_else(|| io::Error::other("no port is free on loopback"))
}
