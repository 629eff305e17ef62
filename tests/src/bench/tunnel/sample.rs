//! CPU time of cgroups, and what others have used meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::contestant::Contestant;
use super::site::Site;

/// CPU time in seconds while something ran.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpu {
    /// That of the proxies on both hosts.
    pub(super) proxies: f64,
    /// With client and server.
    pub(super) total: f64,
    /// CPUs that others used on average.
    pub(super) foreign: f64,
}

/// Runs `body`; what it used.
pub(super) fn during<T>(
    site: &Site,
    contestant: &dyn Contestant,
    body: impl FnOnce() -> Result<T>,
) -> Result<(T, Cpu)> {
    let mut others = site.load();
    let client = contestant.client().to_owned();
    if !others.contains(&client) {
        others.push(client);
    }
    others.extend(contestant.servers());
    let proxies = contestant.proxies();
    let now = || Ok::<_, anyhow::Error>((sum(&proxies)?, sum(&others)?));
    let before = now()?;
    let (result, foreign) = foreign_during(site, &contestant.elsewhere(), body)?;
    let after = now()?;
    let used = |now: Duration, before| now.saturating_sub(before).as_secs_f64();
    let proxies = used(after.0, before.0);
    let total = proxies + used(after.1, before.1);
    let cpu = Cpu {
        proxies,
        total,
        foreign,
    };
    Ok((result, cpu))
}

/// Runs `body`; how many CPUs others used meanwhile than the site and the cgroups `elsewhere`.
pub(super) fn foreign_during<T>(
    site: &Site,
    elsewhere: &[PathBuf],
    body: impl FnOnce() -> Result<T>,
) -> Result<(T, f64)> {
    let own = || Ok::<_, anyhow::Error>(usage(site.everything())? + sum(elsewhere)?);
    let now = || Ok::<_, anyhow::Error>((busy()?, own()?));
    let (start, before) = (Instant::now(), now()?);
    let result = body()?;
    let (after, took) = (now()?, start.elapsed());
    let foreign = after.0.saturating_sub(before.0);
    let foreign = foreign.saturating_sub(after.1.saturating_sub(before.1));
    Ok((result, foreign.as_secs_f64() / took.as_secs_f64()))
}

fn sum(cgroups: &[PathBuf]) -> Result<Duration> {
    cgroups.iter().map(|cgroup| usage(cgroup)).sum()
}

/// CPU time of a cgroup so far, as the kernel keeps it for every cgroup without a controller.
fn usage(cgroup: &Path) -> Result<Duration> {
    let path = cgroup.join("cpu.stat");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    let micros = line.context("cpu.stat has no usage_usec")?.parse()?;
    Ok(Duration::from_micros(micros))
}

/// CPU time of the whole machine so far, with what its host took away.
fn busy() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok(Duration::from_secs_f64(busy_ticks(line) / per_second))
}

/// All fields of proc_stat(5) but idle and iowait, and but the guests', which user has in it.
fn busy_ticks(line: &str) -> f64 {
    let fields = line.split_whitespace().skip(1).take(8);
    let busy = fields
        .enumerate()
        .filter(|(which, _)| ![3, 4].contains(which));
    busy.filter_map(|(_, ticks)| ticks.parse::<f64>().ok())
        .sum()
}

/// Size of all processes in cgroups, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub(super) resident: f64,
    pub(super) proportional: f64,
    /// Without pages of files, which come and go with the code that runs.
    pub(super) anonymous: f64,
}

impl Memory {
    /// As it is now.
    pub(super) fn of(cgroup: &Path) -> Result<Self> {
        let mut memory = Self::default();
        for pid in fs::read_to_string(cgroup.join("cgroup.procs"))?.lines() {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).context(path)?;
            memory.resident += field(&text, "Rss:")?;
            memory.proportional += field(&text, "Pss:")?;
            memory.anonymous += field(&text, "Anonymous:")?;
        }
        Ok(memory)
    }
}

/// A field in kB, in bytes.
fn field(text: &str, key: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: f64 = number.with_context(|| key.to_owned())?.parse()?;
    Ok(kilobytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_not_busy() {
        let line = "cpu  1 2 4 100 1000 8 16 32 64 128";
        assert_eq!(busy_ticks(line), f64::from(1 + 2 + 4 + 8 + 16 + 32));
    }

    #[test]
    fn sizes_are_in_bytes() {
        let text = "5581-7ffc ---p 00000000 00:00 0 [rollup]\nRss:       12 kB\nPss:        3 kB\n";
        assert_eq!(field(text, "Rss:").expect("Rss"), 12288.0);
        assert!(field(text, "Swap:").is_err());
    }
}
