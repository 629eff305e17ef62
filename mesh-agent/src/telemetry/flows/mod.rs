//! Flows as people and programs see them: one record for each beginning, interim report, end,
//! failure and denial.
//!
//! The form is public: the same JSON object in `/api/v1/flows`, `mesh-agent flows -o jsonl` and
//! the access log. Fields are added, never renamed; anything else raises [`SCHEMA_VERSION`].

mod kept;
mod log;
mod query;

use std::borrow::Cow;
use std::sync::Arc;

use mesh_common::Hook;
use serde::{Deserialize, Serialize};

pub use self::log::{CAPACITY, FlowLog};
pub use self::query::{BadQuery, FlowQuery};
use super::denials::DenialView;
use super::flags::ResponseFlags;

/// Version of the form.
pub const SCHEMA_VERSION: u32 = 1;

/// A word of a closed set.
pub type Word = Cow<'static, str>;

/// One event of one flow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowView {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Number of the record, larger than that of every earlier one, also of an earlier agent.
    pub seq: u64,
    /// When it happened, seconds since 1970.
    pub time_unix_seconds: f64,
    /// `open`, `update`, `close`, `failed`, `denied` or `would-deny`.
    pub event: Word,
    /// What the events of one flow have in common: its socket's cookie, hexadecimal. `None` for a
    /// denial: there is no flow.
    pub id: Option<String>,
    /// `tcp`, `udp` or another protocol of a socket that was refused.
    pub protocol: Word,
    /// Which end this agent saw: `source` or `destination`.
    pub reporter: Word,
    /// Who called.
    pub source_service: Arc<str>,
    /// Its SPIFFE id, if it has one.
    pub source_identity: Option<Arc<str>>,
    /// Who was called; `-` outside the mesh.
    pub destination_service: Arc<str>,
    /// Its SPIFFE id, if it has one.
    pub destination_identity: Option<Arc<str>>,
    /// Which version of it; `-` where none was chosen.
    pub destination_version: Arc<str>,
    /// Where the call came from, `address:port`; the address alone where no port is known.
    pub source_address: Option<Arc<str>>,
    /// What was dialled or bound, `address:port`; the kind of a socket that was refused.
    pub dialled: Arc<str>,
    /// Where the call went, `address:port` on the endpoint's node.
    pub endpoint: Option<Arc<str>>,
    /// The endpoint's node, if that is another one.
    pub node: Option<Arc<str>>,
    /// `none` or `mutual_tls`.
    pub connection_security_policy: Word,
    /// `allowed`, `denied` or `would-deny`.
    pub verdict: Word,
    /// Why, such as `policy`.
    pub reason: Word,
    /// The rule that decided, `default`, or `-` where the reason is not policy.
    pub rule: Arc<str>,
    /// File of the rule, if it is in one.
    pub file: Option<Arc<str>>,
    /// Its line there.
    pub line: Option<u32>,
    /// The hook that decided, for a denial.
    pub hook: Option<Word>,
    /// `-`, or why it did not go well, as in metrics; `RESET` for a connection that was
    /// established and did not end in order.
    pub response_flags: Word,
    /// Payload bytes from the client to the server so far.
    pub sent_bytes: u64,
    /// Payload bytes from the server to the client so far.
    pub received_bytes: u64,
    /// Segments that this end sent again so far.
    pub retransmits: u64,
    /// Smoothed round-trip time. `None` where none was measured, and for a call to another node,
    /// which is measured there.
    pub rtt_seconds: Option<f64>,
    /// From `connect` to established; `None` as for `rtt_seconds`.
    pub connect_seconds: Option<f64>,
    /// Since the connection was established; since `connect` for one that failed.
    pub duration_seconds: Option<f64>,
    /// How it ended: `fin` (in order), `reset` (by either end, an abort or a timeout), `refused`
    /// or `unanswered`.
    pub end: Option<Word>,
    /// Which end finished first, of a connection that ended in order: `client`, `server` or `both`.
    #[serde(default)]
    pub ended_by: Option<Word>,
    /// Process of the caller, if that is on this host.
    pub pid: Option<u32>,
    /// Its user.
    pub uid: Option<u32>,
    /// Its name, as it calls itself; known of denials.
    pub comm: Option<Arc<str>>,
    /// Its cgroup, if it is a service's and still exists.
    pub cgroup: Option<Arc<str>>,
    /// What exactly was wrong and what to do, where the reason does not say.
    pub detail: Option<Arc<str>>,
}

/// The answer to a question about flows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowsDocument {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The flows that match, oldest first.
    pub flows: Vec<FlowView>,
    /// How many are remembered, matching or not.
    pub kept: u64,
    /// How many the agent has seen since it started.
    pub seen: u64,
    /// How many it never saw, since the kernel's maps were made: the buffer was full.
    pub lost: u64,
    /// When the oldest that is remembered happened, seconds since 1970.
    pub oldest_unix_seconds: Option<f64>,
    /// The cursor: `after` of the next question.
    pub next: u64,
    /// How many of those behind the cursor were forgotten before they were asked for; only if
    /// there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
    /// Whether the cursor is an earlier agent's, whose last records nobody has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarted: bool,
}

impl FlowView {
    /// A denial as a flow. Who the identities are is for the caller to say.
    pub fn of_denial(denial: &DenialView) -> Self {
        let by_tunnel = denial.hook == Hook::Tunnel.name();
        // Where it came from is known only at its destination.
        let inbound = denial.peer.is_some();
        Self {
            schema_version: SCHEMA_VERSION,
            time_unix_seconds: denial.time_unix_seconds,
            event: denial.verdict.clone().into(),
            protocol: denial.protocol.clone().into(),
            reporter: if inbound { "destination" } else { "source" }.into(),
            source_service: denial.source_service.as_str().into(),
            destination_service: denial.destination_service.as_str().into(),
            destination_version: "-".into(),
            source_address: denial.peer.as_deref().map(Into::into),
            dialled: denial.dialled.as_str().into(),
            connection_security_policy: if by_tunnel { "mutual_tls" } else { "none" }.into(),
            verdict: denial.verdict.clone().into(),
            reason: denial.reason.clone().into(),
            rule: denial.rule.as_str().into(),
            file: denial.file.as_deref().map(Into::into),
            line: denial.line,
            hook: Some(denial.hook.clone().into()),
            response_flags: flags(denial).into(),
            pid: (denial.pid != 0).then_some(denial.pid),
            uid: (!inbound).then_some(denial.uid),
            comm: (!denial.comm.is_empty()).then(|| denial.comm.as_str().into()),
            cgroup: denial.cgroup.as_deref().map(Into::into),
            detail: denial.detail.as_deref().map(Into::into),
            ..Self::default()
        }
    }
}

fn flags(denial: &DenialView) -> &'static str {
    let mut reasons = mesh_common::Reason::ALL.iter();
    match reasons.find(|reason| reason.name() == denial.reason) {
        Some(reason) if denial.verdict == mesh_common::Verdict::Denied.name() => {
            ResponseFlags::of_denial(*reason).name()
        }
        _ => "-",
    }
}

#[cfg(test)]
mod tests;
