//! `check --against`: what a candidate policy would change for flows that were recorded.
//!
//! Comes in: a policy, and lines as `mesh-agent flows -o jsonl` writes them. Goes out: each kind of
//! call whose verdict would be another one, with the rule of either side.

mod recorded;

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;

use serde::Serialize;

use self::recorded::{Call, Recorded, Times};
use crate::commands::explain::question::{Callee, Question, caller};
use crate::commands::explain::{Undeclared, decide, decided_by};
use crate::commands::output::table;
use crate::policy::eval::Caller;
use crate::policy::model::Policy;

/// What would change; also the JSON document.
#[derive(Debug, Serialize)]
pub(super) struct Replay {
    /// Flows that were looked at.
    flows: u64,
    /// Kinds of calls they were.
    kinds: usize,
    /// Flows whose verdict stays what it was.
    unchanged: u64,
    /// Lines that are no flows.
    unread: u64,
    /// Flows that were not looked at, because there are too many kinds of calls.
    beyond: u64,
    /// Refusals that no rule has to do with, such as for a full map; they were not looked at.
    other_reasons: u64,
    /// What would change, what would be denied first.
    changes: Vec<Change>,
    #[serde(skip)]
    first_unread: Option<(u64, String)>,
}

/// A kind of call whose verdict would be another one.
#[derive(Debug, Serialize)]
struct Change {
    flows: u64,
    source_service: String,
    source_address: Option<String>,
    destination_service: String,
    dialled: String,
    protocol: String,
    verdict_before: String,
    rule_before: String,
    verdict: &'static str,
    /// The rule that decides; `default` for the default, `-` where no rule is about this.
    rule: String,
    /// Where it stands, `file:line`.
    at: Option<String>,
    /// What else is different, if anything is.
    note: Option<String>,
}

/// What a policy says of a call.
struct Ruling {
    verdict: &'static str,
    rule: String,
    at: Option<String>,
    note: Option<String>,
}

impl Replay {
    /// Judges the flows of a file, `-` for standard input.
    ///
    /// # Errors
    ///
    /// It cannot be read, or holds no flows; in words.
    pub(super) fn new(policy: &Policy, path: &Path) -> Result<Self, String> {
        let recorded = if path == Path::new("-") {
            Recorded::read(io::stdin().lock())
        } else {
            File::open(path).and_then(|file| Recorded::read(BufReader::new(file)))
        };
        let recorded = recorded.map_err(|error| format!("{}: {error}", path.display()))?;
        if let (true, Some((number, why))) = (recorded.calls.is_empty(), &recorded.first_unread) {
            let path = path.display();
            return Err(format!(
                "{path}:{number}: this is no flow as mesh-agent flows -o jsonl writes them: {why}"
            ));
        }
        Ok(Self::of(policy, recorded))
    }

    fn of(policy: &Policy, recorded: Recorded) -> Self {
        let flows = recorded.flows();
        let kinds = recorded.calls.len();
        let changed = |(call, times)| change(policy, call, times);
        let mut changes: Vec<_> = recorded.calls.into_iter().filter_map(changed).collect();
        changes.sort_by_key(|change| (change.verdict != "denied", u64::MAX - change.flows));
        let affected: u64 = changes.iter().map(|change| change.flows).sum();
        Self {
            flows,
            kinds,
            unchanged: flows - affected,
            unread: recorded.unread,
            beyond: recorded.beyond,
            other_reasons: recorded.other_reasons,
            changes,
            first_unread: recorded.first_unread,
        }
    }

    /// Whether any verdict would be another one.
    pub(super) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// For people.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        if self.has_changes() {
            let head = [
                "FLOWS",
                "SOURCE",
                "DESTINATION",
                "DIALLED",
                "WAS",
                "WOULD BE",
            ];
            let mut rows = vec![head.map(str::to_owned)];
            rows.extend(self.changes.iter().map(Change::row));
            write!(out, "{}", table(&rows))?;
        }
        writeln!(
            out,
            "{} flows of {} kinds: {} unchanged, {} would be denied, {} would be allowed, {} would be would-deny",
            self.flows,
            self.kinds,
            self.unchanged,
            self.becoming("denied"),
            self.becoming("allowed"),
            self.becoming("would-deny"),
        )?;
        if let Some((number, why)) = &self.first_unread {
            let unread = self.unread;
            writeln!(
                out,
                "no flows: {unread} lines, the first is line {number}: {why}"
            )?;
        }
        if self.other_reasons > 0 {
            let others = self.other_reasons;
            writeln!(
                out,
                "not looked at: {others} refusals that no rule has to do with, such as for a full map"
            )?;
        }
        if self.beyond > 0 {
            writeln!(out, "not looked at: {} flows of further kinds", self.beyond)?;
        }
        Ok(())
    }

    fn becoming(&self, verdict: &str) -> u64 {
        let becoming = self
            .changes
            .iter()
            .filter(|change| change.verdict == verdict);
        becoming.map(|change| change.flows).sum()
    }
}

impl Change {
    fn row(&self) -> [String; 6] {
        let at = self.at.as_ref().map(|at| format!(", {at}"));
        let note = self.note.as_ref().map(|note| format!(": {note}"));
        let source = match &self.source_address {
            Some(address) => format!("{} {address}", self.source_service),
            None => self.source_service.clone(),
        };
        [
            self.flows.to_string(),
            source,
            self.destination_service.clone(),
            format!("{}/{}", self.dialled, self.protocol),
            format!("{} ({})", self.verdict_before, self.rule_before),
            format!(
                "{} ({}{}){}",
                self.verdict,
                self.rule,
                at.unwrap_or_default(),
                note.unwrap_or_default()
            ),
        ]
    }
}

/// What is different for a kind of call, if its verdict is.
fn change(policy: &Policy, call: Call, times: Times) -> Option<Change> {
    let ruling = rule_on(policy, &call);
    (ruling.verdict != call.verdict).then(|| Change {
        flows: times.flows,
        source_service: call.source,
        source_address: call.client.map(|client| client.ip().to_string()),
        destination_service: call.destination,
        dialled: call.dialled.to_string(),
        protocol: call.protocol,
        verdict_before: call.verdict,
        rule_before: times.rule,
        verdict: ruling.verdict,
        rule: ruling.rule,
        at: ruling.at,
        note: ruling.note,
    })
}

fn rule_on(policy: &Policy, call: &Call) -> Ruling {
    let (caller, unknown) = who(policy, call);
    let (callee, undeclared) = what(policy, call);
    let question = Question { caller, callee };
    let note = unknown.or(undeclared);
    match decide(policy, &question) {
        Ok(decision) => {
            let (rule, at) = decided_by(policy, &question, &decision);
            Ruling {
                verdict: decision.verdict.name(),
                rule,
                at,
                note,
            }
        }
        Err(Undeclared(service)) => Ruling {
            verdict: "denied",
            rule: "-".into(),
            at: None,
            note: Some(format!("{service} declares no such port")),
        },
    }
}

/// Who the policy takes the caller for, and what is to be said about that.
fn who<'p>(policy: &'p Policy, call: &Call) -> (Caller<'p>, Option<String>) {
    let name = match (&call.client, call.source.strip_prefix("node ")) {
        (Some(client), _) => client.ip().to_string(),
        (None, Some(node)) => format!("node:{node}"),
        (None, None) => call.source.clone(),
    };
    match caller(policy, &name) {
        Ok(caller) => (caller, None),
        // Its processes are still there, and no service's any more.
        Err(_) => (
            Caller::Host,
            Some(format!(
                "{} is not declared, so it is the host's",
                call.source
            )),
        ),
    }
}

/// What the policy takes for called. A service is looked for by its name where its address has
/// changed: clients learn the new one.
fn what<'p>(policy: &'p Policy, call: &Call) -> (Callee<'p>, Option<String>) {
    let at = Callee::at(policy, call.dialled);
    let was_service = call.destination != "-";
    if !(matches!(at, Callee::Outside { .. }) && was_service) {
        return (at, None);
    }
    let by_name = format!("{}:{}", call.destination, call.dialled.port());
    match Callee::parse(policy, &by_name) {
        Ok(callee) => (callee, None),
        Err(_) => (
            at,
            Some(format!("{} is not declared here", call.destination)),
        ),
    }
}

#[cfg(test)]
mod tests;
