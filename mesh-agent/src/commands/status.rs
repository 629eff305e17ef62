//! `mesh-agent status`: asks the agent on this host, says what is wrong first.

use std::path::Path;
use std::time::{Duration, SystemTime};

use hyper::{Method, StatusCode};
use mesh_common::Reason;

use super::output::{Output, Style, Tone, clean, print, table};
use crate::admin;
use crate::telemetry::denials::DenialView;
use crate::telemetry::snapshot::CanaryState;
use crate::telemetry::status::{
    Document, HealthView, LeavingView, LiveView, MapView, MemoryView, PolicyView, ProgramView,
    SCHEMA_VERSION, SandboxView, Status,
};
use crate::telemetry::time::{rough, unix_seconds, utc};
use crate::telemetry::tunnel::{CertificateView, TunnelView};

/// Arguments of the command.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// What to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// The mesh does what its files say.
pub const HEALTHY: u8 = 0;
/// The agent cannot be reached.
pub const UNREACHABLE: u8 = 4;
/// Something is wrong.
pub const DEGRADED: u8 = 5;

/// Asks the agent whose socket is in `run_dir`, prints, and returns the exit code.
pub fn run(run_dir: &Path, args: &Args) -> u8 {
    let (body, document) = match ask(run_dir) {
        Ok(answer) => answer,
        Err(reason) => {
            eprintln!("{reason}");
            return UNREACHABLE;
        }
    };
    match args.output {
        Output::Json => print(&body),
        Output::Table => {
            let now = unix_seconds(SystemTime::now());
            print(&render(&document, now, Style::of_stdout()));
        }
    }
    if document.problems.is_empty() {
        HEALTHY
    } else {
        DEGRADED
    }
}

fn ask(run_dir: &Path) -> Result<(String, Document), String> {
    let answer = admin::request(run_dir, Method::GET, "/status").map_err(|e| e.to_string())?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    if answer.status != StatusCode::OK {
        return Err(format!(
            "the agent answers {}: {}",
            answer.status,
            body.trim_end()
        ));
    }
    let document = serde_json::from_str(&body).map_err(|error| {
        format!(
            "the agent's status is in a form this command does not know (it knows schema_version {SCHEMA_VERSION}): {error}; use the mesh-agent binary that is running"
        )
    })?;
    Ok((body, document))
}

/// The status as people read it.
pub fn render(document: &Document, now: f64, style: Style) -> String {
    let Document { status, problems } = document;
    let mut out = headline(status, problems, style);
    out.push('\n');
    out.push_str(&table(&facts(status, now)));
    section(
        &mut out,
        "certificates",
        certificates(&status.tunnel.certificates, now),
    );
    section(&mut out, "programs", programs(&status.programs));
    section(&mut out, "BPF maps", maps(&status.maps));
    section(
        &mut out,
        "lost or given up since the maps were made",
        losses(status),
    );
    section(
        &mut out,
        "flows to endpoints that get no new ones",
        leaving(&status.live),
    );
    section(&mut out, "latest denials", denials(&status.denials, now));
    out
}

fn headline(status: &Status, problems: &[String], style: Style) -> String {
    if problems.is_empty() {
        let programs = status.programs.len();
        let text = format!("OK: policy enforced by {programs} programs");
        return style.paint(Tone::Good, &text) + "\n";
    }
    let mut out = String::new();
    for problem in problems {
        out.push_str(&style.paint(Tone::Bad, &clean(problem)));
        out.push('\n');
    }
    if let Some(rejected) = &status.rejected {
        let when = utc(rejected.rejected_unix_seconds);
        out.push_str(&format!("\nrejected {when}:\n"));
        for line in rejected.diagnostics.lines() {
            out.push_str(&format!("  {}\n", clean(line)));
        }
    }
    out
}

fn facts(status: &Status, now: f64) -> Vec<[String; 2]> {
    let up = rough(Duration::from_secs(status.uptime_seconds));
    let mut facts = vec![
        [
            "node".into(),
            format!(
                "{} (trust domain {})",
                clean(&status.node),
                clean(&status.trust_domain)
            ),
        ],
        [
            "agent".into(),
            format!("{}, pid {}, up {up}", clean(&status.version), status.pid),
        ],
        ["cgroup".into(), clean(&status.cgroup_root)],
    ];
    if let Some(policy) = &status.policy {
        facts.extend(policy_facts(policy, now));
    }
    facts.push(["memory".into(), memory(&status.memory)]);
    facts.push(["canary".into(), canary(&status.health, now)]);
    if let Some(sandbox) = &status.sandbox {
        facts.push(["confined".into(), confined(sandbox)]);
    }
    if !status.tunnel.certificates.is_empty() {
        facts.push(["other nodes".into(), other_nodes(&status.tunnel)]);
    }
    facts
}

/// Which layers hold.
fn confined(sandbox: &SandboxView) -> String {
    let capabilities: Vec<_> = sandbox
        .capabilities
        .iter()
        .map(|name| clean(name))
        .collect();
    let calls = match sandbox.system_calls {
        true => "system calls filtered",
        false => "system calls NOT FILTERED",
    };
    let files = match sandbox.landlock {
        Some(version) => format!("files by Landlock {version}"),
        None => "files not: this kernel has no Landlock".to_owned(),
    };
    format!("{}; {calls}; {files}", capabilities.join(" "))
}

/// How the last call that must be refused went, and what was put back last.
fn canary(health: &HealthView, now: f64) -> String {
    let mut text = match health.canary {
        CanaryState::Refused => "refused, as it must be".to_owned(),
        CanaryState::Failed => "NOT REFUSED".to_owned(),
        CanaryState::NotApplicable => "none: the agent is outside of cgroup_root".to_owned(),
    };
    if let Some(repair) = &health.last_repair {
        let ago = rough(Duration::from_secs_f64(
            (now - repair.unix_seconds).max(0.0),
        ));
        text += &format!("; {} ago put back: {}", ago, clean(&repair.what));
    }
    text
}

fn other_nodes(tunnel: &TunnelView) -> String {
    let (hits, misses) = (tunnel.pool.hits, tunnel.pool.misses);
    let ready = match hits + misses {
        0 => "no call yet".to_owned(),
        calls => format!("{} of {calls} calls found a connection ready", hits),
    };
    let (outbound, inbound) = (tunnel.outbound_flows, tunnel.inbound_flows);
    format!(
        "flows {outbound} out, {inbound} in; {ready}, {} are",
        tunnel.pool.idle
    )
}

fn certificates(certificates: &[CertificateView], now: f64) -> Vec<[String; 3]> {
    let row = |certificate: &CertificateView| {
        let left = certificate.not_after_unix_seconds - now;
        let end = match Duration::try_from_secs_f64(left) {
            Ok(left) => format!("in {}", rough(left)),
            Err(_past) => "ENDED".to_owned(),
        };
        [clean(&certificate.kind), clean(&certificate.name), end]
    };
    with_head(["KIND", "NAME", "ENDS"], certificates.iter().map(row))
}

fn policy_facts(policy: &PolicyView, now: f64) -> [[String; 2]; 3] {
    let files: Vec<_> = policy.files.iter().map(|file| clean(file)).collect();
    [
        [
            "policy".into(),
            format!(
                "revision {}, default {}, services {}, rules {}, splits {}",
                policy.revision,
                clean(&policy.default),
                policy.services,
                policy.rules,
                policy.splits
            ),
        ],
        [
            "applied".into(),
            format!(
                "{} ({}), took {:.1} ms, digest {}",
                utc(policy.applied_unix_seconds),
                ago(policy.applied_unix_seconds, now),
                policy.apply_seconds * 1000.0,
                clean(&policy.digest)
            ),
        ],
        ["files".into(), files.join(" ")],
    ]
}

fn memory(memory: &MemoryView) -> String {
    let limit = match memory.limit_bytes {
        Some(limit) => format!(", limit {}", size(limit)),
        None => String::new(),
    };
    let (agent, maps) = (size(memory.agent_bytes), size(memory.maps_bytes));
    let heap = memory
        .heap_bytes
        .map(|heap| format!(" (heap {})", size(heap)));
    let heap = heap.unwrap_or_default();
    let uses = memory.uses.iter();
    let uses: Vec<String> = uses
        .map(|part| format!("{} {}", clean(&part.r#use), size(part.bytes)))
        .collect();
    let uses = match uses.as_slice() {
        [] => String::new(),
        uses => format!(" ({})", uses.join(", ")),
    };
    let policy = match memory.policy_limit_bytes {
        0 => String::new(),
        most => format!(
            "; {} of {} set aside for the policy",
            size(memory.policy_bytes),
            size(most)
        ),
    };
    let usher = match memory.usher_bytes {
        0 => String::new(),
        bytes => format!(", usher {}", size(bytes)),
    };
    format!("agent {agent}{heap}{usher}, BPF maps {maps}{uses}{limit}{policy}")
}

fn programs(programs: &[ProgramView]) -> Vec<[String; 3]> {
    let row = |program: &ProgramView| {
        let state = if program.effective {
            "effective"
        } else {
            "NOT EFFECTIVE"
        };
        [clean(&program.hook), clean(&program.program), state.into()]
    };
    with_head(["HOOK", "PROGRAM", "STATE"], programs.iter().map(row))
}

fn maps(maps: &[MapView]) -> Vec<[String; 4]> {
    let row = |map: &MapView| {
        let percent = (map.entries * 100).checked_div(map.capacity).unwrap_or(0);
        [
            clean(&map.map),
            format!("{} of {}", map.entries, map.capacity),
            format!("{percent}%"),
            size(map.memory_bytes),
        ]
    };
    with_head(["MAP", "ENTRIES", "FILL", "MEMORY"], maps.iter().map(row))
}

fn losses(status: &Status) -> Vec<[String; 2]> {
    let happened = status.losses.happened().into_iter();
    happened
        .map(|(what, count)| [count.to_string(), what.into()])
        .collect()
}

fn leaving(live: &LiveView) -> Vec<[String; 4]> {
    let row = |leaving: &LeavingView| {
        [
            clean(&leaving.service),
            clean(&leaving.version),
            leaving.remaining.to_string(),
            leaving.closed.to_string(),
        ]
    };
    let rows = live.leaving.iter().map(row);
    with_head(["SERVICE", "VERSION", "LEFT", "CLOSED"], rows)
}

fn denials(denials: &[DenialView], now: f64) -> Vec<[String; 7]> {
    let row = |denial: &DenialView| {
        [
            ago(denial.time_unix_seconds, now),
            denial.count.to_string(),
            clean(&denial.verdict),
            clean(&denial.source_service),
            called(denial),
            cause(denial),
            sender(denial),
        ]
    };
    with_head(
        [
            "LAST", "TIMES", "VERDICT", "FROM", "TO", "BECAUSE", "PROCESS",
        ],
        denials.iter().map(row),
    )
}

/// The process, or where a packet came from; for a flow that was cut only its socket's cgroup and
/// user are known.
fn sender(denial: &DenialView) -> String {
    let DenialView { pid, uid, .. } = denial;
    match (&denial.peer, &denial.cgroup) {
        (Some(peer), _) => format!("packet from {}", clean(peer)),
        (None, Some(cgroup)) if *pid == 0 => format!("{} uid {uid}", clean(cgroup)),
        (None, _) => format!("{}[{pid}] uid {uid}", clean(&denial.comm)),
    }
}

fn called(denial: &DenialView) -> String {
    let dialled = format!("{}/{}", clean(&denial.dialled), clean(&denial.protocol));
    match denial.destination_service.as_str() {
        "" | "-" => dialled,
        service => format!("{} ({dialled})", clean(service)),
    }
}

/// The rule and where it is, or the reason that is not policy.
fn cause(denial: &DenialView) -> String {
    let name = match denial.rule.as_str() {
        "" | "-" => &denial.reason,
        rule => rule,
    };
    let mut cause = clean(name);
    if let Some(file) = &denial.file {
        cause.push_str(&format!(" {}", clean(file)));
        if let Some(line) = denial.line {
            cause.push_str(&format!(":{line}"));
        }
    }
    if denial.reason == Reason::LateDenial.name() && *name != denial.reason {
        cause.push_str(" (late)");
    }
    if let Some(detail) = &denial.detail {
        cause.push_str(&format!(": {}", clean(detail)));
    }
    cause
}

/// Rows under a head; nothing at all without rows.
fn with_head<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Vec<[String; N]> {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return rows;
    }
    std::iter::once(head.map(String::from))
        .chain(rows)
        .collect()
}

fn section<const N: usize>(out: &mut String, title: &str, rows: Vec<[String; N]>) {
    if rows.is_empty() {
        return;
    }
    out.push_str(&format!("\n{title}\n"));
    for line in table(&rows).lines() {
        out.push_str(&format!("  {line}\n"));
    }
}

fn ago(then: f64, now: f64) -> String {
    let age = Duration::try_from_secs_f64(now - then).unwrap_or_default();
    format!("{} ago", rough(age))
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests;
