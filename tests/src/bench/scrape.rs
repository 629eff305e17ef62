//! Scrapes and polls of an agent that has much to tell, while it enforces.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::lab::{Done, Meshed, Worker};
use super::report::{Report, mebibytes, micros, millis};
use super::rounds::{Results, Spread, Variant, compare};
use super::{Effort, host, memory, policy};
use crate::prometheus::ask;

const SERVICES: usize = 1000;
/// Where all of them are served.
const SERVED: u16 = 9100;
/// The most that a scrape may take, seconds.
const TARGET: f64 = 0.05;
/// Longer than the agent keeps an answer.
const STALE: Duration = Duration::from_millis(230);
/// How often a scraper, and a page in a browser, ask.
const INTERVAL: Duration = Duration::from_secs(1);

/// The widest spread of the same against itself that lets ratios of p99 be judged.
const QUIET: f64 = 0.2;
/// When the agent has given back what it no longer uses.
const SETTLED: Duration = Duration::from_secs(12);

/// What is asked for: its name, its path, headers, and whether it is a scrape.
const QUESTIONS: [(&str, &str, &str, bool); 5] = [
    ("/metrics, text", "/metrics", "", true),
    ("/metrics, text, gzip", "/metrics", GZIP, true),
    ("/metrics, OpenMetrics", "/metrics", OPEN_METRICS, true),
    ("/api/v1/graph", "/api/v1/graph", "", false),
    ("/api/v1/services", "/api/v1/services", "", false),
];
const GZIP: &str = "Accept-Encoding: gzip\r\n";
const OPEN_METRICS: &str = "Accept: application/openmetrics-text; version=1.0.0\r\n";

/// How long answers take, what they cost the agent, and what they do to those who call.
pub(super) fn measure(effort: &Effort<'_>, report: &mut Report) -> Result<()> {
    report.section(&format!(
        "scrape: {SERVICES} services, each called, and one called all the time"
    ));
    serve()?;
    let mut meshed = Meshed::new(8001, &policy::served(8001, SERVICES, SERVED))?;
    let agent = meshed.agent_pid();
    let before = memory::resident(agent)?;
    let vips = policy::served_vips(SERVICES);
    meshed.client.order("cycle", &vips, 3 * SERVICES as u64)?;
    let called = memory::resident(agent)?;
    answers(effort, report, &mut meshed)?;
    waits(effort, report, meshed.sandbox.admin().port())?;
    let unpacked = memory::peak(agent)?;
    sleep(SETTLED);
    memory::forget_peak(agent)?;
    let results = beside(effort, &mut meshed)?;
    report.compared(&NAMES, &results.times, micros, None);
    let (noise, moved) = (results.times.ratio(1, 0), results.times.ratio(2, 0));
    let most = noise.high.max(1.0);
    let target = format!("<= x {most:.3}");
    let quiet = noise.high - noise.low <= QUIET;
    report.value(
        "p99 with scrapes, against noise",
        &format!("x {:.3}", moved.median),
        quiet.then_some((&target, moved.median <= most)),
    );
    if !quiet {
        report.note("not judged: the machine is too noisy to tell");
    }
    for (name, share) in NAMES.iter().zip(results.shares) {
        let name = format!("agent's CPU, {name}");
        report.value(&name, &format!("{:.2} %", share * 100.0), None);
    }
    let scraped = memory::peak(agent)?;
    sleep(SETTLED);
    for (name, bytes) in [
        ("agent, resident, before any call", before),
        ("  each service called", called),
        ("  at most, also without gzip", unpacked),
        ("  at most, scraped every second", scraped),
        ("  some time after", memory::resident(agent)?),
    ] {
        report.value(name, &mebibytes(bytes), None);
    }
    Ok(())
}

/// Accepts and closes at every address of loopback, for as long as this process lives.
fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, SERVED))?;
    thread::spawn(move || listener.incoming().for_each(drop));
    Ok(())
}

/// How long each question takes while there is load.
fn answers(effort: &Effort<'_>, report: &mut Report, meshed: &mut Meshed) -> Result<()> {
    let times = if effort.quick { 5 } else { 30 };
    let needed = (STALE * 2 * times as u32 * QUESTIONS.len() as u32).as_millis() as u64;
    let (echo, port) = (meshed.addresses.echo, meshed.sandbox.admin().port());
    let client = &mut meshed.client;
    thread::scope(|scope| {
        let load = scope.spawn(|| client.order("p99", &[echo], needed));
        for (name, path, headers, scrape) in QUESTIONS {
            let (mut took, mut size) = (Vec::new(), 0);
            for _ in 0..times {
                sleep(STALE);
                let (one, bytes) = question(port, path, headers)?;
                took.push(one);
                size = bytes;
            }
            let worst = took.iter().copied().fold(0.0, f64::max);
            let median = Spread::of(took).median;
            let met = ("<= 50 ms", median <= TARGET);
            report.value(name, &millis(median), scrape.then_some(met));
            report.note(&format!(
                "{:>44}, {} KiB, worst of {times}",
                millis(worst),
                size >> 10
            ));
        }
        load.join().ok().context("it panicked")??;
        Ok(())
    })
}

/// How long somebody waits for the lock that a reload takes, while the agent is scraped: a question
/// that takes it for two reads of the kernel is asked all the time.
fn waits(effort: &Effort<'_>, report: &mut Report, port: u16) -> Result<()> {
    let times = if effort.quick { 5 } else { 30 };
    let (mut calm, mut beside) = (0.0_f64, Vec::new());
    let ask = || question(port, "/api/v1/flows?last=1", "").map(|(took, _)| took);
    for _ in 0..times {
        sleep(STALE);
        calm = calm.max(ask()?);
        let mut worst = 0.0_f64;
        thread::scope(|scope| -> Result<()> {
            let scrape = scope.spawn(|| {
                question(port, "/metrics", GZIP)?;
                question(port, "/api/v1/graph", "")
            });
            while !scrape.is_finished() {
                worst = worst.max(ask()?);
            }
            scrape.join().ok().context("it panicked")?.map(drop)
        })?;
        beside.push(worst);
    }
    let median = Spread::of(beside).median;
    report.value("the same lock, worst per scrape", &millis(median), None);
    report.note(&format!("{:>44}, worst, nobody scrapes", millis(calm)));
    Ok(())
}

/// Seconds until the answer is there, and its size.
fn question(port: u16, path: &str, headers: &str) -> Result<(f64, usize)> {
    let start = Instant::now();
    let (head, body) = ask(port, path, headers)?;
    let took = start.elapsed().as_secs_f64();
    if !head.contains(" 200 ") {
        bail!("{path}: {head}");
    }
    Ok((took, body.len()))
}

const NAMES: [&str; 3] = ["p99, nobody asks", "p99, the same again", "p99, scraped"];

/// What was measured beside questions and without.
struct Beside {
    times: Results,
    /// Of a CPU, by variant, over all rounds.
    shares: [f64; 3],
}

/// p99 of connecting, sending a byte and getting it back, in turns with and without questions.
fn beside(effort: &Effort<'_>, meshed: &mut Meshed) -> Result<Beside> {
    let turn = if effort.quick { 2000 } else { 5000 };
    let (echo, port) = (meshed.addresses.echo, meshed.sandbox.admin().port());
    let (own, agent) = (meshed.pids(), meshed.agent_pid());
    let client = std::cell::RefCell::new(&mut meshed.client);
    let used = std::cell::RefCell::new([(Duration::ZERO, Duration::ZERO); 3]);
    let run = |which: usize, asked: bool| {
        let (cpu, start) = (host::cpu_of(agent), Instant::now());
        let done = called(&mut client.borrow_mut(), echo, turn, asked.then_some(port))?;
        let (of_agent, time) = &mut used.borrow_mut()[which];
        *of_agent += host::cpu_of(agent) - cpu;
        *time += start.elapsed();
        Ok(done.took.as_nanos() as f64)
    };
    let variant = |which: usize| Variant {
        name: NAMES[which],
        run: Box::new(move || run(which, which == 2)),
    };
    let times = compare(effort, &own, &mut [0, 1, 2].map(variant))?;
    let share = |(cpu, time): (Duration, Duration)| cpu.as_secs_f64() / time.as_secs_f64();
    let shares = used.borrow().map(share);
    Ok(Beside { times, shares })
}

/// Calls for `time` milliseconds, during which somebody may ask the agent at `port`.
fn called(
    client: &mut Worker,
    to: std::net::SocketAddr,
    time: u64,
    port: Option<u16>,
) -> Result<Done> {
    thread::scope(|scope| {
        let (stop, stopped) = channel::<()>();
        let asking = port.map(|port| {
            scope.spawn(move || -> Result<()> {
                loop {
                    question(port, "/metrics", GZIP)?;
                    question(port, "/api/v1/graph", "")?;
                    match stopped.recv_timeout(INTERVAL) {
                        Err(RecvTimeoutError::Timeout) => {}
                        _ => return Ok(()),
                    }
                }
            })
        });
        let done = client.order("p99", &[to], time);
        drop(stop);
        if let Some(asking) = asking {
            asking.join().ok().context("it panicked")??;
        }
        done
    })
}
