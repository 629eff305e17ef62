//! Recorded flows: lines of JSON come in, one entry for each kind of call goes out.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufRead};
use std::net::SocketAddr;

use mesh_common::Reason;
use serde::Deserialize;

/// Kinds of calls that are told apart at most.
const KINDS: usize = 100_000;
/// Longest line.
const LINE_BYTES: u64 = 64 << 10;

/// A call as it was recorded; flows that agree in all of it are of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call {
    pub(super) source: String,
    /// The client, where it is outside the mesh.
    pub(super) client: Option<SocketAddr>,
    pub(super) destination: String,
    pub(super) dialled: SocketAddr,
    pub(super) protocol: String,
    pub(super) verdict: String,
}

/// How often a kind of call was made, and the rule that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) flows: u64,
    pub(super) rule: String,
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) calls: BTreeMap<Call, Times>,
    /// Flows of further kinds, which are not looked at.
    pub(super) beyond: u64,
    /// Refusals that no rule has to do with, which are not looked at either.
    pub(super) other_reasons: u64,
    /// Lines that are no flows, and the first of them.
    pub(super) unread: u64,
    pub(super) first_unread: Option<(u64, String)>,
    /// Flows of which there was a record and no end yet.
    open: HashSet<String>,
}

/// What of a record matters here; the others may be from another version.
#[derive(Deserialize)]
struct Line {
    event: String,
    id: Option<String>,
    protocol: String,
    source_service: String,
    source_address: Option<SocketAddr>,
    destination_service: String,
    /// An address, or the kind of a socket that was refused.
    dialled: String,
    verdict: String,
    reason: String,
    rule: String,
}

impl Recorded {
    /// Reads lines as `mesh-agent flows -o jsonl` and the access log write them.
    pub(super) fn read(mut input: impl BufRead) -> io::Result<Self> {
        let mut recorded = Self::default();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let length = io::Read::take(&mut input, LINE_BYTES).read_until(b'\n', &mut line)?;
            if length == 0 {
                break;
            }
            match serde_json::from_slice(&line) {
                Ok(flow) => recorded.add(flow),
                Err(_) if line.trim_ascii().is_empty() => {}
                Err(error) => recorded.skip(number, &error),
            }
        }
        Ok(recorded)
    }

    /// How many flows are looked at.
    pub(super) fn flows(&self) -> u64 {
        self.calls.values().map(|times| times.flows).sum()
    }

    fn skip(&mut self, number: u64, error: &serde_json::Error) {
        self.unread += 1;
        self.first_unread.get_or_insert((number, error.to_string()));
    }

    fn add(&mut self, line: Line) {
        if !self.is_another_flow(&line) {
            return;
        }
        let dialled = line.dialled.parse().ok().filter(|_| line.is_by_policy());
        let Some(dialled) = dialled else {
            self.other_reasons += 1;
            return;
        };
        let is_outside = line.source_service == "outside";
        let call = Call {
            source: line.source_service,
            // Ports of clients differ from call to call.
            client: line.source_address.filter(|_| is_outside).map(without_port),
            destination: line.destination_service,
            dialled,
            protocol: line.protocol,
            verdict: line.verdict,
        };
        if self.calls.len() >= KINDS && !self.calls.contains_key(&call) {
            self.beyond += 1;
            return;
        }
        let times = self.calls.entry(call).or_insert(Times {
            flows: 0,
            rule: String::new(),
        });
        times.flows += 1;
        times.rule = line.rule;
    }

    /// A flow that lives long has several records, and counts once.
    fn is_another_flow(&mut self, line: &Line) -> bool {
        let Some(id) = &line.id else { return true };
        match &*line.event {
            "open" | "update" => self.open.insert(id.clone()),
            _ => !self.open.remove(id),
        }
    }
}

impl Line {
    /// Whether another policy could have said something else.
    fn is_by_policy(&self) -> bool {
        let reasons = [
            Reason::Policy,
            Reason::NoSuchPort,
            Reason::Egress,
            Reason::NoTicket,
            Reason::LateDenial,
        ];
        self.verdict != "denied" || reasons.iter().any(|reason| reason.name() == self.reason)
    }
}

fn without_port(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: &str, id: &str, source: &str) -> String {
        format!(
            r#"{{"event":"{event}","id":"{id}","protocol":"tcp","source_service":"{source}","source_address":"10.0.0.9:4242","destination_service":"shop/payments","dialled":"10.96.0.10:80","verdict":"allowed","reason":"policy","rule":"r","more":1}}"#
        )
    }

    #[test]
    fn a_flow_counts_once_whatever_is_recorded_of_it() {
        let lines = [
            line("open", "1", "shop/checkout"),
            line("update", "1", "shop/checkout"),
            line("close", "1", "shop/checkout"),
            line("close", "2", "shop/checkout"),
            // The kernel gave the id to another socket.
            line("close", "1", "shop/checkout"),
            line("update", "3", "outside"),
            line("update", "3", "outside"),
        ];
        let text = lines.join("\n");
        let recorded = Recorded::read(text.as_bytes()).expect("read");
        let counted: Vec<_> = recorded
            .calls
            .iter()
            .map(|(call, times)| (&*call.source, call.client.is_some(), times.flows))
            .collect();
        assert_eq!(counted, [("outside", true, 1), ("shop/checkout", false, 3)]);
        assert_eq!(recorded.unread, 0);
    }

    #[test]
    fn what_is_no_flow_is_counted_with_its_line() {
        let text = format!("\n{}\nnonsense\n{{}}\n", line("close", "1", "host"));
        let recorded = Recorded::read(text.as_bytes()).expect("read");
        assert_eq!((recorded.flows(), recorded.unread), (1, 2));
        let (number, why) = recorded.first_unread.expect("the first");
        assert_eq!(number, 3, "{why}");
    }
}
