//! The agent as a process.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::in_cgroup;
use crate::patience::scaled;
use crate::sandbox::Sandbox;

/// How long the agent may take to become ready.
const START: Duration = Duration::from_secs(20);

/// A running agent; dropping it kills it, which changes nothing of what is enforced.
#[derive(Debug)]
pub struct AgentProcess {
    child: Child,
}

/// The agent's binary: `MESH_AGENT`, or the one cargo built beside this program.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("MESH_AGENT") {
        return path.into();
    }
    let mut directory = env::current_exe().unwrap_or_default();
    directory.pop();
    if directory.ends_with("deps") {
        directory.pop();
    }
    directory.join("mesh-agent")
}

/// Runs a command of the agent (`status`, `unload`, ...) on the sandbox's settings.
///
/// # Errors
///
/// It cannot be started.
pub fn command(sandbox: &Sandbox, arguments: &[&str]) -> io::Result<Output> {
    Command::new(binary())
        .args(arguments)
        .arg("--config")
        .arg(sandbox.agent_toml())
        .env("NO_COLOR", "1")
        .output()
}

/// What the unit sets for the C library, so that an agent is as large here as where it is installed.
fn allocator() -> Option<(&'static str, &'static str)> {
    const UNIT: &str = include_str!("../../packaging/systemd/mesh-agent.service");
    const NAME: &str = "GLIBC_TUNABLES";
    let settings = UNIT
        .lines()
        .filter_map(|line| line.strip_prefix("Environment="));
    let mut pairs = settings.filter_map(|setting| setting.split_once('='));
    pairs.find(|(name, _)| *name == NAME)
}

impl AgentProcess {
    /// Cgroup of [`Self::start_below`], below the sandbox's.
    pub const CGROUP: &str = "system.slice/mesh-agent.service";

    /// Starts the agent and waits until it is ready. Its log is `agent.log` in the sandbox.
    ///
    /// # Errors
    ///
    /// It ends or does not become ready; with its log.
    pub fn start(sandbox: &Sandbox) -> io::Result<Self> {
        Self::spawn(sandbox)?.wait_until_ready(sandbox)
    }

    /// The same in a cgroup of the sandbox's own, as an agent has to be that carries calls between
    /// nodes.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_below(sandbox: &Sandbox) -> io::Result<Self> {
        let cgroup = sandbox.cgroup.child(Self::CGROUP)?;
        Self::run(sandbox, in_cgroup(&cgroup, binary()))?.wait_until_ready(sandbox)
    }

    /// Waits until it is ready; an error has its log.
    pub(crate) fn wait_until_ready(self, sandbox: &Sandbox) -> io::Result<Self> {
        let mut agent = self;
        let deadline = Instant::now() + scaled(START);
        while Instant::now() < deadline {
            if let Some(status) = agent.child.try_wait()? {
                return Err(io::Error::other(format!("{status}\n{}", log(sandbox))));
            }
            if get(sandbox, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return Ok(agent);
            }
            sleep(Duration::from_millis(5));
        }
        Err(io::Error::other(format!("not ready\n{}", log(sandbox))))
    }

    /// Starts the agent and does not wait.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn spawn(sandbox: &Sandbox) -> io::Result<Self> {
        Self::run(sandbox, Command::new(binary()))
    }

    /// Starts what becomes the agent.
    pub(crate) fn run(sandbox: &Sandbox, mut command: Command) -> io::Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(sandbox.path("agent.log"))?;
        let child = command
            .arg("run")
            .arg("--config")
            .arg(sandbox.agent_toml())
            .env("NO_COLOR", "1")
            .envs(allocator())
            .stderr(log)
            .spawn()?;
        Ok(Self { child })
    }

    /// How it has ended; `None` while it runs.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
    }

    /// Waits until it ends; its exit code.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn wait(mut self) -> io::Result<Option<i32>> {
        Ok(self.child.wait()?.code())
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // Either may fail because it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the agent has logged in this sandbox so far.
pub fn log(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.path("agent.log")).unwrap_or_default()
}

/// The answer to an HTTP GET of the agent, head and body.
///
/// # Errors
///
/// It does not answer.
pub fn get(sandbox: &Sandbox, path: &str) -> io::Result<String> {
    get_from(sandbox.admin(), path)
}

fn get_from(admin: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The value of a metric whose name is `name` and which has all of `labels`, as in
/// `[("verdict", "denied")]`; several series are added up, none is 0.
///
/// # Errors
///
/// The agent does not answer.
pub fn metric(sandbox: &Sandbox, name: &str, labels: &[(&str, &str)]) -> io::Result<f64> {
    metric_from(sandbox.admin(), name, labels)
}

/// The same of the agent that serves HTTP at `admin`.
///
/// # Errors
///
/// As [`metric`].
pub fn metric_from(admin: SocketAddr, name: &str, labels: &[(&str, &str)]) -> io::Result<f64> {
    let has = |found: &BTreeMap<String, String>, (label, value): &(&str, &str)| {
        found.get(*label).is_some_and(|found| found == value)
    };
    let all = series_from(admin, name)?;
    let matching = all
        .iter()
        .filter(|(found, _)| labels.iter().all(|label| has(found, label)));
    Ok(matching.map(|(_, value)| value).sum())
}

/// The series of the metric `name`: labels and value.
///
/// # Errors
///
/// The agent does not answer.
pub fn series(sandbox: &Sandbox, name: &str) -> io::Result<Vec<(BTreeMap<String, String>, f64)>> {
    series_from(sandbox.admin(), name)
}

fn series_from(admin: SocketAddr, name: &str) -> io::Result<Vec<(BTreeMap<String, String>, f64)>> {
    let body = get_from(admin, "/metrics")?;
    let of_series = |line: &str| {
        let rest = line
            .strip_prefix(name)
            .filter(|rest| rest.starts_with(['{', ' ']))?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let labels = labels.trim_matches(['{', '}']).split("\",");
        let pairs = labels.filter_map(|pair| pair.split_once("=\""));
        let pairs = pairs.map(|(name, value)| (name.into(), value.trim_matches('"').into()));
        Some((pairs.collect(), value.parse().ok()?))
    };
    Ok(body.lines().filter_map(of_series).collect())
}
