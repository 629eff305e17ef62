//! The processes that are measured: a server, and clients that do as they are told on stdin.

use std::io::{self, BufRead as _, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use nix::sys::socket::{setsockopt, sockopt::TcpCongestion};
use rustix::net::sockopt::set_socket_linger;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::host;
use crate::cgroup;

/// The line on stdout that says the process is ready.
pub(super) const READY: &str = "ready";
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// Bytes in one write or read of a bulk transfer.
const CHUNK: usize = 256 << 10;

/// What this program does as a child of itself.
#[derive(Debug, Subcommand)]
pub(super) enum Role {
    /// Accept connections.
    #[command(hide = true)]
    Server {
        #[command(flatten)]
        place: Place,
        /// The first of four ports: two that close, one that echoes, one that swallows.
        #[arg(long)]
        port: u16,
    },
    /// Make connections.
    #[command(hide = true)]
    Client {
        #[command(flatten)]
        place: Place,
    },
}

/// Where a process runs.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The cgroup it moves itself into.
    #[arg(long)]
    cgroup: PathBuf,
    /// The CPU it stays on, if there is more than one.
    #[arg(long)]
    cpu: usize,
}

/// Runs as `role` until stdin or the process is closed.
pub(super) fn run(role: &Role) -> Result<()> {
    match role {
        Role::Server { place, port } => {
            place.take()?;
            serve(*port)
        }
        Role::Client { place } => {
            place.take()?;
            obey()
        }
    }
}

impl Place {
    fn take(&self) -> Result<()> {
        join(&self.cgroup)?;
        if host::cores() > 1 {
            let mut cpus = CpuSet::new();
            cpus.set(self.cpu);
            sched_setaffinity(None, &cpus).context("sched_setaffinity")?;
        }
        Ok(())
    }
}

fn join(cgroup: &Path) -> Result<()> {
    cgroup::join(cgroup).with_context(|| cgroup.display().to_string())
}

fn serve(port: u16) -> Result<()> {
    let services: [fn(TcpStream); 4] = [drop, drop, echo, swallow];
    let mut threads = Vec::new();
    for (port, service) in (port..).zip(services) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        rustix::net::listen(&listener, BACKLOG)?;
        threads.push(thread::spawn(move || accept(&listener, service)));
    }
    println!("{READY}");
    io::stdout().flush()?;
    // It ends when its parent does.
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn accept(listener: &TcpListener, service: fn(TcpStream)) {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => service(stream),
            // The client was faster.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => eprintln!("accept: {error}"),
        }
    }
}

fn echo(mut stream: TcpStream) {
    let mut byte = [0];
    // The end is the client's business.
    let _ = stream.set_nodelay(true);
    while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {}
}

fn swallow(mut stream: TcpStream) {
    let mut buffer = vec![0; CHUNK];
    while matches!(stream.read(&mut buffer), Ok(count) if count > 0) {}
}

/// Executes one order a line and answers each with a line.
fn obey() -> Result<()> {
    println!("{READY}");
    for order in io::stdin().lock().lines() {
        let order = order?;
        let words: Vec<&str> = order.split(' ').collect();
        let [verb, to, amount] = words[..] else {
            bail!("not an order: {order}");
        };
        let to: Vec<SocketAddr> = to.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let amount: u64 = amount.parse()?;
        let done = match verb {
            "connect" => connect(&to, amount),
            "cycle" => cycle(&to, amount),
            "p99" => slowest(to[0], Duration::from_millis(amount)),
            "rtt" => round_trips(to[0], amount),
            "bulk" => bulk(to[0], amount),
            "denied" => denied(to[0], Duration::from_millis(amount)),
            _ => bail!("not an order: {order}"),
        };
        let (took, count) = done.with_context(|| order.clone())?;
        println!("{} {count}", took.as_nanos());
    }
    Ok(())
}

/// Connections that the client opens and resets at once; then waits until all are accepted.
fn connect(to: &[SocketAddr], count: u64) -> io::Result<(Duration, u64)> {
    let start = Instant::now();
    for to in to.iter().cycle().take(count as usize) {
        let stream = TcpStream::connect(to)?;
        set_socket_linger(&stream, Some(Duration::ZERO))?;
    }
    let took = start.elapsed();
    // Twice for a load balancer with two servers behind it.
    to.iter()
        .chain(to)
        .take(2)
        .try_for_each(|to| one_cycle(*to))?;
    Ok((took, count))
}

/// Connections that the server accepts and closes, and the client too.
fn cycle(to: &[SocketAddr], count: u64) -> io::Result<(Duration, u64)> {
    let start = Instant::now();
    for to in to.iter().cycle().take(count as usize) {
        one_cycle(*to)?;
    }
    Ok((start.elapsed(), count))
}

fn one_cycle(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(io::Error::other("the server sent something")),
        Err(error) => Err(error),
    }
}

fn round_trips(to: SocketAddr, count: u64) -> io::Result<(Duration, u64)> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let start = Instant::now();
    for _ in 0..count {
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
    }
    Ok((start.elapsed(), count))
}

/// Connects, sends a byte, gets it back and closes, for `time`: what all but one of a hundred take
/// at most, and how many there were.
fn slowest(to: SocketAddr, time: Duration) -> io::Result<(Duration, u64)> {
    let start = Instant::now();
    let mut took = Vec::new();
    while start.elapsed() < time {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    let p99 = took.get(took.len() * 99 / 100).copied();
    Ok((p99.unwrap_or_default(), took.len() as u64))
}

fn bulk(to: SocketAddr, bytes: u64) -> io::Result<(Duration, u64)> {
    let mut stream = TcpStream::connect(to)?;
    // Others pace on loopback. Where the kernel lacks it the default has to do.
    let _ = setsockopt(&stream, TcpCongestion, &"cubic".into());
    let chunk = vec![0; CHUNK];
    let start = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let now = left.min(CHUNK as u64) as usize;
        stream.write_all(&chunk[..now])?;
        left -= now as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The server closes when it has read everything.
    stream.read_to_end(&mut Vec::new())?;
    Ok((start.elapsed(), bytes))
}

/// Calls for `time` that must all be refused.
fn denied(to: SocketAddr, time: Duration) -> io::Result<(Duration, u64)> {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < time {
        match TcpStream::connect(to) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => count += 1,
            Err(error) => return Err(error),
            Ok(_) => return Err(io::Error::other("it was not denied")),
        }
    }
    Ok((start.elapsed(), count))
}
