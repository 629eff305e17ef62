//! `explain`: which rule decides on a call, and why; the evaluator's answer in words.

pub(super) mod question;
mod render;

use std::path::{Path, PathBuf};

use hyper::{Method, StatusCode};
use serde::Serialize;

use self::question::{Callee, Question};
use super::output::{Output, Style, print};
use crate::admin;
use crate::config::AgentConfig;
use crate::policy::eval::{Decision, evaluate, evaluate_egress, split_for};
use crate::policy::model::{Action, Endpoint, Location, Mode, Policy, Rule, ServiceName};
use crate::policy::parse;
use crate::policy::source::{Belief, SourceSet};

/// Arguments of the command.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Who calls: a service as namespace/name, host for a process of no service, node:NAME for
    /// one on another node, or the address of a client outside the mesh.
    pub source: String,
    /// What is called: namespace/name:port (number or name), or address:port as a program
    /// dials it.
    pub destination: String,
    /// The directory of the policy; default: the one agent.toml names.
    #[arg(long, value_name = "DIR", conflicts_with = "live")]
    pub directory: Option<PathBuf>,
    /// Ask the running agent for the policy it enforces instead of reading the files.
    #[arg(long)]
    pub live: bool,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

const ALLOWED: u8 = 0;
const INVALID_QUESTION: u8 = 2;
const INVALID_POLICY: u8 = 3;
const UNREACHABLE: u8 = 4;
const DENIED: u8 = 5;

/// Answers, prints, and returns the exit code: 0 allowed (or would be), 5 denied, 2 for a
/// question that makes no sense, 3 for an invalid policy, 4 if the agent cannot be asked.
pub fn run(args: &Args, config: &AgentConfig, color: bool) -> u8 {
    let policy = match policy(args, config, color) {
        Ok(policy) => policy,
        Err(code) => return code,
    };
    let question = match Question::parse(&policy, &args.source, &args.destination) {
        Ok(question) => question,
        Err(problem) => {
            eprintln!("{problem}");
            return INVALID_QUESTION;
        }
    };
    let answer = Answer::new(&policy, &question, args);
    match args.output {
        Output::Json => match serde_json::to_string_pretty(&answer) {
            Ok(json) => print(&format!("{json}\n")),
            Err(error) => eprintln!("{error}"),
        },
        Output::Table => print(&render::answer(&answer, Style::of_stdout())),
    }
    if answer.verdict == "denied" {
        DENIED
    } else {
        ALLOWED
    }
}

fn policy(args: &Args, config: &AgentConfig, color: bool) -> Result<Policy, u8> {
    let local = config.local_node();
    let parsed = if args.live {
        parse::parse(&live(&config.paths.run_dir)?, &local)
    } else {
        let directory = args
            .directory
            .as_deref()
            .unwrap_or(&config.paths.config_dir);
        parse::load(directory, Belief::Anybody, &local).1
    };
    parsed.policy.ok_or_else(|| {
        for problem in parsed
            .diagnostics
            .iter()
            .filter(|problem| problem.is_error())
        {
            eprintln!("{}", problem.render(color));
        }
        INVALID_POLICY
    })
}

/// The files of the policy that the running agent enforces.
fn live(run_dir: &Path) -> Result<SourceSet, u8> {
    let failed = |problem: String| {
        eprintln!("{problem}");
        UNREACHABLE
    };
    let answer = admin::request(run_dir, Method::GET, "/policy")
        .map_err(|error| failed(error.to_string()))?;
    if answer.status != StatusCode::OK {
        return Err(failed(format!("the agent answers {}", answer.status)));
    }
    let sources: Option<SourceSet> = serde_json::from_slice(&answer.body)
        .map_err(|error| failed(format!("the agent's answer makes no sense: {error}")))?;
    sources.ok_or_else(|| failed("the agent has no policy of its own in force".into()))
}

/// The answer; also the JSON document.
#[derive(Debug, Serialize)]
struct Answer {
    schema_version: u32,
    source: String,
    destination: String,
    /// `allowed`, `denied` or `would-deny`.
    verdict: &'static str,
    /// The rule that decided; `default` for the default, `-` where no rule is about this.
    rule: String,
    /// Where it stands, `file:line`.
    at: Option<String>,
    /// Why, as a sentence.
    why: String,
    /// Every rule that matches.
    matching: Vec<RuleView>,
    /// Where the call goes if it is allowed.
    endpoints: Vec<EndpointView>,
}

#[derive(Debug, Serialize)]
struct RuleView {
    name: String,
    at: String,
    action: &'static str,
    mode: &'static str,
}

#[derive(Debug, Serialize)]
struct EndpointView {
    address: String,
    version: String,
    /// Share of the calls, 0 to 1.
    share: f64,
    location: String,
}

impl Answer {
    fn new(policy: &Policy, question: &Question<'_>, args: &Args) -> Self {
        let decision = match decide(policy, question) {
            Ok(decision) => decision,
            Err(Undeclared(service)) => return Self::undeclared(args, &service.to_string()),
        };
        let endpoints = match &question.callee {
            Callee::Endpoint { endpoint, .. } => vec![view(endpoint, 1.0)],
            _ => shares(policy, question),
        };
        let (rule, at) = decided_by(policy, question, &decision);
        Self {
            schema_version: 1,
            source: args.source.clone(),
            destination: args.destination.clone(),
            verdict: decision.verdict.name(),
            why: render::why(question, &decision),
            rule,
            at,
            matching: decision
                .matched
                .iter()
                .map(|rule| RuleView::new(rule))
                .collect(),
            endpoints,
        }
    }

    /// A port of a VIP that its service does not declare.
    fn undeclared(args: &Args, service: &str) -> Self {
        Self {
            schema_version: 1,
            source: args.source.clone(),
            destination: args.destination.clone(),
            verdict: "denied",
            rule: "-".into(),
            at: None,
            why: format!("the address is {service}'s VIP, but {service} declares no such port"),
            matching: Vec::new(),
            endpoints: Vec::new(),
        }
    }
}

/// A port of a VIP that its service does not declare: nobody may call it.
pub(super) struct Undeclared<'p>(pub(super) &'p ServiceName);

/// The verdict on a call.
pub(super) fn decide<'p>(
    policy: &'p Policy,
    question: &Question<'p>,
) -> Result<Decision<'p>, Undeclared<'p>> {
    let (service, port) = match &question.callee {
        Callee::Frontend { service, port } => (service, *port),
        Callee::Endpoint { service, endpoint } => (service, endpoint.port),
        Callee::UndeclaredPort(service) => return Err(Undeclared(service)),
        Callee::Outside { address, port } => {
            return Ok(evaluate_egress(policy, question.caller, *address, *port));
        }
    };
    let port = &service.ports[port];
    Ok(evaluate(policy, question.caller, &service.name, port))
}

/// The rule that decided, and where it stands.
pub(super) fn decided_by(
    policy: &Policy,
    question: &Question<'_>,
    decision: &Decision<'_>,
) -> (String, Option<String>) {
    match (decision.rule, &question.callee) {
        (Some(rule), _) => (rule.name.to_string(), Some(rule.place.to_string())),
        (None, Callee::Outside { .. }) => ("-".into(), None),
        (None, _) => (
            "default".into(),
            policy.default_place.as_ref().map(ToString::to_string),
        ),
    }
}

impl RuleView {
    fn new(rule: &Rule) -> Self {
        Self {
            name: rule.name.to_string(),
            at: rule.place.to_string(),
            action: match rule.action {
                Action::Allow => "allow",
                Action::Deny => "deny",
            },
            mode: match rule.mode {
                Mode::Enforce => "enforce",
                Mode::Audit => "audit",
            },
        }
    }
}

/// The endpoints of a frontend and the share of the caller's calls each gets.
fn shares(policy: &Policy, question: &Question<'_>) -> Vec<EndpointView> {
    let Callee::Frontend { service, port } = question.callee else {
        return Vec::new();
    };
    let here = || {
        service
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.port == port)
    };
    let split = split_for(policy, question.caller, &service.name);
    let version_weight = |endpoint: &Endpoint| match split {
        None => 1.0,
        Some(split) => {
            let found = split
                .weights
                .iter()
                .find(|(version, _)| *version == endpoint.version);
            let of_version = here().filter(|other| other.version == endpoint.version);
            let sum: f64 = of_version.map(|other| f64::from(other.weight)).sum();
            found.map_or(0.0, |(_, weight)| f64::from(*weight)) / sum
        }
    };
    let weight = |endpoint: &Endpoint| version_weight(endpoint) * f64::from(endpoint.weight);
    let total: f64 = here().map(weight).sum();
    here()
        .map(|endpoint| view(endpoint, weight(endpoint) / total))
        .collect()
}

fn view(endpoint: &Endpoint, share: f64) -> EndpointView {
    EndpointView {
        address: endpoint.address.to_string(),
        version: endpoint.version.to_string(),
        share,
        location: match &endpoint.location {
            Location::Local => "this node".into(),
            Location::Node(node) => format!("node {node}"),
            Location::External => "outside the mesh".into(),
        },
    }
}

#[cfg(test)]
mod tests;
