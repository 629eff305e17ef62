//! Two hosts and the wire between them: network namespaces joined by a veth pair, and what is
//! called on the far one.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::certificates::Certificates;
use super::contestant::Target;
use crate::bench;
use crate::cgroup::{self, Cgroup, Visit};
use crate::leftovers;
use crate::netns::{self, Namespace};

/// The near end of the wire.
pub(super) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// The far end.
pub(super) const FAR: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
/// Where the HTTP server of the far host listens.
pub(super) const HTTP_PORT: u16 = 8080;
/// Where its `iperf3` does.
pub(super) const BULK_PORT: u16 = 5201;
/// Bytes in the body of an HTTP answer.
const BODY: usize = 1024;

/// The two hosts. Dropped in this order: first who calls and is called, then where they were.
#[derive(Debug)]
pub(super) struct Site {
    targets: Vec<Process>,
    pub(super) near: Namespace,
    pub(super) far: Namespace,
    pub(super) certificates: Certificates,
    /// Cgroup of whoever puts load on the contestants.
    pub(super) client: PathBuf,
    cgroup: Cgroup,
    directory: TempDir,
}

/// Which of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Where the client is.
    Near,
    /// Where the servers are.
    Far,
}

impl Side {
    /// Both, the near one first.
    pub(super) const BOTH: [Self; 2] = [Self::Near, Self::Far];

    /// A name for files and cgroups.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
        }
    }
}

impl Site {
    /// Makes both, with the servers on the far one.
    pub(super) fn new() -> Result<Self> {
        leftovers::remove();
        let directory = tempfile::Builder::new()
            .prefix(&leftovers::name("tunnel", 0))
            .rand_bytes(0)
            .tempdir()?;
        let (near, far) = (Namespace::new()?, Namespace::new()?);
        join(&near, &far)?;
        let cgroup = Cgroup::new("tunnel")?;
        let mut site = Self {
            targets: Vec::new(),
            certificates: Certificates::make(directory.path())?,
            client: cgroup.child("client")?,
            near,
            far,
            cgroup,
            directory,
        };
        site.start_targets()?;
        Ok(site)
    }

    fn start_targets(&mut self) -> Result<()> {
        for target in Target::ALL {
            let name = format!("target-{target:?}").to_lowercase();
            let everywhere = (Ipv4Addr::UNSPECIFIED, target.port()).into();
            let command = self.server(&name, target, everywhere)?;
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            let process = self.start(Side::Far, &name, &command)?;
            self.targets.push(process);
        }
        Ok(())
    }

    /// The command line of a server that listens at `listen`; `name` is for its files.
    pub(super) fn server(
        &self,
        name: &str,
        target: Target,
        listen: SocketAddr,
    ) -> Result<Vec<String>> {
        let (ip, port) = (listen.ip().to_string(), listen.port().to_string());
        let settings = self.path(&format!("{name}.conf"));
        let path = settings.display().to_string();
        let words: &[&str] = match target {
            Target::Http => {
                let pid = self.path(&format!("{name}.pid"));
                fs::write(&settings, http_server(&pid, listen))?;
                &["nginx", "-e", "stderr", "-c", &path]
            }
            Target::Bulk => &["iperf3", "--server", "--bind", &ip, "--port", &port],
        };
        Ok(words.iter().map(|word| (*word).to_owned()).collect())
    }

    /// A file of this run.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The namespace of a host.
    pub(super) fn host(&self, side: Side) -> &Namespace {
        match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        }
    }

    /// Starts a program on a host, in a cgroup and with a log named `name`.
    pub(super) fn start(&self, side: Side, name: &str, arguments: &[&str]) -> Result<Process> {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        self.start_in(side, self.cgroup.path().join(name), name, &arguments)
    }

    /// The same in the cgroup at `cgroup`, which is made, and goes with the process.
    pub(super) fn start_in(
        &self,
        side: Side,
        cgroup: PathBuf,
        name: &str,
        arguments: &[String],
    ) -> Result<Process> {
        fs::create_dir_all(&cgroup)?;
        let log = self.path(&format!("{name}.log"));
        let output = File::create(&log)?;
        let child = self.host(side).run(|| {
            let mut command = within(&cgroup, arguments);
            command.stdin(Stdio::null()).stdout(output.try_clone()?);
            Ok(command.stderr(output).spawn()?)
        });
        // What becomes of the cgroup if it cannot be started is the site's business.
        Ok(Process {
            child: child.with_context(|| name.to_owned())?,
            cgroup,
            log,
        })
    }

    /// Runs a program on the near host, in `cgroup`, to its end; what it says on stdout.
    pub(super) fn output(&self, cgroup: &Path, arguments: &[&str]) -> Result<String> {
        let output = self
            .near
            .run(|| Ok(within(cgroup, arguments).stdin(Stdio::null()).output()?))?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            let (said, errors) = (text(&output.stdout), text(&output.stderr));
            bail!("{}: {}\n{said}{errors}", arguments.join(" "), output.status);
        }
        Ok(text(&output.stdout))
    }

    /// Runs `body` on the near host, with the sockets it opens in `cgroup`.
    pub(super) fn call<T: Send>(
        &self,
        cgroup: &Path,
        body: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        let _visit = Visit::to(cgroup)?;
        self.near.run(body)
    }

    /// Cgroups of everybody but the proxies.
    pub(super) fn load(&self) -> Vec<PathBuf> {
        let targets = self.targets.iter().map(|target| target.cgroup.clone());
        targets.chain([self.client.clone()]).collect()
    }

    /// The cgroup that everything of this run is in.
    pub(super) fn everything(&self) -> &Path {
        self.cgroup.path()
    }
}

/// A program in a cgroup of its own; dropping it ends all of its processes.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pub(super) cgroup: PathBuf,
    log: PathBuf,
}

impl Process {
    /// Fails with its log if it has ended.
    pub(super) fn expect_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            bail!("{status}\n{log}");
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = cgroup::remove(&self.cgroup) {
            eprintln!("left behind: {error}");
        }
    }
}

/// A command that runs in `cgroup`.
fn within(cgroup: &Path, arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"echo 0 > "$0/cgroup.procs" && exec "$@""#]);
    command.arg(cgroup).args(arguments);
    command
}

/// Joins two hosts by a veth pair. Both use cubic, whatever the machine's default is, which on a
/// veth without a queueing discipline may cost half of the throughput. The routes say so: what a
/// namespace may choose as its default is the whole machine's setting.
fn join(near: &Namespace, far: &Namespace) -> Result<()> {
    netns::wire([near, far], [NEAR, FAR])?;
    for (host, address) in [(near, NEAR), (far, FAR)] {
        host.run(|| {
            bench::host::forget_closed_connections()?;
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535")?;
            netns::ip(&format!(
                "route replace 10.88.0.0/24 dev wire src {address} congctl cubic"
            ))?;
            for local in [
                "127.0.0.0/8 dev lo src 127.0.0.1".into(),
                "127.0.0.1 dev lo src 127.0.0.1".into(),
                format!("{address} dev wire src {address}"),
            ] {
                netns::ip(&format!(
                    "route replace local {local} table local proto kernel scope host congctl cubic"
                ))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Settings of the server: a plain answer as fast as it can be had. `pid` is a file that nginx
/// writes, and removes when it ends, whatever it is.
fn http_server(pid: &Path, listen: SocketAddr) -> String {
    let body = "x".repeat(BODY);
    format!(
        "worker_processes 2;
daemon off;
pid {};
error_log stderr warn;
events {{ worker_connections 16000; }}
http {{
  access_log off;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  server {{
    listen {listen} backlog=4096;
    location / {{ return 200 {body}; }}
  }}
}}
",
        pid.display()
    )
}

/// An address of the near host's loopback.
pub(super) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
