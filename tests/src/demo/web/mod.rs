//! nginx is payments, in two versions, and wrk is checkout: what the mesh has counted of a million
//! requests, without a proxy, beside what wrk has.

mod counted;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::counted::Counted;
use super::{INTRUSIONS, Options, POLICY, POLICY_FILE, VIP, stage};
use crate::interrupt::Interrupt;
use crate::sandbox::free_port;
use crate::web::{self, Load, Nginx, Seen};
use crate::{AgentProcess, Sandbox, netns};

/// Connections that checkout has at a time: few, so that wrk's clock is not about its own threads
/// waiting for a processor.
const CONNECTIONS: u64 = 2;
/// One request of so many is answered by 500, after which nginx closes the connection.
const FAIL_EVERY: u64 = 1000;
/// Version 2 gets one of so many connections.
const CANARY: u64 = 100;
/// How long counts may take from the kernel to a scrape, besides what answering takes.
const SCRAPE: Duration = Duration::from_secs(2);
/// How often the page is looked at.
const LOOK: Duration = Duration::from_millis(500);
const ENDPOINTS: [(&str, u16); 2] = [("v1", 8081), ("v2", 8082)];

/// Sends the requests; whether what was counted is what was sent.
pub(super) fn perform(options: &Options, interrupt: &Interrupt) -> Result<bool> {
    if let Some(missing) = web::missing() {
        bail!("{missing}");
    }
    let stage = Stage::set_up(options)?;
    let each = options.requests().div_ceil(CONNECTIONS);
    println!(
        "\nwrk as checkout sends {} requests on {CONNECTIONS} connections to {VIP}; nginx is payments.\n",
        each * CONNECTIONS
    );
    let (seen, edge) = stage.load_and_look(each)?;
    stage::call(&stage.sandbox, "intruder", VIP, INTRUSIONS)?;
    let comparison = stage.compare(seen, edge)?;
    print!("{comparison}");
    if options.keep && !interrupt.happened() {
        let admin = stage.sandbox.admin();
        println!("\nIt goes on until Ctrl-C, a little slower. The page: http://{admin}/");
        stage.go_on(interrupt)?;
        println!("\ntaking everything down");
    }
    Ok(comparison.is_right())
}

/// Dropping it takes all of it down, processes first.
struct Stage {
    _servers: Vec<Nginx>,
    _agent: AgentProcess,
    sandbox: Sandbox,
}

impl Stage {
    fn set_up(options: &Options) -> Result<Self> {
        if !options.keep {
            netns::enter_new().context("cannot make a network namespace")?;
        }
        let sandbox = Sandbox::with_admin("web", free_port()?).context("cannot make a sandbox")?;
        sandbox.write_policy(POLICY_FILE, POLICY)?;
        let server = |(version, port): (&str, u16)| {
            let cgroup = format!("system.slice/payments-{version}.service");
            let cgroup = sandbox.cgroup.child(&cgroup)?;
            let listen = [SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
            let answers = format!(
                "location / {{ return 200 \"payments {version}\\n\"; }} location /fail {{ return 500; }}"
            );
            Nginx::start(&cgroup, &sandbox.path(version), &listen, &answers)
        };
        let agent = AgentProcess::start(&sandbox).context("the agent does not start")?;
        let servers = ENDPOINTS.into_iter().map(server).collect::<Result<_, _>>();
        Ok(Self {
            _servers: servers.context("nginx does not start")?,
            _agent: agent,
            sandbox,
        })
    }

    /// Sends requests, and sees what the page shows of them meanwhile.
    fn load_and_look(&self, requests: u64) -> Result<(Seen, String)> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let looking = scope.spawn(|| self.look(&done));
            let seen = self.load(requests);
            done.store(true, Ordering::Relaxed);
            Ok((seen?, looking.join().unwrap_or_default()))
        })
    }

    /// What the page shows on the way from checkout to payments while requests go on.
    fn look(&self, done: &AtomicBool) -> String {
        let mut shown = String::new();
        while !done.load(Ordering::Relaxed) {
            // The agent may be busy; the next look is a second later.
            shown = counted::edge(&self.sandbox).unwrap_or(shown);
            sleep(LOOK);
        }
        shown
    }

    /// Sends so many requests on each connection.
    fn load(&self, requests: u64) -> Result<Seen> {
        let checkout = self.sandbox.cgroup.child("system.slice/checkout.service")?;
        let load = Load {
            to: VIP.parse()?,
            path: "/".into(),
            connections: CONNECTIONS,
            requests,
            fail_every: FAIL_EVERY,
        };
        let seen = load.run(&checkout, &self.sandbox.path("wrk"));
        seen.context("wrk as checkout")
    }

    /// Scrapes once all connections have been closed.
    fn compare(&self, seen: Seen, edge: String) -> Result<Comparison> {
        let deadline = Instant::now() + SCRAPE;
        let counted = Counted::scrape(&self.sandbox)?;
        let mut comparison = Comparison {
            seen,
            counted,
            edge,
        };
        while !comparison.is_right() && Instant::now() < deadline {
            sleep(Duration::from_millis(100));
            comparison.counted = Counted::scrape(&self.sandbox)?;
        }
        Ok(comparison)
    }

    /// Sends a little all the time, so that there is something to look at.
    fn go_on(&self, interrupt: &Interrupt) -> Result<()> {
        while !interrupt.happened() {
            self.load(20)?;
            stage::call(&self.sandbox, "intruder", VIP, INTRUSIONS)?;
            sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

/// What wrk has seen, and what the mesh has counted.
struct Comparison {
    seen: Seen,
    counted: Counted,
    /// What the page showed.
    edge: String,
}

impl Comparison {
    /// What is compared: name, both sides, whether they agree.
    fn lines(&self) -> Vec<(&'static str, String, String, bool)> {
        let Self { seen, counted, .. } = self;
        let exact = |name, seen: u64, counted: u64| {
            (name, seen.to_string(), counted.to_string(), seen == counted)
        };
        let mut lines = vec![
            exact("requests", seen.requests, counted.requests),
            exact("errors", seen.errors, counted.errors),
            exact("bytes sent", seen.sent_bytes, counted.sent_bytes),
            exact(
                "bytes received",
                seen.received_bytes,
                counted.received_bytes,
            ),
            exact("connections failed", seen.failures, 0),
            exact("calls denied", INTRUSIONS, counted.denied),
        ];
        let share = counted.connections as f64 / CANARY as f64;
        lines.push((
            "connections to v2",
            format!("1/{CANARY} of {}", counted.connections),
            counted.canary.to_string(),
            (counted.canary as f64 - share).abs() < 1.0,
        ));
        let quantiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
        for ((name, quantile), seen) in quantiles.into_iter().zip(seen.quantiles) {
            let bucket = counted.durations.quantile(quantile);
            let agrees = counted.durations.is_near(bucket, seen.as_secs_f64());
            let bucket = counted.durations.describe(bucket);
            lines.push((name, format!("{seen:?}"), bucket, agrees));
        }
        lines
    }

    fn is_right(&self) -> bool {
        self.lines().iter().all(|(_, _, _, agrees)| *agrees)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<22}{:>16}{:>24}", "", "wrk", "mesh")?;
        for (name, seen, counted, agrees) in self.lines() {
            let verdict = if agrees { "" } else { "   NOT as it should be" };
            writeln!(f, "{name:<22}{seen:>16}{counted:>24}{verdict}")?;
        }
        let rate = self.seen.requests as f64 / self.seen.took.as_secs_f64();
        writeln!(f, "\n{rate:.0} requests a second")?;
        writeln!(f, "on the page: {}", self.edge)
    }
}
