//! What Linux says about this process: `/proc/self` comes in, `process_*` goes out.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// Resources of this process; what could not be read is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Process {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) virtual_bytes: Option<u64>,
    pub(crate) threads: Option<u64>,
    pub(crate) start_time_seconds: Option<f64>,
    pub(crate) open_fds: Option<u64>,
    pub(crate) max_fds: Option<u64>,
}

impl Process {
    /// Reads them now.
    pub(crate) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let system = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self {
            open_fds: open_fds(),
            max_fds: getrlimit(Resource::Nofile).current,
            ..Self::parse(&stat, &system)
        }
    }

    fn parse(stat: &str, system: &str) -> Self {
        // The name in parentheses may hold spaces and parentheses; numbering is from the state,
        // field 3 of proc_pid_stat(5).
        let numbers = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = numbers.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = clock_ticks_per_second() as f64;
        let boot = system
            .lines()
            .find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
        Self {
            cpu_seconds: field(14)
                .zip(field(15))
                .map(|(user, system)| (user + system) as f64 / ticks),
            threads: field(20),
            start_time_seconds: field(22)
                .zip(boot)
                .map(|(start, boot)| boot as f64 + start as f64 / ticks),
            virtual_bytes: field(23),
            resident_bytes: field(24).map(|pages| pages * page_size() as u64),
            open_fds: None,
            max_fds: None,
        }
    }
}

/// Memory this process has in RAM.
pub fn resident_bytes() -> Option<u64> {
    Process::read().resident_bytes
}

/// Memory of this process that is in RAM and of no file.
pub fn anonymous_bytes() -> Option<u64> {
    anonymous_of(&fs::read_to_string("/proc/self/status").ok()?)
}

/// See proc_pid_status(5).
fn anonymous_of(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

fn open_fds() -> Option<u64> {
    let listed = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    // One of them is the directory that is being listed.
    listed.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_no_file_is_told_in_bytes() {
        let status = "VmRSS:\t    1680 kB\nRssAnon:\t     104 kB\nRssFile:\t    1576 kB\n";
        assert_eq!(anonymous_of(status), Some(104 << 10));
        assert_eq!(anonymous_of("Name:\tmesh-agent\n"), None);
        assert!(anonymous_bytes() > Some(0));
    }

    #[test]
    fn a_name_with_parentheses_shifts_nothing() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 7 18 1000 4096 3 20";
        let process = Process::parse(stat, "cpu 1 2\nbtime 1700000000\n");
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!(process.cpu_seconds, Some(200.0 / ticks));
        assert_eq!(process.threads, Some(7));
        assert_eq!(process.start_time_seconds, Some(1.7e9 + 1000.0 / ticks));
        assert_eq!(process.virtual_bytes, Some(4096));
        assert_eq!(process.resident_bytes, Some(3 * page_size() as u64));
    }

    #[test]
    fn nothing_readable_is_nothing_reported() {
        assert_eq!(Process::parse("", ""), Process::default());
    }

    #[test]
    fn this_process_is_alive() {
        let process = Process::read();
        assert!(process.resident_bytes > Some(0), "{process:?}");
        assert!(process.threads >= Some(1), "{process:?}");
        assert!(process.open_fds >= Some(1), "{process:?}");
        assert!(process.start_time_seconds > Some(1e9), "{process:?}");
    }
}
