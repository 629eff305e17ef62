//! Checks that only read files.

use std::path::Path;

use super::host::Host;
use super::{Check, Outcome};

/// Which kernel.
pub(super) fn kernel(host: &Host) -> Check {
    let release = host.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let old = version(&release).is_none_or(|version| version < TESTED);
    Check {
        check: "kernel",
        outcome: if old { Outcome::Warning } else { Outcome::Ok },
        found: release,
        why: "the mesh is tested on Linux 6.1 and later",
        advice: old
            .then(|| "on an older kernel the checks below decide; 6.1 or later is better".into()),
    }
}

/// Whether this process may do what the agent must do.
pub(super) fn capabilities(host: &Host) -> Check {
    let held = host.capabilities();
    let has = |bit: u32| held & (1 << bit) != 0;
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(_, bit, implied)| !(has(*bit) || *implied && has(SYS_ADMIN)))
        .map(|(name, ..)| *name)
        .collect();
    let fine = missing.is_empty();
    Check {
        check: "capabilities",
        outcome: if fine { Outcome::Ok } else { Outcome::Failed },
        found: match fine {
            true => "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON".into(),
            false => format!("missing: {}", missing.join(", ")),
        },
        why: "loading and attaching BPF programs needs them",
        advice: (!fine).then(|| "run as root: sudo mesh-agent doctor".into()),
    }
}

/// Where the cgroup2 hierarchy is.
pub(super) fn cgroup2(host: &Host, wanted: Option<&Path>) -> Check {
    let mounts = host.mounts();
    let hybrid = mounts.iter().any(|mount| mount.kind == "cgroup");
    let found = mounts.iter().find(|mount| mount.kind == "cgroup2");
    let check = |outcome, found: String, advice: Option<&str>| Check {
        check: "cgroup2",
        outcome,
        found,
        why: "workloads are recognised by cgroup, and programs are attached to its root",
        advice: advice.map(Into::into),
    };
    let Some(mount) = found else {
        let advice = "mount it: mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1";
        return check(Outcome::Failed, "not mounted".into(), Some(advice));
    };
    let point = mount.point.display();
    if let Some(root) = wanted {
        let inside = root.starts_with(&mount.point) && host.exists(root);
        let text = format!("{} in the hierarchy at {point}", root.display());
        return match inside {
            true => check(Outcome::Ok, text, None),
            false => check(
                Outcome::Failed,
                format!(
                    "{} is no directory of the hierarchy at {point}",
                    root.display()
                ),
                Some("correct [paths] cgroup_root, or leave it out"),
            ),
        };
    }
    if mount.root != "/" {
        let text = format!("{point} is only {} of the hierarchy", mount.root);
        let advice = "in a container, use the host's cgroup namespace (--cgroupns=host)";
        return check(Outcome::Warning, text, Some(advice));
    }
    let kind = if hybrid {
        " (hybrid, with cgroup v1)"
    } else {
        ""
    };
    check(Outcome::Ok, format!("{point}{kind}"), None)
}

/// Where pins go.
pub(super) fn bpffs(host: &Host, point: &Path) -> Check {
    let at = point.display();
    let mounted = host.mount_at(point).filter(|mount| mount.kind == "bpf");
    let (outcome, found, advice) = match mounted {
        Some(mount) if mount.read_only => (
            Outcome::Failed,
            format!("{at} is read-only"),
            Some(format!(
                "mount -o remount,rw {at}; under systemd, ReadWritePaths={at}"
            )),
        ),
        Some(_) => (Outcome::Ok, format!("mounted at {at}"), None),
        None if mountable(host, point, "bpf") => (
            Outcome::Info,
            format!("not mounted at {at}; the agent mounts it"),
            None,
        ),
        None => (
            Outcome::Failed,
            format!("not mounted at {at} and not to be mounted there"),
            Some(format!(
                "the kernel needs CONFIG_BPF_SYSCALL and {at} must be a directory"
            )),
        ),
    };
    Check {
        check: "bpffs",
        outcome,
        found,
        why: "programs and maps are pinned there, so that enforcement outlives the agent",
        advice,
    }
}

/// Where tracepoints are found.
pub(super) fn tracefs(host: &Host) -> Check {
    let mounted = host
        .mounts()
        .into_iter()
        .rev()
        .find(|m| m.kind == "tracefs");
    let (outcome, found, advice) = match mounted {
        Some(mount) if host.exists(mount.point.join("events/cgroup/cgroup_mkdir")) => (
            Outcome::Ok,
            format!("mounted at {}", mount.point.display()),
            None,
        ),
        Some(mount) => (
            Outcome::Failed,
            format!("{} has no cgroup tracepoints", mount.point.display()),
            Some("the kernel needs CONFIG_CGROUPS and CONFIG_TRACEPOINTS".into()),
        ),
        None if mountable(host, Path::new(TRACING), "tracefs") => (
            Outcome::Info,
            "not mounted; the agent mounts it for itself".into(),
            None,
        ),
        None => (
            Outcome::Failed,
            "not mounted and not to be mounted".into(),
            Some("the kernel needs CONFIG_FTRACE; not in lockdown=confidentiality".into()),
        ),
    };
    Check {
        check: "tracefs",
        outcome,
        found,
        why: "a new workload is attributed before its first connect by a cgroup tracepoint",
        advice,
    }
}

/// Whether programs are compiled.
pub(super) fn jit(host: &Host) -> Check {
    let value = host.read("/proc/sys/net/core/bpf_jit_enable");
    let on = value.as_deref().is_some_and(|value| value != "0");
    Check {
        check: "BPF JIT",
        outcome: if on { Outcome::Ok } else { Outcome::Warning },
        found: if on { "on" } else { "off" }.into(),
        why: "without it every connect runs an interpreter",
        advice: (!on).then(|| "sysctl -w net.core.bpf_jit_enable=1".into()),
    }
}

/// Whether the kernel keeps root away from what the agent needs.
pub(super) fn lockdown(host: &Host) -> Check {
    let state = host.read("/sys/kernel/security/lockdown");
    let mode = state.as_deref().and_then(|state| {
        let (_, rest) = state.split_once('[')?;
        Some(rest.split_once(']')?.0)
    });
    let closed = mode == Some("confidentiality");
    Check {
        check: "lockdown",
        outcome: if closed { Outcome::Failed } else { Outcome::Ok },
        found: mode.unwrap_or("none").to_owned(),
        why: "confidentiality mode closes tracefs and kernel reads; integrity mode is fine",
        advice: closed.then(|| "boot with lockdown=integrity".into()),
    }
}

/// How much socket storage there is.
pub(super) fn optmem(host: &Host) -> Check {
    let value = host.read("/proc/sys/net/core/optmem_max");
    let bytes = value.and_then(|value| value.parse::<u64>().ok());
    let low = bytes.is_none_or(|bytes| bytes < OPTMEM);
    Check {
        check: "net.core.optmem_max",
        outcome: if low { Outcome::Warning } else { Outcome::Ok },
        found: bytes.map_or("unknown".into(), |bytes| format!("{bytes} bytes")),
        why: "a socket's mesh state is charged to it; calls to protected services fail without",
        advice: low.then(|| format!("sysctl -w net.core.optmem_max={OPTMEM}")),
    }
}

/// Whether there is IPv6.
pub(super) fn ipv6(host: &Host) -> Check {
    let present = host.exists("/proc/net/if_inet6");
    let found = match present {
        true => "present",
        false => "absent: there is nothing to guard there",
    };
    info(
        "IPv6",
        found.into(),
        "programs that dial with IPv6 sockets are covered too",
    )
}

/// Whether workloads can be named by unit.
pub(super) fn systemd(host: &Host) -> Check {
    let running = host.exists("/run/systemd/system");
    let found = match running {
        true => "running",
        false => "not running: name workloads by cgroup or uid",
    };
    info(
        "systemd",
        found.into(),
        "workload = { systemd = \"..\" } needs its cgroups",
    )
}

/// Whether the kernel describes its types.
pub(super) fn btf(host: &Host) -> Check {
    let found = match host.exists("/sys/kernel/btf/vmlinux") {
        true => "present, not needed",
        false => "absent, not needed",
    };
    info(
        "kernel BTF",
        found.into(),
        "the programs use only stable kernel interfaces",
    )
}

/// A check that cannot fail.
pub(super) fn info(check: &'static str, found: String, why: &'static str) -> Check {
    Check {
        check,
        outcome: Outcome::Info,
        found,
        why,
        advice: None,
    }
}

fn mountable(host: &Host, point: &Path, kind: &str) -> bool {
    let may = host.capabilities() & (1 << SYS_ADMIN) != 0;
    may && host.knows(kind) && host.exists(point)
}

/// Major and minor of a release such as `6.1.0-13-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

const TESTED: (u32, u32) = (6, 1);
const SYS_ADMIN: u32 = 21;
/// Names, bits, and whether `CAP_SYS_ADMIN` stands for it.
const CAPABILITIES: [(&str, u32, bool); 3] = [
    ("CAP_BPF", 39, true),
    ("CAP_PERFMON", 38, true),
    ("CAP_NET_ADMIN", 12, false),
];
const TRACING: &str = "/sys/kernel/tracing";
/// The default of older kernels; newer ones give 128 KiB.
const OPTMEM: u64 = 20_480;
