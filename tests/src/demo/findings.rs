//! What happened, held against the policy, as a few lines for people.

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::stage::Stage;
use super::{INTRUSIONS, POLICY_FILE, Traffic, VIP};
use crate::agent;

/// How long records may take from the kernel to the agent's status.
const RECORDS: Duration = Duration::from_secs(3);
/// What `connect()` fails with when the kernel programs refuse.
const REFUSED: &str = "Operation not permitted";

/// See the module.
#[derive(Debug)]
pub(super) struct Findings {
    traffic: Traffic,
    allowed_by: String,
    denials: Vec<Denial>,
    splits: Vec<Split>,
    metrics: Vec<String>,
    metrics_url: String,
    own_netns: bool,
    surprises: Vec<String>,
}

/// What the agent says of denials at one address.
#[derive(Debug)]
struct Denial {
    dialled: String,
    rule: String,
    pid: u64,
    comm: String,
    cgroup: String,
    count: u64,
}

/// A version's share, by the policy and by the client.
#[derive(Debug)]
struct Split {
    version: String,
    weight: f64,
    got: u64,
}

impl Findings {
    pub(super) fn collect(stage: &Stage, traffic: Traffic) -> Result<Self> {
        let splits = ["v1", "v2"]
            .into_iter()
            .map(|version| Split::find(stage, &traffic, version))
            .collect::<Result<_>>()?;
        let mut findings = Self {
            allowed_by: allowed_by(stage)?,
            denials: denials(stage)?,
            splits,
            metrics: metrics(stage)?,
            metrics_url: format!("http://{}/metrics", stage.sandbox.admin()),
            own_netns: stage.own_netns(),
            surprises: Vec::new(),
            traffic,
        };
        findings.judge_calls();
        findings.judge_intrusions();
        findings.judge_metrics(stage)?;
        Ok(findings)
    }

    /// Whether all was as the policy says.
    pub(super) fn as_expected(&self) -> bool {
        self.surprises.is_empty()
    }

    fn expect(&mut self, holds: bool, surprise: impl FnOnce(&Self) -> String) {
        if !holds {
            let surprise = surprise(self);
            self.surprises.push(surprise);
        }
    }

    fn judge_calls(&mut self) {
        let unanswered = self.traffic.paying.unanswered();
        self.expect(unanswered == 0, |this| {
            format!("checkout got no answer: {:?}", this.traffic.paying)
        });
        let requests = self.traffic.requests as f64;
        let off = |split: &Split| (split.got as f64 - split.weight * requests).abs() > 1.0;
        let exact = !self.splits.iter().any(off);
        self.expect(exact, |this| format!("not the split: {:?}", this.splits));
    }

    fn judge_intrusions(&mut self) {
        let around = self.traffic.around_to.to_string();
        let Traffic {
            intruding,
            around: other,
            ..
        } = &self.traffic;
        let attempts = [(VIP, intruding.pid), (&*around, other.pid)];
        let refused = [intruding, other].iter().all(|calls| {
            calls.refused.len() == 1 && calls.refused.get(REFUSED) == Some(&INTRUSIONS)
        });
        let recorded = attempts.iter().all(|(dialled, pid)| {
            self.denials.iter().any(|denial| {
                denial.dialled == *dialled
                    && denial.pid == u64::from(*pid)
                    && denial.comm == "intruder"
                    && denial.count == INTRUSIONS
            })
        });
        self.expect(refused, |this| {
            let Traffic {
                intruding, around, ..
            } = &this.traffic;
            format!("the intruder was not refused: {intruding:?} {around:?}")
        });
        self.expect(recorded, |this| {
            format!("not the denials: {:?}", this.denials)
        });
        let quiet = !self.own_netns || self.traffic.packets == 0;
        self.expect(quiet, |this| {
            format!("{} packets while the intruder called", this.traffic.packets)
        });
    }

    fn judge_metrics(&mut self, stage: &Stage) -> Result<()> {
        let labels = [("source_service", "shop/checkout"), ("verdict", "allowed")];
        let allowed = agent::metric(
            &stage.sandbox,
            "mesh_authorization_decisions_total",
            &labels,
        )?;
        self.expect(allowed == self.traffic.requests as f64, |_| {
            format!("the metrics say {allowed} allowed calls of checkout")
        });
        for (version, got) in self.traffic.paying.answers.clone() {
            let labels = [("destination_version", &*version)];
            let opened =
                agent::metric(&stage.sandbox, "mesh_tcp_connections_opened_total", &labels)?;
            self.expect(opened == got as f64, |_| {
                format!("the metrics say {opened} connections to {version}, the client {got}")
            });
        }
        Ok(())
    }
}

impl Split {
    fn find(stage: &Stage, traffic: &Traffic, version: &str) -> Result<Self> {
        let labels = [("service", "shop/payments"), ("version", version)];
        Ok(Self {
            version: version.into(),
            weight: agent::metric(&stage.sandbox, "mesh_split_weight", &labels)?,
            got: traffic
                .paying
                .answers
                .get(version)
                .copied()
                .unwrap_or_default(),
        })
    }
}

/// The rule that allows checkout's calls, as the running agent explains it.
fn allowed_by(stage: &Stage) -> Result<String> {
    let answer = stage.ask(&["explain", "shop/checkout", VIP, "--live", "-o", "json"])?;
    let rule = answer["rule"].as_str().context("no rule")?;
    Ok(format!(
        "rule {rule} ({})",
        file_name(answer["at"].as_str().unwrap_or("-"))
    ))
}

/// The agent's denials, once there are as many as there were intrusions.
fn denials(stage: &Stage) -> Result<Vec<Denial>> {
    let deadline = Instant::now() + RECORDS;
    loop {
        let status = stage.ask(&["status", "-o", "json"])?;
        let denials: Vec<Denial> = status["denials"]
            .as_array()
            .context("no denials")?
            .iter()
            .map(Denial::read)
            .collect();
        let all: u64 = denials.iter().map(|denial| denial.count).sum();
        if all >= 2 * INTRUSIONS || Instant::now() > deadline {
            return Ok(denials);
        }
        sleep(Duration::from_millis(20));
    }
}

impl Denial {
    fn read(view: &Value) -> Self {
        let text = |field: &str| view[field].as_str().unwrap_or("-").to_owned();
        let number = |field: &str| view[field].as_u64().unwrap_or_default();
        let place = format!("{}:{}", text("file"), number("line"));
        Self {
            dialled: text("dialled"),
            rule: format!("{} ({})", text("rule"), file_name(&place)),
            pid: number("pid"),
            comm: text("comm"),
            cgroup: text("cgroup"),
            count: number("count"),
        }
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A few lines of the metrics, without the labels that are the same everywhere.
fn metrics(stage: &Stage) -> Result<Vec<String>> {
    const SHOWN: [&str; 3] = [
        "mesh_tcp_connections_opened_total{",
        "mesh_authorization_decisions_total{",
        "mesh_split_observed_ratio{",
    ];
    const LEFT_OUT: [&str; 5] = [
        "reporter=",
        "connection_security_policy=",
        "source_service=",
        "destination_service=",
        "service=",
    ];
    let answer = agent::get(&stage.sandbox, "/metrics")?;
    let lines = answer
        .lines()
        .filter(|line| SHOWN.iter().any(|name| line.starts_with(name)));
    let short = lines.map(|line| {
        let Some((name, labels, value)) = line.split_once('{').and_then(|(name, rest)| {
            rest.rsplit_once('}')
                .map(|(labels, value)| (name, labels, value))
        }) else {
            return line.to_owned();
        };
        let kept: Vec<&str> = labels
            .split(',')
            .filter(|label| !LEFT_OUT.iter().any(|name| label.starts_with(name)))
            .collect();
        format!("{name}{{{},..}}{value}", kept.join(","))
    });
    Ok(short.collect())
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traffic {
            requests,
            paying,
            around_to,
            ..
        } = &self.traffic;
        let verdict = if paying.unanswered() == 0 {
            "allowed"
        } else {
            "FAILED"
        };
        writeln!(f, "checkout -> payments   {verdict}   {}", self.allowed_by)?;
        self.denied(f, "intruder -> payments", VIP, &self.traffic.intruding)?;
        self.denied(
            f,
            "     ... around the VIP",
            &around_to.to_string(),
            &self.traffic.around,
        )?;
        if self.own_netns {
            writeln!(
                f,
                "                       {} packets on the network meanwhile",
                self.traffic.packets
            )?;
        }
        let shares: Vec<String> = self
            .splits
            .iter()
            .map(|split| format!("{} {}", split.version, split.got))
            .collect();
        let weights: Vec<String> = self
            .splits
            .iter()
            .map(|split| format!("{:.0}", split.weight * 100.0))
            .collect();
        writeln!(
            f,
            "{requests} connections       {}   (the policy says {}); {} us each, with its request",
            shares.join("   "),
            weights.join("/"),
            paying.median_micros
        )?;
        writeln!(f, "metrics                {}", self.metrics_url)?;
        self.metrics
            .iter()
            .try_for_each(|line| writeln!(f, "  {line}"))?;
        writeln!(f)?;
        self.surprises
            .iter()
            .try_for_each(|surprise| writeln!(f, "UNEXPECTED: {surprise}"))?;
        if self.surprises.is_empty() {
            writeln!(f, "All as {POLICY_FILE} says.")?;
        }
        Ok(())
    }
}

impl Findings {
    fn denied(
        &self,
        f: &mut fmt::Formatter<'_>,
        what: &str,
        dialled: &str,
        calls: &super::Calls,
    ) -> fmt::Result {
        let by = self.denials.iter().find(|denial| denial.dialled == dialled);
        let rule = by.map_or("not recorded", |denial| &denial.rule);
        let verdict = if calls.answers.is_empty() {
            "denied"
        } else {
            "ALLOWED"
        };
        let errors: Vec<&str> = calls.refused.keys().map(String::as_str).collect();
        writeln!(
            f,
            "{what:<22} {verdict:<9} {rule}: {:?} from connect()",
            errors.join(", ")
        )?;
        if let Some(Denial {
            pid,
            comm,
            cgroup,
            count,
            ..
        }) = by
        {
            let unit = file_name(cgroup);
            writeln!(
                f,
                "                       recorded: {count} x {dialled}, pid {pid} ({comm}) in {unit}"
            )?;
        }
        Ok(())
    }
}
