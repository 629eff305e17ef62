//! `suggest`: rules for the calls that the policy does not allow for certain yet.

mod render;
mod rules;
#[cfg(test)]
mod tests;

use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::output::{Output, print};
use crate::admin;
use crate::config::AgentConfig;
use crate::policy::model::Policy;
use crate::policy::parse;
use crate::policy::source::SourceSet;
use crate::telemetry::observed::{Observed, SCHEMA_VERSION};

/// Arguments of the command.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Suggest rules for calls that were denied by default, too.
    #[arg(long)]
    pub denied: bool,
    /// What to print: TOML, or a document for programs.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

const DONE: u8 = 0;
const INVALID_POLICY: u8 = 3;
const UNREACHABLE: u8 = 4;

/// Asks the running agent, prints, and returns the exit code: 0, also if there is nothing to
/// suggest, 3 if its policy is not valid here, 4 if it cannot be asked.
pub fn run(args: &Args, config: &AgentConfig, color: bool) -> u8 {
    match answer(args, config, color) {
        Ok(text) => {
            print(&text);
            DONE
        }
        Err((code, problem)) => {
            eprintln!("{problem}");
            code
        }
    }
}

fn answer(args: &Args, config: &AgentConfig, color: bool) -> Result<String, (u8, String)> {
    let unreachable = |problem| (UNREACHABLE, problem);
    let policy = policy(config, color)?;
    let observed: Observed = ask(config, "/decisions").map_err(unreachable)?;
    if observed.schema_version != SCHEMA_VERSION {
        let problem = "the running agent is of another version: use the mesh-agent that is running";
        return Err(unreachable(problem.into()));
    }
    let suggestions = rules::suggestions(&policy, &observed, args.denied);
    match args.output {
        Output::Table => Ok(render::toml(&suggestions, &config.node.name)),
        Output::Json => serde_json::to_string_pretty(&suggestions)
            .map(|json| json + "\n")
            .map_err(|error| unreachable(error.to_string())),
    }
}

/// The policy that the running agent enforces.
fn policy(config: &AgentConfig, color: bool) -> Result<Policy, (u8, String)> {
    let sources: Option<SourceSet> = ask(config, "/policy").map_err(|text| (UNREACHABLE, text))?;
    let sources = sources.ok_or_else(|| {
        let problem = "the agent has no policy of its own in force";
        (UNREACHABLE, problem.to_owned())
    })?;
    let parsed = parse::parse(&sources, &config.local_node());
    parsed.policy.ok_or_else(|| {
        let errors = parsed.diagnostics.iter().filter(|d| d.is_error());
        let shown: Vec<String> = errors.map(|error| error.render(color)).collect();
        (INVALID_POLICY, shown.join("\n"))
    })
}

fn ask<T: DeserializeOwned>(config: &AgentConfig, target: &str) -> Result<T, String> {
    let answer = admin::request(&config.paths.run_dir, Method::GET, target)
        .map_err(|error| error.to_string())?;
    if answer.status != StatusCode::OK {
        return Err(format!("the agent answers {}", answer.status));
    }
    serde_json::from_slice(&answer.body).map_err(|error| {
        format!("the agent's answer makes no sense ({error}): use the mesh-agent that is running")
    })
}
