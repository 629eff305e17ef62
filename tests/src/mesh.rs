//! A mesh under test, and the book of what it must have decided.
//!
//! Every call a test makes to the mesh is entered with the verdict it must get; [`Mesh::settle`]
//! then holds the book against the counters, all of them, and against the records of denials.

use std::collections::BTreeMap;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::agent::{self, AgentProcess};
use crate::patience::scaled;
use crate::peer::{Outcome, Peer};
use crate::sandbox::Sandbox;

/// How long the agent may take to show what has happened.
const SHOWN: Duration = Duration::from_secs(15);
/// How long a denied `connect()` may take: less than any time the kernel itself waits for in a
/// call (a SYN is repeated after 1 s), more than a busy machine keeps a process from its core.
const AT_ONCE: Duration = Duration::from_millis(500);
/// The policy's file.
const FILE: &str = "10-test.toml";

/// An agent, its policy and the book.
#[derive(Debug)]
pub struct Mesh<'s> {
    sandbox: &'s Sandbox,
    /// The agent; `None` while it is dead.
    pub agent: Option<AgentProcess>,
    policy: String,
    decisions: BTreeMap<Decision, u64>,
    denials: BTreeMap<Denial, u64>,
}

/// A series of `mesh_authorization_decisions_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decision {
    /// `allowed`, `denied` or `would-deny`.
    pub verdict: String,
    /// Name of the rule, `default` or `-`.
    pub rule: String,
    /// `policy`, or what went wrong.
    pub reason: String,
    /// Who called.
    pub source: String,
    /// Who was called.
    pub destination: String,
}

/// How a call was made, as the record of its denial tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// What was dialled, `address:port`.
    pub dialled: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The hook that decided.
    pub hook: String,
    /// The caller's cgroup, below the sandbox's; `None` to leave it open.
    pub cgroup: Option<String>,
    /// The caller's user.
    pub uid: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Denial {
    decision: Decision,
    call: Call,
    file: Option<String>,
    line: Option<u32>,
}

/// What of the status document matters here.
#[derive(Debug, Deserialize)]
pub struct Status {
    /// The programs.
    pub programs: Vec<Program>,
    /// What is wrong.
    pub problems: Vec<String>,
    /// The latest denials.
    pub denials: Vec<Record>,
    /// What could not be remembered.
    pub losses: Losses,
}

/// What of the losses matters here.
#[derive(Debug, Deserialize)]
pub struct Losses {
    /// UDP flows displaced by newer ones.
    pub udp_flows_displaced: u64,
}

/// A program of the status document.
#[derive(Debug, Deserialize)]
pub struct Program {
    /// Where it is attached.
    pub hook: String,
    /// Its name.
    pub program: String,
    /// Whether it runs.
    pub effective: bool,
}

/// A denial of the status document.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the document")]
pub struct Record {
    pub verdict: String,
    pub reason: String,
    pub rule: String,
    pub file: Option<String>,
    pub line: Option<u32>,
    pub source_service: String,
    pub destination_service: String,
    pub dialled: String,
    pub protocol: String,
    pub uid: u32,
    pub pid: u32,
    pub comm: String,
    pub cgroup: Option<String>,
    pub hook: String,
    pub count: u64,
}

impl Decision {
    /// A verdict of a rule, or of the default.
    pub fn of_rule(verdict: &str, rule: &str, source: &str, destination: &str) -> Self {
        Self {
            verdict: verdict.into(),
            rule: rule.into(),
            reason: "policy".into(),
            source: source.into(),
            destination: destination.into(),
        }
    }

    /// A denial for another reason than a rule.
    pub fn of_reason(reason: &str, source: &str, destination: &str) -> Self {
        Self {
            verdict: "denied".into(),
            rule: "-".into(),
            reason: reason.into(),
            source: source.into(),
            destination: destination.into(),
        }
    }
}

impl Call {
    /// A call over TCP from an IPv4 socket, by root.
    pub fn tcp(dialled: &str) -> Self {
        Self {
            dialled: dialled.into(),
            protocol: "tcp".into(),
            hook: "connect4".into(),
            cgroup: None,
            uid: 0,
        }
    }

    /// A datagram from an unconnected IPv4 socket, by root.
    pub fn udp(dialled: &str) -> Self {
        Self {
            protocol: "udp".into(),
            hook: "sendmsg4".into(),
            ..Self::tcp(dialled)
        }
    }

    /// Seen by another hook.
    pub fn at(self, hook: &str) -> Self {
        Self {
            hook: hook.into(),
            ..self
        }
    }

    /// Made from the cgroup `name` below the sandbox's.
    pub fn from_cgroup(self, name: &str) -> Self {
        Self {
            cgroup: Some(name.into()),
            ..self
        }
    }
}

impl<'s> Mesh<'s> {
    /// Starts an agent with a policy.
    ///
    /// # Panics
    ///
    /// It does not become ready.
    pub fn start(sandbox: &'s Sandbox, policy: &str) -> Self {
        sandbox.write_policy(FILE, policy).expect("a policy");
        let agent = AgentProcess::start(sandbox).expect("the agent starts");
        Self {
            sandbox,
            agent: Some(agent),
            policy: policy.into(),
            decisions: BTreeMap::new(),
            denials: BTreeMap::new(),
        }
    }

    /// A peer in the cgroup `name`.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub fn peer(&self, name: &str) -> Peer {
        Peer::spawn(&self.sandbox.cgroup, name).expect("a peer")
    }

    /// Replaces the policy and waits until the new one is in force.
    ///
    /// # Panics
    ///
    /// It is not within a few seconds.
    pub fn reload(&mut self, policy: &str) {
        let before = self.metric("mesh_policy_revision", &[]);
        self.sandbox.write_policy(FILE, policy).expect("a policy");
        self.policy = policy.into();
        if let Some(agent) = &self.agent {
            agent.signal(Signal::SIGHUP).expect("a running agent");
        }
        let deadline = Instant::now() + scaled(SHOWN);
        while self.metric("mesh_policy_revision", &[]) <= before {
            assert!(Instant::now() < deadline, "{}", agent::log(self.sandbox));
            sleep(Duration::from_millis(10));
        }
    }

    /// A metric's value; 0 for none.
    ///
    /// # Panics
    ///
    /// The agent does not answer.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        agent::metric(self.sandbox, name, labels).expect("metrics")
    }

    /// Waits until a metric has a value.
    ///
    /// # Panics
    ///
    /// It has not within a few seconds.
    pub fn expect_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let deadline = Instant::now() + scaled(SHOWN);
        loop {
            let shown = self.metric(name, labels);
            if shown == value {
                return;
            }
            let late = Instant::now() > deadline;
            assert!(!late, "{name} {labels:?} is {shown}, not {value}");
            sleep(Duration::from_millis(50));
        }
    }

    /// What `mesh-agent status -o json` says.
    ///
    /// # Panics
    ///
    /// It says nothing readable.
    pub fn status(&self) -> Status {
        let output = agent::command(self.sandbox, &["status", "-o", "json"]).expect("status");
        serde_json::from_slice(&output.stdout).expect("a status document")
    }

    /// Enters a decision.
    pub fn enter(&mut self, decision: Decision, times: u64) {
        *self.decisions.entry(decision).or_default() += times;
    }

    /// The call reached the endpoint `label`; enters the decision.
    ///
    /// # Panics
    ///
    /// It did not.
    pub fn expect_allowed(&mut self, outcome: &Outcome, label: &str, decision: Decision) {
        assert_eq!(outcome.answered(), label, "{decision:?}: {outcome:?}");
        assert_eq!(outcome.failure, None, "{decision:?}");
        self.enter(decision, 1);
    }

    /// The call was refused at once with EPERM; enters the decision and the record.
    ///
    /// # Panics
    ///
    /// It was not.
    pub fn expect_denied(&mut self, outcome: &Outcome, decision: Decision, call: Call) {
        assert_eq!(outcome.errno(), Some("EPERM"), "{decision:?}: {outcome:?}");
        let took = Duration::from_micros(outcome.micros);
        assert!(took < scaled(AT_ONCE), "{took:?}: {decision:?}");
        self.expect_record(decision, call);
    }

    /// Enters a decision that is recorded.
    pub fn expect_record(&mut self, decision: Decision, call: Call) {
        let line = self.line_of(&decision.rule);
        self.enter(decision.clone(), 1);
        let denial = Denial {
            decision,
            call,
            file: line.map(|_| FILE.into()),
            line,
        };
        *self.denials.entry(denial).or_default() += 1;
    }

    /// Line of a rule's header, or of the default.
    fn line_of(&self, rule: &str) -> Option<u32> {
        let lines: Vec<&str> = self.policy.lines().collect();
        if rule == "default" {
            let at = lines
                .iter()
                .position(|line| line.trim().starts_with("default ="))?;
            return Some(at as u32 + 1);
        }
        let name = format!("name = \"{rule}\"");
        let named = lines.iter().position(|line| line.trim() == name)?;
        let header = |line: &&str| line.starts_with("[[allow]]") || line.starts_with("[[deny]]");
        let at = lines[..named].iter().rposition(header)?;
        Some(at as u32 + 1)
    }

    /// Holds the book against what the agent shows: every decision that was counted is in it
    /// and no other, and every denial has its record.
    ///
    /// # Panics
    ///
    /// They differ still after a few seconds.
    pub fn settle(&self) {
        let deadline = Instant::now() + scaled(SHOWN);
        loop {
            let late = Instant::now() > deadline;
            let counted = self.counted().expect("metrics");
            let unrecorded = self.unrecorded();
            if counted == self.decisions && unrecorded.is_empty() {
                return;
            }
            if late {
                let wrong = differences(&self.decisions, &counted);
                panic!("{wrong}{}", unrecorded.join("\n"));
            }
            sleep(Duration::from_millis(60));
        }
    }

    fn counted(&self) -> io::Result<BTreeMap<Decision, u64>> {
        let series = agent::series(self.sandbox, "mesh_authorization_decisions_total")?;
        let mut counted = BTreeMap::new();
        for (labels, value) in series {
            let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
            let decision = Decision {
                verdict: label("verdict"),
                rule: label("rule"),
                reason: label("reason"),
                source: label("source_service"),
                destination: label("destination_service"),
            };
            *counted.entry(decision).or_default() += value as u64;
        }
        Ok(counted)
    }

    /// Denials without as many records as there must be, in words.
    fn unrecorded(&self) -> Vec<String> {
        let records = self.status().denials;
        let wrong = |(denial, times): (&Denial, &u64)| {
            let of_it = records
                .iter()
                .filter(|record| self.is_record_of(record, denial));
            let found: u64 = of_it.map(|record| record.count).sum();
            // Would-be denials are recorded a few times a second at most.
            let enough = if denial.decision.verdict == "would-deny" {
                found >= 1
            } else {
                found == *times
            };
            (!enough).then(|| format!("{found} records, not {times}: {denial:?}\nof {records:#?}"))
        };
        self.denials.iter().filter_map(wrong).collect()
    }

    fn is_record_of(&self, record: &Record, denial: &Denial) -> bool {
        let Denial {
            decision,
            call,
            file,
            line,
        } = denial;
        let prefix = self.sandbox.cgroup.path().file_name().unwrap_or_default();
        let cgroup = |name: &String| {
            let path = format!("/{}/{name}", prefix.to_string_lossy());
            path.trim_end_matches('/').to_owned()
        };
        record.verdict == decision.verdict
            && record.reason == decision.reason
            && record.rule == decision.rule
            && record.source_service == decision.source
            && record.destination_service == decision.destination
            && record.dialled == call.dialled
            && record.protocol == call.protocol
            && record.hook == call.hook
            && record.uid == call.uid
            && record.file == *file
            && record.line == *line
            && (call.cgroup.is_none() || record.cgroup == call.cgroup.as_ref().map(cgroup))
    }
}

fn differences(expected: &BTreeMap<Decision, u64>, counted: &BTreeMap<Decision, u64>) -> String {
    let mut all: Vec<&Decision> = expected.keys().chain(counted.keys()).collect();
    all.sort_unstable();
    all.dedup();
    let wrong = all.iter().filter_map(|decision| {
        let (want, have) = (expected.get(decision), counted.get(decision));
        (want != have).then(|| format!("counted {have:?}, not {want:?}: {decision:?}\n"))
    });
    wrong.collect()
}
