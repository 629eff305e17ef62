//! `mesh-agent top`: services and how they are, once a second, or once and for all.

mod rows;
mod screen;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use hyper::{Method, StatusCode};

use self::rows::{HEAD, Sort, rows};
use super::output::{Output, print, table};
use crate::admin;
use crate::telemetry::services::{SCHEMA_VERSION, Services};

/// Arguments of the command.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Over how many seconds rates, ratios and quantiles are.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=300))]
    pub window: u16,
    /// What is on top.
    #[arg(short, long, value_enum, default_value_t)]
    pub sort: Sort,
    /// Print once and exit, as is done where the output is no terminal.
    #[arg(long)]
    pub once: bool,
    /// What to print; a document is printed once.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// All went well.
const OK: u8 = 0;
/// The terminal is not usable.
const FAILED: u8 = 1;
/// The agent cannot be reached.
const UNREACHABLE: u8 = 4;
/// How long rates are measured that nobody has asked for before.
const FIRST: Duration = Duration::from_secs(1);

/// Asks the agent whose socket is in `run_dir`, shows, and returns the exit code.
pub fn run(run_dir: &Path, args: &Args) -> u8 {
    let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if args.once || args.output == Output::Json || !terminal {
        return once(run_dir, args);
    }
    let run_dir = run_dir.to_owned();
    let window = args.window;
    let ask = move || ask(&run_dir, window).map(|(_, services)| services);
    match screen::run(ask, args.sort) {
        Ok(()) => OK,
        Err(error) => {
            eprintln!("cannot use this terminal: {error}; try --once");
            FAILED
        }
    }
}

fn once(run_dir: &Path, args: &Args) -> u8 {
    let answer = ask(run_dir, args.window).and_then(|(body, services)| {
        if services.window_seconds > 0.0 {
            return Ok((body, services));
        }
        sleep(FIRST);
        ask(run_dir, args.window)
    });
    match answer {
        Ok((body, _)) if args.output == Output::Json => print(&body),
        Ok((_, services)) => print(&text(&services, args.sort)),
        Err(reason) => {
            eprintln!("{reason}");
            return UNREACHABLE;
        }
    }
    OK
}

/// The services as people read them.
fn text(services: &Services, sort: Sort) -> String {
    let head = HEAD.map(|(name, _)| name.to_owned());
    let body = rows(services, sort).into_iter().map(|row| row.cells);
    let all: Vec<_> = std::iter::once(head).chain(body).collect();
    table(&all)
}

fn ask(run_dir: &Path, window: u16) -> Result<(String, Services), String> {
    let target = format!("/api/v1/services?window={window}");
    let answer = admin::request(run_dir, Method::GET, &target).map_err(|e| e.to_string())?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    if answer.status != StatusCode::OK {
        let said = body.trim_end();
        return Err(format!("the agent answers {}: {said}", answer.status));
    }
    let services = serde_json::from_str(&body).map_err(|error| {
        format!(
            "the agent's answer is in a form this command does not know (it knows schema_version {SCHEMA_VERSION}): {error}; use the mesh-agent binary that is running"
        )
    })?;
    Ok((body, services))
}
