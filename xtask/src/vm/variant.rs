//! The machines the tests are run on, and which tests.

use super::hardware::{AMD64, ARM64, Hardware};

/// A kernel and what is special about its machine.
pub(super) struct Variant {
    pub(super) name: &'static str,
    pub(super) hardware: &'static Hardware,
    pub(super) kernel: Series,
    /// What the kernel is told besides.
    pub(super) command_line: &'static str,
    /// Whether the guest hides the kernel's type information, as on kernels built without.
    pub(super) hide_btf: bool,
    pub(super) root: Root,
    /// Tests that `--quick` runs, or suites.
    pub(super) quick: &'static [&'static str],
    /// Whether `--quick` reboots it.
    pub(super) reboots: bool,
    /// For which reasons a test may be skipped here that must run elsewhere.
    pub(super) skips: &'static [&'static str],
}

/// What a machine has for a root.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    /// Memory, with the tests and what they need. The first process is ours.
    Memory,
    /// The same on a disk, where there is not so much memory.
    Disk,
    /// A release of Debian, installed on a disk. The first process is systemd.
    Debian(&'static str),
}

/// A series of Debian's kernels, by the package that always depends on the latest.
#[derive(Clone, Copy)]
pub(super) struct Series {
    /// That package.
    pub(super) package: &'static str,
    /// How the names of those it depends on begin.
    pub(super) prefix: &'static str,
}

const LINUX_6_1: Series = Series {
    package: "linux-image-amd64",
    prefix: "linux-image-6.1.",
};
const LINUX_6_12: Series = Series {
    package: "linux-image-6.12-amd64",
    prefix: "linux-image-6.12.",
};

/// Prometheus stays outside: what it scrapes does not depend on the kernel.
const NO_PROMETHEUS: &str = "(Debian package prometheus)";
/// The framing of requests is tested with programs of our own.
const NO_NGINX: &str = "needs nginx and wrk";

pub(super) const VARIANTS: &[Variant] = &[
    Variant {
        name: "6.1",
        hardware: &AMD64,
        kernel: LINUX_6_1,
        command_line: "",
        hide_btf: false,
        root: Root::Memory,
        quick: QUICK,
        reboots: false,
        skips: &[NO_PROMETHEUS, NO_NGINX],
    },
    Variant {
        name: "6.12",
        hardware: &AMD64,
        kernel: LINUX_6_12,
        command_line: "",
        hide_btf: false,
        root: Root::Memory,
        quick: QUICK,
        reboots: true,
        skips: &[NO_PROMETHEUS, NO_NGINX],
    },
    Variant {
        name: "6.1-no-ipv6",
        hardware: &AMD64,
        kernel: LINUX_6_1,
        command_line: "ipv6.disable=1",
        hide_btf: false,
        root: Root::Memory,
        quick: QUICK_OTHERWISE,
        reboots: false,
        skips: &[NO_PROMETHEUS, NO_NGINX, "needs IPv6"],
    },
    Variant {
        name: "6.12-no-btf",
        hardware: &AMD64,
        kernel: LINUX_6_12,
        command_line: "",
        hide_btf: true,
        root: Root::Memory,
        quick: QUICK_OTHERWISE,
        reboots: false,
        skips: &[NO_PROMETHEUS, NO_NGINX],
    },
];

/// Machines with systemd, for `--systemd`.
pub(super) const SYSTEMD: &[Variant] = &[
    Variant {
        name: "bookworm",
        hardware: &AMD64,
        kernel: LINUX_6_1,
        command_line: WITH_SYSTEMD,
        hide_btf: false,
        root: Root::Debian("bookworm"),
        quick: QUICK,
        reboots: true,
        skips: &[],
    },
    Variant {
        name: "trixie",
        hardware: &AMD64,
        kernel: LINUX_6_12,
        command_line: WITH_SYSTEMD,
        hide_btf: false,
        root: Root::Debian("trixie"),
        quick: QUICK,
        reboots: true,
        skips: &[],
    },
];

/// Small computers of another kind, for `--arm64`.
pub(super) const ON_ARM64: &[Variant] = &[
    Variant {
        name: "6.1-arm64",
        hardware: &ARM64,
        kernel: Series {
            package: "linux-image-arm64",
            prefix: LINUX_6_1.prefix,
        },
        command_line: "",
        hide_btf: false,
        root: Root::Disk,
        quick: QUICK,
        reboots: false,
        skips: &[NO_PROMETHEUS, NO_NGINX],
    },
    Variant {
        name: "6.12-arm64",
        hardware: &ARM64,
        kernel: Series {
            package: "linux-image-6.12-arm64",
            prefix: LINUX_6_12.prefix,
        },
        command_line: "",
        hide_btf: false,
        root: Root::Disk,
        quick: QUICK,
        reboots: false,
        skips: &[NO_PROMETHEUS, NO_NGINX],
    },
];

/// Nobody logs in, and the tests know where they are.
const WITH_SYSTEMD: &str = "systemd.getty_auto=no mesh.guest";

impl Variant {
    /// Whether a suite runs in it, apart from the one that runs in two boots.
    pub(super) fn runs(&self, suite: &str) -> bool {
        let suits = NEED_SYSTEMD.contains(&suite) == self.has_systemd();
        suits && !OVER_A_REBOOT.contains(&suite)
    }

    /// The suite that runs in two boots of one machine, apart from the others.
    pub(super) fn over_a_reboot(&self) -> &'static str {
        OVER_A_REBOOT[usize::from(self.has_systemd())]
    }

    /// Whether its first process is systemd.
    pub(super) fn has_systemd(&self) -> bool {
        matches!(self.root, Root::Debian(_))
    }
}

/// Suites that run where systemd is, and only there.
pub(super) const NEED_SYSTEMD: [&str; 3] = ["boot", "package", "units"];

/// Suites that run in two boots of one machine: without systemd, and with it.
const OVER_A_REBOOT: [&str; 2] = ["reboot", "boot"];

/// Suites that make no sense in a guest, and why.
pub(super) const EXCLUDED: &[(&str, &str)] = &[
    (
        "demo",
        "runs a program from the build directory, which the guest does not have",
    ),
    ("dashboards", "is about Prometheus"),
    ("page", "is about a browser"),
    ("top", "is about a terminal"),
    ("grpc", "calls nginx and gRPC's own library"),
];

/// What `--quick` runs: every program loads, and each of the kernel's parts does its work once.
/// An entry is a suite, or a test of one.
const QUICK: &[&str] = &[
    "load",
    "whole",
    "attribution::a_socket_calls_with_the_lesser_right_of_maker_and_user",
    "attribution::cgroups_that_are_made_while_the_agent_runs",
    "inbound::a_service_in_a_container_is_guarded_as_well",
    "life::at_boot_the_policy_is_there_before_the_agent",
    "life::an_upgrade_swaps_the_programs_of_the_same_links",
    "live::what_a_new_rule_denies_is_cut_at_both_ends_and_recorded",
    "metrics::udp_flows_and_datagrams_are_counted",
    "ports::only_the_workload_takes_its_port",
    "replies::a_datagram_comes_from_the_vip_it_was_sent_to",
    "sockets::services_get_tcp_and_udp_only",
    "split::every_share_is_exact_over_a_period",
    "tunnel::a_call_reaches_the_other_node_and_a_denied_one_does_not_leave",
    "verdicts::every_system_call_that_connects",
    "verdicts::rules_decide_by_caller_target_and_port",
];
/// The same for a kernel that another variant has, in another mood. The verifier of 6.1 takes half
/// a minute of each test.
const QUICK_OTHERWISE: &[&str] = &[
    "load",
    "whole",
    "inbound::a_service_in_a_container_is_guarded_as_well",
    "metrics::udp_flows_and_datagrams_are_counted",
    "tunnel::a_call_reaches_the_other_node_and_a_denied_one_does_not_leave",
    "verdicts::every_system_call_that_connects",
    "verdicts::rules_decide_by_caller_target_and_port",
];

/// Whether `entry`, a suite or a test, covers the test `name`.
pub(super) fn covers(entry: &str, name: &str) -> bool {
    let rest = name.strip_prefix(entry);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_covers_a_suite_or_a_test() {
        assert!(covers("load", "load::every"));
        assert!(covers("load::every", "load::every"));
        assert!(!covers("load", "loads::every"));
        assert!(!covers("load::every", "load::every_program"));
    }
}
