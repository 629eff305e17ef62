//! Hosts made of files, kernels made of answers.

use std::fs;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::BpfHelper;
use tempfile::TempDir;

use super::probe::Probe;
use super::*;

/// A kernel that has everything but what is named.
#[derive(Default)]
struct Fake {
    no_program: Option<ProgramType>,
    no_map: Option<MapType>,
    no_cuts: bool,
    refuses: bool,
}

impl Fake {
    fn answer(&self, has: bool) -> Result<bool, String> {
        if self.refuses {
            return Err("bpf_prog_load: Operation not permitted".into());
        }
        Ok(has)
    }
}

impl Probe for Fake {
    fn program(&self, kind: ProgramType) -> Result<bool, String> {
        self.answer(self.no_program != Some(kind))
    }

    fn map(&self, kind: MapType) -> Result<bool, String> {
        self.answer(self.no_map != Some(kind))
    }

    fn helper(&self, _: ProgramType, _: BpfHelper) -> Result<bool, String> {
        self.answer(true)
    }

    fn cuts_flows(&self) -> Result<bool, String> {
        self.answer(!self.no_cuts)
    }

    fn cgroup_programs(&self) -> Result<Vec<String>, String> {
        Ok(["sd_devices", "sd_devices", "other"]
            .map(String::from)
            .into())
    }
}

const GOOD: [(&str, &str); 9] = [
    ("proc/sys/kernel/osrelease", "6.12.9-amd64\n"),
    ("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n"),
    (
        "proc/self/mountinfo",
        "30 1 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
         31 1 0:3 / /sys/fs/bpf rw - bpf bpf rw\n\
         32 1 0:4 / /sys/kernel/tracing rw - tracefs tracefs rw\n",
    ),
    ("proc/filesystems", "nodev\tbpf\nnodev\ttracefs\n\text4\n"),
    ("sys/kernel/tracing/events/cgroup/cgroup_mkdir/id", "1\n"),
    ("proc/sys/net/core/bpf_jit_enable", "1\n"),
    ("proc/sys/net/core/optmem_max", "131072\n"),
    (
        "sys/kernel/security/lockdown",
        "none [integrity] confidentiality\n",
    ),
    ("proc/net/if_inet6", ""),
];

/// A good host, with some files changed (`None`: removed).
fn host(changes: &[(&str, Option<&str>)]) -> (TempDir, Host) {
    let directory = tempfile::tempdir().expect("directory");
    let files = GOOD.iter().map(|(path, text)| (*path, Some(*text)));
    for (path, text) in files.chain(changes.iter().copied()) {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        match text {
            Some(text) => fs::write(path, text).expect("write"),
            None => fs::remove_file(path).expect("remove"),
        }
    }
    let host = Host::at(directory.path());
    (directory, host)
}

fn check(changes: &[(&str, Option<&str>)], name: &str, outcome: Outcome, found: &str) {
    let (_directory, host) = host(changes);
    check_report(
        &examine(&host, &Fake::default(), &Paths::default()),
        name,
        outcome,
        found,
    );
}

fn check_report(report: &Report, name: &str, outcome: Outcome, found: &str) {
    let check = report.checks.iter().find(|check| check.check == name);
    let check = check.expect("a check of that name");
    assert_eq!(
        (check.outcome, check.found.as_str()),
        (outcome, found),
        "{name}"
    );
    let to_do = matches!(outcome, Outcome::Warning | Outcome::Failed);
    assert_eq!(check.advice.is_some(), to_do, "{name}: advice");
    assert_eq!(
        report.ok,
        report.checks.iter().all(|c| c.outcome != Outcome::Failed)
    );
}

#[test]
fn files_decide() {
    use Outcome::{Failed, Info, Ok, Warning};
    const MOUNTS: &str = "proc/self/mountinfo";
    const CGROUP2: &str = "30 1 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    check(&[], "kernel", Ok, "6.12.9-amd64");
    check(
        &[("proc/sys/kernel/osrelease", Some("5.15.0\n"))],
        "kernel",
        Warning,
        "5.15.0",
    );
    check(
        &[("proc/sys/kernel/osrelease", Some("6.1\n"))],
        "kernel",
        Ok,
        "6.1",
    );

    let status = "proc/self/status";
    check(
        &[],
        "capabilities",
        Ok,
        "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON",
    );
    // CAP_SYS_ADMIN and CAP_NET_ADMIN, as on kernels without CAP_BPF.
    check(
        &[(status, Some("CapEff:\t0000000000201000\n"))],
        "capabilities",
        Ok,
        "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON",
    );
    check(
        &[(status, Some("CapEff:\t0000000000000000\n"))],
        "capabilities",
        Failed,
        "missing: CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN",
    );

    check(&[], "cgroup2", Ok, "/sys/fs/cgroup");
    check(&[(MOUNTS, Some(""))], "cgroup2", Failed, "not mounted");
    check(
        &[(
            MOUNTS,
            Some(
                "29 1 0:9 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                 30 1 0:2 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            ),
        )],
        "cgroup2",
        Ok,
        "/sys/fs/cgroup/unified (hybrid, with cgroup v1)",
    );
    check(
        &[(
            MOUNTS,
            Some("30 1 0:2 /../x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
        )],
        "cgroup2",
        Warning,
        "/sys/fs/cgroup is only /../x of the hierarchy",
    );

    check(&[], "bpffs", Ok, "mounted at /sys/fs/bpf");
    check(
        &[(MOUNTS, Some(CGROUP2)), ("sys/fs/bpf/.keep", Some(""))],
        "bpffs",
        Info,
        "not mounted at /sys/fs/bpf; the agent mounts it",
    );
    check(
        &[(MOUNTS, Some(CGROUP2))],
        "bpffs",
        Failed,
        "not mounted at /sys/fs/bpf and not to be mounted there",
    );
    check(
        &[(MOUNTS, Some("31 1 0:3 / /sys/fs/bpf ro - bpf bpf rw\n"))],
        "bpffs",
        Failed,
        "/sys/fs/bpf is read-only",
    );

    check(&[], "tracefs", Ok, "mounted at /sys/kernel/tracing");
    check(
        &[(MOUNTS, Some(CGROUP2))],
        "tracefs",
        Info,
        "not mounted; the agent mounts it for itself",
    );
    check(
        &[(MOUNTS, Some(CGROUP2)), ("proc/filesystems", Some(""))],
        "tracefs",
        Failed,
        "not mounted and not to be mounted",
    );

    check(&[], "BPF JIT", Ok, "on");
    check(
        &[("proc/sys/net/core/bpf_jit_enable", Some("0\n"))],
        "BPF JIT",
        Warning,
        "off",
    );
    check(
        &[("proc/sys/net/core/bpf_jit_enable", None)],
        "BPF JIT",
        Warning,
        "off",
    );

    let lockdown = "sys/kernel/security/lockdown";
    check(&[], "lockdown", Ok, "integrity");
    check(&[(lockdown, None)], "lockdown", Ok, "none");
    check(
        &[(lockdown, Some("none integrity [confidentiality]\n"))],
        "lockdown",
        Failed,
        "confidentiality",
    );

    let optmem = "proc/sys/net/core/optmem_max";
    check(&[], "net.core.optmem_max", Ok, "131072 bytes");
    check(
        &[(optmem, Some("4096\n"))],
        "net.core.optmem_max",
        Warning,
        "4096 bytes",
    );

    check(&[], "IPv6", Info, "present");
    check(
        &[("proc/net/if_inet6", None)],
        "IPv6",
        Info,
        "absent: there is nothing to guard there",
    );
    check(
        &[],
        "other cgroup programs",
        Info,
        "3: other, sd_devices x2",
    );
}

#[test]
fn a_configured_root_must_be_in_the_hierarchy() {
    let (_directory, host) = host(&[("sys/fs/cgroup/mesh/cgroup.procs", Some(""))]);
    for (root, outcome, found) in [
        (
            "/sys/fs/cgroup/mesh",
            Outcome::Ok,
            "/sys/fs/cgroup/mesh in the hierarchy at /sys/fs/cgroup",
        ),
        (
            "/sys/fs/cgroup/none",
            Outcome::Failed,
            "/sys/fs/cgroup/none is no directory of the hierarchy at /sys/fs/cgroup",
        ),
        (
            "/proc",
            Outcome::Failed,
            "/proc is no directory of the hierarchy at /sys/fs/cgroup",
        ),
    ] {
        let paths = Paths {
            cgroup_root: Some(root.into()),
            ..Paths::default()
        };
        let report = examine(&host, &Fake::default(), &paths);
        check_report(&report, "cgroup2", outcome, found);
    }
}

#[test]
fn the_kernel_decides() {
    let (_directory, host) = host(&[]);
    let examined = |kernel: Fake| examine(&host, &kernel, &Paths::default());
    let report = examined(Fake::default());
    assert!(report.ok);
    check_report(
        &report,
        "BPF program types",
        Outcome::Ok,
        "cgroup_sock_addr cgroup_sock sock_ops tracepoint",
    );
    let report = examined(Fake {
        no_program: Some(ProgramType::SockOps),
        no_map: Some(MapType::RingBuf),
        ..Fake::default()
    });
    assert!(!report.ok);
    check_report(
        &report,
        "BPF program types",
        Outcome::Failed,
        "missing: sock_ops",
    );
    check_report(
        &report,
        "BPF map types",
        Outcome::Failed,
        "missing: ringbuf",
    );
    let report = examined(Fake {
        refuses: true,
        ..Fake::default()
    });
    let found = "cannot tell: bpf_prog_load: Operation not permitted";
    check_report(&report, "BPF helpers", Outcome::Failed, found);
}

#[test]
fn flows_that_cannot_be_cut_are_a_drawback() {
    let (_directory, host) = host(&[]);
    let fakes = [
        (Fake::default(), Outcome::Ok, "can be cut"),
        (
            Fake {
                no_cuts: true,
                ..Fake::default()
            },
            Outcome::Warning,
            "cannot be cut",
        ),
        (
            Fake {
                refuses: true,
                ..Fake::default()
            },
            Outcome::Warning,
            "cannot tell: bpf_prog_load: Operation not permitted",
        ),
    ];
    for (fake, outcome, found) in fakes {
        let report = examine(&host, &fake, &Paths::default());
        check_report(&report, "established flows", outcome, found);
    }
}

#[test]
fn what_failed_is_said_at_the_end() {
    let (_directory, host) = host(&[
        ("proc/sys/net/core/bpf_jit_enable", Some("0")),
        ("proc/self/status", Some("CapEff:\t0\n")),
    ]);
    let report = examine(&host, &Fake::default(), &Paths::default());
    let text = render(&report, Style::Plain);
    for expected in [
        "ok      kernel                 6.12.9-amd64\n",
        "FAILED  capabilities           missing: CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN\n",
        "                               why: loading and attaching BPF programs needs them\n",
        "                               do:  run as root: sudo mesh-agent doctor\n",
        "warn    BPF JIT                off\n",
        "\n\nThis host cannot run the mesh yet: capabilities.\n",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
}

#[test]
fn the_document_is_stable() {
    let (_directory, host) = host(&[]);
    let report = examine(&host, &Fake::default(), &Paths::default());
    let json = serde_json::to_value(&report).expect("json");
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["ok"], true);
    assert_eq!(
        json["checks"][0],
        serde_json::json!({
            "check": "kernel",
            "outcome": "ok",
            "found": "6.12.9-amd64",
            "why": "the mesh is tested on Linux 6.1 and later",
            "advice": null,
        })
    );
}

#[test]
fn this_kernel_answers() {
    let report = examine(&Host::at("/"), &probe::Kernel, &Paths::default());
    println!("{}", render(&report, Style::Plain));
    if Host::at("/").capabilities() & (1 << 39) == 0 {
        println!("skipped: needs CAP_BPF");
        return;
    }
    for name in ["BPF program types", "BPF map types", "BPF helpers"] {
        let check = report.checks.iter().find(|check| check.check == name);
        let check = check.expect("a check of that name");
        assert!(!check.found.starts_with("cannot tell"), "{}", check.found);
    }
}
