//! `mesh-agent flows`: the latest flows and denials of this host, and with `-f` those to come.

mod render;
mod since;

use std::io::{self, Write as _};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use clap::builder::PossibleValuesParser;
use hyper::{Method, StatusCode};
use mesh_common::{Reason, Verdict};

use self::render::Table;
use self::since::Since;
use super::output::Style;
use crate::admin::{self, ClientError};
use crate::telemetry::flows::{CAPACITY, FlowQuery, FlowView, FlowsDocument};

/// How often a follower asks.
const INTERVAL: Duration = Duration::from_millis(300);
/// How long a follower waits for an agent that is restarted.
const RESTART: Duration = Duration::from_secs(15);
/// How many are shown where nothing else is said.
const LAST: usize = 20;

/// Everything was shown.
pub const SHOWN: u8 = 0;
/// The answer makes no sense, or cannot be written.
pub const FAILED: u8 = 1;
/// The arguments do not go together.
pub const USAGE: u8 = 2;
/// The agent cannot be reached.
pub const UNREACHABLE: u8 = 4;

/// Arguments of the command.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Go on with flows as they happen, with their beginnings too.
    #[arg(short, long)]
    pub follow: bool,
    /// Only flows with this service at either end, such as shop/payments.
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// Only flows of this caller.
    #[arg(long, value_name = "SERVICE")]
    pub from: Option<String>,
    /// Only flows to this service.
    #[arg(long, value_name = "SERVICE")]
    pub to: Option<String>,
    /// Only flows with this verdict.
    #[arg(long, value_parser = PossibleValuesParser::new(Verdict::ALL.iter().map(|v| v.name())))]
    pub verdict: Option<String>,
    /// Only flows with this reason.
    #[arg(long, value_parser = PossibleValuesParser::new(Reason::ALL.iter().map(|r| r.name())))]
    pub reason: Option<String>,
    /// Only flows that this rule decided on; `default` for the default.
    #[arg(long)]
    pub rule: Option<String>,
    /// Only what happened since: 10s, 5m, 2h, or a time such as 2026-11-21T09:30:00Z.
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
    /// Only the newest so many; 20 unless --since is given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=CAPACITY as i64))]
    pub last: Option<u16>,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Form,
}

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON object per line, see docs/flows.md.
    Jsonl,
    /// For programs: one document, not with -f.
    Json,
}

/// Asks the agent whose socket is in `run_dir`, prints, and returns the exit code.
pub fn run(run_dir: &Path, args: &Args) -> u8 {
    if args.follow && args.output == Form::Json {
        eprintln!("a document has an end, so -f is for -o table and -o jsonl");
        return USAGE;
    }
    let outcome = Printer::new(args).run(run_dir, args);
    match outcome {
        Ok(()) => SHOWN,
        Err(Stop::ReaderGone) => SHOWN,
        Err(Stop::Unreachable(error)) => {
            eprintln!("{error}");
            UNREACHABLE
        }
        Err(Stop::Failed(reason)) => {
            eprintln!("{reason}");
            FAILED
        }
    }
}

/// Why it ends.
enum Stop {
    /// Nobody reads any more (`| head`).
    ReaderGone,
    Unreachable(ClientError),
    Failed(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::ReaderGone;
        }
        Self::Failed(format!("cannot write the output: {error}"))
    }
}

fn query(args: &Args) -> FlowQuery {
    let last = args.last.map(usize::from);
    FlowQuery {
        since: args.since.map(|since| since.0),
        last: last.or(args.since.is_none().then_some(LAST)),
        service: args.service.clone(),
        source: args.from.clone(),
        destination: args.to.clone(),
        verdict: args.verdict.clone(),
        reason: args.reason.clone(),
        rule: args.rule.clone(),
        opens: args.follow,
        ..FlowQuery::default()
    }
}

fn ask(run_dir: &Path, query: &FlowQuery) -> Result<(String, FlowsDocument), Stop> {
    let target = format!("/api/v1/flows?{}", query.to_query_string());
    let answer = admin::request(run_dir, Method::GET, &target).map_err(Stop::Unreachable)?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    if answer.status != StatusCode::OK {
        let status = answer.status;
        return Err(Stop::Failed(format!(
            "the agent answers {status}: {}",
            body.trim_end()
        )));
    }
    let document = serde_json::from_str(&body).map_err(|error| {
        Stop::Failed(format!(
            "the agent's flows are in a form this command does not know: {error}; use the mesh-agent binary that is running"
        ))
    })?;
    Ok((body, document))
}

struct Printer {
    form: Form,
    table: Table,
    /// What was lost when that was last said.
    lost: u64,
}

impl Printer {
    fn new(args: &Args) -> Self {
        Self {
            form: args.output,
            table: Table::new(Style::of_stdout()),
            lost: 0,
        }
    }

    fn run(&mut self, run_dir: &Path, args: &Args) -> Result<(), Stop> {
        let mut query = query(args);
        let (body, document) = ask(run_dir, &query)?;
        match self.form {
            Form::Json => write(&body)?,
            _ => self.flows(&document.flows)?,
        }
        eprintln!("{}", render::account(&document));
        self.lost = document.lost;
        if !args.follow {
            return Ok(());
        }
        query.last = None;
        query.after = Some(document.next);
        loop {
            sleep(INTERVAL);
            let document = ask_patiently(run_dir, &query)?;
            for line in render::gaps(&document, self.lost) {
                eprintln!("{line}");
            }
            self.lost = document.lost;
            query.after = Some(document.next);
            self.flows(&document.flows)?;
        }
    }

    fn flows(&mut self, flows: &[FlowView]) -> Result<(), Stop> {
        let mut out = String::new();
        for flow in flows {
            match self.form {
                Form::Table => out.push_str(&self.table.row(flow)),
                _ => {
                    let line = serde_json::to_string(flow);
                    out.push_str(&line.map_err(|error| Stop::Failed(error.to_string()))?);
                }
            }
            out.push('\n');
        }
        if self.form == Form::Table && !out.is_empty() {
            out = self.table.head() + &out;
        }
        Ok(write(&out)?)
    }
}

/// Asks; an agent that is being restarted is waited for.
fn ask_patiently(run_dir: &Path, query: &FlowQuery) -> Result<FlowsDocument, Stop> {
    let deadline = Instant::now() + RESTART;
    loop {
        match ask(run_dir, query) {
            Ok((_, document)) => return Ok(document),
            Err(Stop::Unreachable(_)) if Instant::now() < deadline => sleep(INTERVAL),
            Err(stop) => return Err(stop),
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
