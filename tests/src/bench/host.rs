//! The machine, in general terms, and who else uses it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::thread::available_parallelism;
use std::time::Duration;

/// What one line says of the machine.
pub(super) fn summary() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpus.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": "))
            .map_or("unknown", |(_, value)| value.trim())
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let number = kernel.split(['-', '+']).next().unwrap_or("unknown").trim();
    format!(
        "machine: {} CPUs, {} (family {}, model {}), Linux {number}",
        cores(),
        field("model name"),
        field("cpu family"),
        field("model\t"),
    )
}

/// How many CPUs this process may use.
pub(super) fn cores() -> usize {
    available_parallelism().map_or(1, Into::into)
}

/// Keeps closed connections of the thread's network namespace from holding ports for a minute.
pub(super) fn forget_closed_connections() -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0")
}

/// CPU time of every process.
#[derive(Clone, Debug, Default)]
pub(super) struct CpuTimes(BTreeMap<u32, Duration>);

impl CpuTimes {
    /// As it is now.
    pub(super) fn now() -> Self {
        let names = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Self(
            pids.filter_map(|pid| Some((pid, cpu_time(pid, true)?)))
                .collect(),
        )
    }

    /// What the processes that are not `own` have used since `before`.
    pub(super) fn foreign(&self, before: &Self, own: &[u32]) -> Duration {
        let others = self.0.iter().filter(|(pid, _)| !own.contains(pid));
        others
            .map(|(pid, now)| now.saturating_sub(before.0.get(pid).copied().unwrap_or_default()))
            .sum()
    }
}

/// CPU time of a process so far.
pub(super) fn cpu_of(pid: u32) -> Duration {
    cpu_time(pid, false).unwrap_or_default()
}

/// Fields 14 to 17 of proc_pid_stat(5); the last two are of children that have ended.
fn cpu_time(pid: u32, with_children: bool) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, numbers) = stat.rsplit_once(')')?;
    let times = numbers.split_whitespace().skip(14 - 3);
    let ticks: u64 = times
        .take(if with_children { 4 } else { 2 })
        .filter_map(|time| time.parse::<u64>().ok())
        .sum();
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}
