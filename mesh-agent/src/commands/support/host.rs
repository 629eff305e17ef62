//! The kernel and what of its settings matters to the mesh.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;
use rustix::system::uname;

/// Files that are told whole; they are short.
const FILES: [&str; 12] = [
    "/etc/os-release",
    "/proc/version",
    "/sys/kernel/security/lockdown",
    "/sys/kernel/security/lsm",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/proc/sys/net/core/bpf_jit_enable",
    "/proc/sys/net/core/bpf_jit_harden",
    "/proc/sys/net/core/optmem_max",
    "/proc/sys/net/core/somaxconn",
    "/proc/sys/net/ipv4/ip_local_port_range",
    "/proc/sys/net/ipv6/conf/all/disable_ipv6",
    "/sys/devices/system/cpu/possible",
];
/// Most bytes of one of them.
const MOST: usize = 4096;
/// Beginnings of the kernel's options that matter.
const OPTIONS: [&str; 6] = [
    "CONFIG_BPF",
    "CONFIG_CGROUP",
    "CONFIG_DEBUG_INFO_BTF",
    "CONFIG_INET_DIAG",
    "CONFIG_SOCK_CGROUP",
    "CONFIG_FTRACE",
];

/// All of it, as text.
pub(super) fn facts() -> String {
    let kernel = uname();
    let release = kernel.release().to_string_lossy().into_owned();
    let mut out = format!(
        "kernel {release} {} {}\n",
        kernel.version().to_string_lossy(),
        kernel.machine().to_string_lossy()
    );
    for path in FILES {
        out += &format!("\n{path}\n{}\n", short(Path::new(path)));
    }
    let btf = fs::metadata("/sys/kernel/btf/vmlinux").map(|file| file.len());
    out += &format!("\n/sys/kernel/btf/vmlinux\n{btf:?}\n");
    out += &format!(
        "\nmemory\n{}\n",
        lines("/proc/meminfo", |line| {
            ["MemTotal", "MemAvailable", "Percpu"]
                .iter()
                .any(|name| line.starts_with(name))
        })
    );
    out += &format!(
        "\nmounts of cgroups and BPF\n{}\n",
        lines("/proc/self/mountinfo", |line| {
            line.contains(" - cgroup") || line.contains(" - bpf ")
        })
    );
    out += &format!("\noptions of the kernel\n{}\n", options(&release));
    out
}

fn short(path: &Path) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text
            .chars()
            .take(MOST)
            .collect::<String>()
            .trim_end()
            .to_owned(),
        Err(error) => format!("({error})"),
    }
}

fn lines(path: &str, wanted: impl Fn(&str) -> bool) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let found: Vec<&str> = text.lines().filter(|line| wanted(line)).collect();
    found.join("\n")
}

fn options(release: &str) -> String {
    let mut text = String::new();
    let packed = File::open("/proc/config.gz");
    let read = packed.and_then(|file| GzDecoder::new(file).read_to_string(&mut text));
    if read.is_err() {
        text = fs::read_to_string(format!("/boot/config-{release}")).unwrap_or_default();
    }
    let wanted = |line: &&str| OPTIONS.iter().any(|option| line.starts_with(option));
    let found: Vec<&str> = text.lines().filter(wanted).collect();
    match found.as_slice() {
        [] => "(neither /proc/config.gz nor a file in /boot tells)".into(),
        found => found.join("\n"),
    }
}
