//! Requests to nginx by wrk: whether the mesh counts what the client counts, and what counting
//! costs.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use super::host;
use super::rounds::Spread;
use crate::cgroup::in_cgroup;
use crate::durations::Durations;
use crate::web::{self, Load, Nginx, Seen};
use crate::{AgentProcess, Cgroup, Sandbox, agent, netns};

/// Where wrk and nginx run.
const CPUS: [&str; 2] = ["0", "1"];
/// Requests per second with requests read, at least, of those without.
const TARGET: f64 = 0.97;

const POLICY: &str = r#"
[mesh]
default = "deny"

[[service]]
name = "checkout"
workload = { systemd = "checkout.service" }

[[service]]
name = "read"
vip = "10.96.0.10"
ports = [{ name = "web", listen = 80, protocol = "http" }]
workload = { systemd = "read.service" }
endpoints = [{ address = "127.0.0.1:8081" }]

[[service]]
name = "unread"
vip = "10.96.0.11"
ports = [{ name = "web", listen = 80 }]
workload = { systemd = "unread.service" }
endpoints = [{ address = "127.0.0.1:8082" }]

[[allow]]
name = "checkout"
from = ["default/checkout"]
to = ["default/*"]
"#;

/// Options of `http`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Rounds, in each of which every variant has its turn.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=500))]
    rounds: u32,
    /// How long a turn is, seconds.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Connections of a turn.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// Requests that must be counted exactly.
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// Fail if a count differs, a quantile is more than a bucket off, or the target is missed.
    #[arg(long)]
    check: bool,
}

/// A mesh with two services that differ in whether their requests are read, and a server that no
/// mesh knows. Processes go before their cgroups.
struct Stage {
    _servers: [Nginx; 3],
    _agent: AgentProcess,
    cgroups: [PathBuf; 3],
    client: PathBuf,
    outside: PathBuf,
    sandbox: Sandbox,
    _plain: Cgroup,
}

/// Measures; whether nothing is missed, as far as that is asked for.
pub(super) fn measure(options: &Options) -> Result<bool> {
    if !geteuid().is_root() {
        bail!("it loads programs into the kernel: run it as root");
    }
    if let Some(missing) = web::missing() {
        bail!(missing);
    }
    netns::enter_new()?;
    println!("{}", host::summary());
    let stage = Stage::new()?;
    let mut kept = stage.exact(options.requests, 4, false)?;
    kept &= stage.exact(options.requests.div_ceil(10), 1, true)?;
    for (name, path) in PAGES {
        println!("\n{name}:");
        kept &= stage.cost(options, path)?;
    }
    Ok(kept || !options.check)
}

impl Stage {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new("bench-http")?;
        let plain = Cgroup::new("bench-http-plain")?;
        sandbox.write_policy("10-http.toml", POLICY)?;
        let unit = |name: &str| {
            sandbox
                .cgroup
                .child(&format!("system.slice/{name}.service"))
        };
        let cgroups = [unit("read")?, unit("unread")?, plain.child("server")?];
        let agent = AgentProcess::start(&sandbox).context("the agent does not start")?;
        let start = |index: usize| {
            let directory = sandbox.path(&format!("nginx-{index}"));
            server(&cgroups[index], &directory, 8081 + index as u16)
        };
        let servers = [start(0)?, start(1)?, start(2)?];
        for cgroup in &cgroups {
            pin(cgroup, CPUS[1])?;
        }
        let (client, outside) = (unit("checkout")?, plain.child("client")?);
        Ok(Self {
            _servers: servers,
            _agent: agent,
            cgroups,
            client,
            outside,
            sandbox,
            _plain: plain,
        })
    }

    /// Holds what was counted of so many requests to what wrk has counted.
    fn exact(&self, requests: u64, connections: u64, timed: bool) -> Result<bool> {
        let (before, durations) = (self.counted()?, Durations::scrape(&self.sandbox)?);
        let load = Load {
            to: SocketAddr::from(([10, 96, 0, 10], 80)),
            path: "/".into(),
            connections,
            requests: requests.div_ceil(connections),
            fail_every: 0,
        };
        let seen = load.run(&self.client, &self.sandbox.path("wrk"))?;
        let deadline = Instant::now() + Duration::from_secs(3);
        while self.counted()? - before < seen.requests && Instant::now() < deadline {
            sleep(Duration::from_millis(50));
        }
        let counted = self.counted()? - before;
        println!(
            "\n{} requests on {connections} connections in {:.1} s: wrk counts {}, the mesh {counted}, \
             not followed {}",
            load.requests * connections,
            seen.took.as_secs_f64(),
            seen.requests,
            agent::metric(&self.sandbox, "mesh_http_unparsed_total", &[])? as u64
        );
        let near = self.quantiles(&seen, &durations)?;
        Ok(counted == seen.requests && seen.failures == 0 && (near || !timed))
    }

    fn counted(&self) -> Result<u64> {
        let labels = [("method", "GET"), ("response_code", "200")];
        Ok(agent::metric(&self.sandbox, "mesh_http_requests_total", &labels)? as u64)
    }

    /// Shows quantiles; whether those of wrk and of the mesh are in the same bucket or the next.
    fn quantiles(&self, seen: &Seen, before: &Durations) -> Result<bool> {
        let since = Durations::scrape(&self.sandbox)?.since(before);
        let mut near = true;
        for (quantile, latency) in [50, 90, 99].into_iter().zip(seen.quantiles) {
            let bucket = since.quantile(f64::from(quantile) / 100.0);
            println!(
                "  p{quantile}: wrk {latency:?}, the mesh {}",
                since.describe(bucket)
            );
            near &= since.is_near(bucket, latency.as_secs_f64());
        }
        Ok(near)
    }

    /// Requests per second of each variant, and their ratios; whether the target is kept.
    fn cost(&self, options: &Options, path: &str) -> Result<bool> {
        let variants = [
            (&self.client, "10.96.0.10:80"),
            (&self.client, "10.96.0.11:80"),
            (&self.outside, "127.0.0.1:8083"),
        ];
        let mut rates: Vec<[f64; 3]> = Vec::new();
        let mut times: Vec<[f64; 3]> = Vec::new();
        for round in 0..options.rounds as usize {
            let (mut rate, mut time) = ([0.0; 3], [0.0; 3]);
            for turn in 0..variants.len() {
                let which = (round + turn) % variants.len();
                let (cgroup, to) = variants[which];
                let used = || cpu_time(&[cgroup, &self.cgroups[which]]);
                let before = used()?;
                let (each_second, requests) = throughput(cgroup, &format!("{to}{path}"), options)?;
                rate[which] = each_second;
                time[which] = (used()? - before) / requests;
            }
            rates.push(rate);
            times.push(time);
        }
        println!("requests per second, median of {} rounds:", rates.len());
        for (index, name) in ["requests read", "not read", "no mesh"].iter().enumerate() {
            println!(
                "  {name:14} {:9.0}, and {:.2} us of CPU time a request",
                median(rates.iter().map(|rate| rate[index])),
                median(times.iter().map(|time| time[index]))
            );
        }
        let ratio = |of: usize, to: usize| median(rates.iter().map(|rate| rate[of] / rate[to]));
        println!("read / not read: {:.4} (target {TARGET})", ratio(0, 1));
        println!("read / no mesh:  {:.4}", ratio(0, 2));
        println!("not read / no mesh: {:.4}", ratio(1, 2));
        let cost = median(times.iter().map(|time| time[1] / time[0]));
        println!("read / not read by CPU time: {cost:.4}");
        Ok(ratio(0, 1) >= TARGET)
    }
}

/// What is asked for: how it is called, and where it is.
const PAGES: [(&str, &str); 2] = [
    ("a fixed answer of 29 bytes, the least that nginx does", "/"),
    ("a page of 1 KiB from disk", "/page"),
];
/// Bytes of the page.
const PAGE_BYTES: usize = 1024;
/// nginx of Debian sends files so.
const LOCATIONS: &str = "sendfile on; tcp_nopush on; root .;\n\
    location / { return 200 \"hello, this is what is served\"; }\n\
    location /page { }";

/// An nginx that serves what is asked for.
fn server(cgroup: &Path, directory: &Path, port: u16) -> Result<Nginx> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("page"), [b'x'; PAGE_BYTES])?;
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    Ok(Nginx::start(cgroup, directory, &[listen], LOCATIONS)?)
}

/// Requests per second, and how many.
fn throughput(cgroup: &Path, to: &str, options: &Options) -> Result<(f64, f64)> {
    let output = in_cgroup(cgroup, "taskset")
        .args(["-c", CPUS[0], "wrk", "-t", "1"])
        .args(["-c", &options.connections.to_string()])
        .args(["-d", &format!("{}s", options.seconds)])
        .arg(format!("http://{to}"))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"));
    let rate = rate.with_context(|| format!("wrk to {to}: {text}"))?;
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        bail!("wrk to {to}: {text}");
    }
    let requests = text
        .lines()
        .find_map(|line| line.split_once(" requests in "));
    let (requests, _) = requests.with_context(|| format!("wrk to {to}: {text}"))?;
    Ok((rate.trim().parse()?, requests.trim().parse()?))
}

/// What processes of these cgroups have used, microseconds.
fn cpu_time(cgroups: &[&Path]) -> Result<f64> {
    let mut sum = 0.0;
    for cgroup in cgroups {
        let text = fs::read_to_string(cgroup.join("cpu.stat"))?;
        let used = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        sum += used.context("no usage_usec")?.parse::<f64>()?;
    }
    Ok(sum)
}

/// Moves every process of a cgroup to a CPU.
fn pin(cgroup: &Path, cpu: &str) -> Result<()> {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    for process in processes.lines() {
        let status = Command::new("taskset")
            .args(["-a", "-p", "-c", cpu, process])
            .stdout(std::process::Stdio::null())
            .status()?;
        if !status.success() {
            bail!("cannot pin process {process}");
        }
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    Spread::of(values.collect()).median
}
