//! Checks that ask the bpf system call.

use aya::maps::MapType;
use aya::programs::{ProgramType, loaded_programs};
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};

use super::checks::info;
use super::{Check, Outcome};
use crate::dataplane::can_abort;

/// Whether the kernel has something, or why that cannot be told.
type Answer = Result<bool, String>;

/// What can be asked.
pub(super) trait Probe {
    fn program(&self, kind: ProgramType) -> Answer;
    fn map(&self, kind: MapType) -> Answer;
    fn helper(&self, kind: ProgramType, helper: BpfHelper) -> Answer;
    /// Whether established flows can be cut.
    fn cuts_flows(&self) -> Answer;
    /// Names of loaded programs of the types that can sit at the mesh's hooks.
    fn cgroup_programs(&self) -> Result<Vec<String>, String>;
}

/// The running kernel.
pub(super) struct Kernel;

impl Probe for Kernel {
    fn program(&self, kind: ProgramType) -> Answer {
        is_program_supported(kind).map_err(|error| chain(&error))
    }

    fn map(&self, kind: MapType) -> Answer {
        is_map_supported(kind).map_err(|error| chain(&error))
    }

    fn helper(&self, kind: ProgramType, helper: BpfHelper) -> Answer {
        is_helper_supported(kind, helper).map_err(|error| chain(&error))
    }

    fn cuts_flows(&self) -> Answer {
        can_abort().map_err(|error| error.to_string())
    }

    fn cgroup_programs(&self) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        for program in loaded_programs() {
            let program = program.map_err(|error| chain(&error))?;
            if HOOK_TYPES.contains(&(program.program_type() as u32)) {
                names.push(program.name_as_str().unwrap_or("?").to_owned());
            }
        }
        Ok(names)
    }
}

/// Program types the mesh loads.
pub(super) fn programs(kernel: &impl Probe) -> Check {
    let answers = PROGRAMS.map(|(name, kind)| (name, kernel.program(kind)));
    verdict(
        "BPF program types",
        &answers,
        "each kind of hook needs its own",
        "the kernel needs CONFIG_CGROUP_BPF and CONFIG_BPF_EVENTS",
    )
}

/// Map types the mesh uses.
pub(super) fn maps(kernel: &impl Probe) -> Check {
    let answers = MAPS.map(|(name, kind)| (name, kernel.map(kind)));
    verdict(
        "BPF map types",
        &answers,
        "policy, sockets' state and counters live in them",
        "use a newer kernel: 6.1 has all of them",
    )
}

/// Helpers the mesh calls.
pub(super) fn helpers(kernel: &impl Probe) -> Check {
    let answers = HELPERS.map(|(name, kind, helper)| (name, kernel.helper(kind, helper)));
    verdict(
        "BPF helpers",
        &answers,
        "the programs call them",
        "use a newer kernel: 6.1 has all of them",
    )
}

/// Whether flows can be cut that a later policy does not allow.
pub(super) fn flows(kernel: &impl Probe) -> Check {
    let (outcome, found, advice) = match kernel.cuts_flows() {
        Ok(true) => (Outcome::Ok, "can be cut".into(), None),
        Ok(false) => (
            Outcome::Warning,
            "cannot be cut".into(),
            Some("use a kernel with CONFIG_INET_DIAG_DESTROY and CONFIG_INET_UDP_DIAG"),
        ),
        Err(error) => (
            Outcome::Warning,
            format!("cannot tell: {error}"),
            Some("run as root: sudo mesh-agent doctor"),
        ),
    };
    Check {
        check: "established flows",
        outcome,
        found,
        why: "those that a new policy denies are aborted; without it they go on until they end",
        advice: advice.map(Into::into),
    }
}

/// Who else is at the hooks.
pub(super) fn others(kernel: &impl Probe) -> Check {
    let found = match kernel.cgroup_programs() {
        Ok(names) if names.is_empty() => "none".into(),
        Ok(names) => format!("{}: {}", names.len(), summary(&names)),
        Err(error) => format!("cannot tell: {error}"),
    };
    info(
        "other cgroup programs",
        found,
        "they run at the same hooks; any of them can refuse a call too",
    )
}

fn verdict<const N: usize>(
    check: &'static str,
    answers: &[(&'static str, Answer); N],
    why: &'static str,
    advice: &str,
) -> Check {
    let with = |wanted: fn(&Answer) -> bool| {
        let answers = answers.iter().filter(|(_, answer)| wanted(answer));
        answers.map(|(name, _)| *name).collect::<Vec<_>>()
    };
    let missing = with(|answer| *answer == Ok(false));
    let failed = answers.iter().find_map(|(_, answer)| answer.as_ref().err());
    let (outcome, found, advice) = match (missing.as_slice(), failed) {
        ([], None) => (Outcome::Ok, with(|_| true).join(" "), None),
        ([], Some(error)) => (
            Outcome::Failed,
            format!("cannot tell: {error}"),
            Some("run as root; in a container, allow the bpf system call".into()),
        ),
        (missing, _) => (
            Outcome::Failed,
            format!("missing: {}", missing.join(" ")),
            Some(advice.into()),
        ),
    };
    Check {
        check,
        outcome,
        found,
        why,
        advice,
    }
}

/// Each name once, with how often.
fn summary(names: &[String]) -> String {
    let mut counts = std::collections::BTreeMap::<_, usize>::new();
    for name in names {
        *counts.entry(name.as_str()).or_default() += 1;
    }
    let parts: Vec<_> = counts
        .iter()
        .map(|(name, count)| match count {
            1 => (*name).to_owned(),
            _ => format!("{name} x{count}"),
        })
        .collect();
    parts.join(", ")
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

const PROGRAMS: [(&str, ProgramType); 4] = [
    ("cgroup_sock_addr", ProgramType::CgroupSockAddr),
    ("cgroup_sock", ProgramType::CgroupSock),
    ("sock_ops", ProgramType::SockOps),
    ("tracepoint", ProgramType::TracePoint),
];

const MAPS: [(&str, MapType); 8] = [
    ("hash", MapType::Hash),
    ("array", MapType::Array),
    ("percpu_hash", MapType::PerCpuHash),
    ("percpu_array", MapType::PerCpuArray),
    ("lpm_trie", MapType::LpmTrie),
    ("array_of_maps", MapType::ArrayOfMaps),
    ("sk_storage", MapType::SkStorage),
    ("ringbuf", MapType::RingBuf),
];

const HELPERS: [(&str, ProgramType, BpfHelper); 7] = [
    (
        "get_current_cgroup_id",
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_get_current_cgroup_id,
    ),
    (
        "get_current_ancestor_cgroup_id",
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_get_current_ancestor_cgroup_id,
    ),
    (
        "get_netns_cookie",
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_get_netns_cookie,
    ),
    (
        "sk_storage_get",
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_sk_storage_get,
    ),
    (
        "ringbuf_output",
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_ringbuf_output,
    ),
    (
        "sk_storage_get (sock_ops)",
        ProgramType::SockOps,
        BpfHelper::BPF_FUNC_sk_storage_get,
    ),
    (
        "loop (tracepoint)",
        ProgramType::TracePoint,
        BpfHelper::BPF_FUNC_loop,
    ),
];

/// `BPF_PROG_TYPE_` CGROUP_SKB, CGROUP_SOCK, SOCK_OPS and CGROUP_SOCK_ADDR.
const HOOK_TYPES: [u32; 4] = [8, 9, 13, 18];
