//! The `mesh-agent` command: parses the command line and calls the module of the command.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;
use mesh_agent::agent::{self, StartError};
use mesh_agent::cli::{Cli, Command, ConfigArg};
use mesh_agent::commands::output::Output;
use mesh_agent::commands::{
    ca, check, doctor, explain, flows, status, suggest, support, top, unload,
};
use mesh_agent::config::{AgentConfig, DEFAULT_PATH, LogLevel};
use mesh_agent::dataplane::usher;
use mesh_agent::policy::compile::compile;
use mesh_agent::policy::diagnostic::Diagnostic;
use mesh_agent::policy::ids::Ids;
use mesh_agent::policy::model::Policy;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Something failed.
const FAILED: u8 = 1;
/// The configuration is invalid.
const INVALID: u8 = 3;

fn main() -> ExitCode {
    ExitCode::from(run(Cli::parse().command))
}

fn run(command: Command) -> u8 {
    match command {
        Command::Check {
            directory,
            against,
            config,
            output,
        } => check(directory, against.as_deref(), &config.config, output),
        Command::Run { config } => with_config(&config, |config| run_agent(config, agent::run)),
        Command::Load { config } => with_config(&config, |config| run_agent(config, agent::load)),
        Command::Explain { args, config } => {
            with_config(&config, |config| explain::run(&args, &config, color()))
        }
        Command::Status { args, config } => {
            with_config(&config, |config| status::run(&config.paths.run_dir, &args))
        }
        Command::Flows { args, config } => {
            with_config(&config, |config| flows::run(&config.paths.run_dir, &args))
        }
        Command::Suggest { args, config } => {
            with_config(&config, |config| suggest::run(&args, &config, color()))
        }
        Command::Doctor { args, config } => with_config(&config, |config| {
            let AgentConfig { paths, .. } = config;
            let paths = doctor::Paths {
                bpffs: paths.bpffs,
                cgroup_root: paths.cgroup_root,
            };
            doctor::run(&paths, &args)
        }),
        Command::Top { args, config } => {
            with_config(&config, |config| top::run(&config.paths.run_dir, &args))
        }
        Command::Support { args, config } => {
            let (settings, problems) = salvaged(&config);
            print_problems(&problems);
            support::run(&args, &settings, &problems)
        }
        Command::Ca { command } => ca::run(&command, color()),
        Command::Usher { bpffs } => usher(bpffs),
        Command::Unload { config } => {
            let (settings, problems) = salvaged(&config);
            print_problems(&problems);
            unload::run(&settings.paths.bpffs, problems.is_empty())
        }
    }
}

fn usher(bpffs: Option<PathBuf>) -> u8 {
    mesh_sys::memory::share_one_heap();
    match usher::serve(io::stdin(), bpffs) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("mesh-agent usher: {error}");
            FAILED
        }
    }
}

fn color() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !unwanted
}

fn print_problems(problems: &[Diagnostic]) -> u8 {
    for problem in problems {
        eprintln!("{}", problem.render(color()));
    }
    INVALID
}

/// Loads the settings; only the default file may be missing.
fn with_config(config: &ConfigArg, command: impl FnOnce(AgentConfig) -> u8) -> u8 {
    match AgentConfig::load(&config.config, must_exist(config)) {
        Ok(config) => command(config),
        Err(problems) => print_problems(&problems),
    }
}

/// What can be understood of the settings, for commands that are needed most when something is wrong with them.
fn salvaged(config: &ConfigArg) -> (AgentConfig, Vec<Diagnostic>) {
    AgentConfig::salvage(&config.config, must_exist(config))
}

fn must_exist(config: &ConfigArg) -> bool {
    config.config != Path::new(DEFAULT_PATH)
}

fn run_agent(config: AgentConfig, work: impl FnOnce(AgentConfig) -> Result<(), StartError>) -> u8 {
    mesh_sys::memory::share_one_heap();
    log_to_stderr(config.log.level);
    match work(config) {
        Ok(()) => 0,
        // The problems themselves are logged.
        Err(error @ StartError::Configuration(_)) => {
            tracing::error!("{error}");
            INVALID
        }
        Err(error) => {
            tracing::error!("{}", with_causes(&error));
            FAILED
        }
    }
}

/// An error and what it is due to, where that does not repeat it.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        cause = error.source();
    }
    text
}

/// `MESH_LOG` beats the file: a level, or `target=level` separated by commas.
fn log_to_stderr(level: LogLevel) {
    let wanted = std::env::var("MESH_LOG").ok();
    let filter = wanted.as_deref().unwrap_or(level.name()).parse::<Targets>();
    let (filter, problem) = match filter {
        Ok(filter) => (filter, None),
        Err(error) => (
            Targets::new().with_default(tracing::Level::INFO),
            Some(error),
        ),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(color())
        .with_target(false);
    tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .init();
    if let Some(error) = problem {
        tracing::warn!(%error, "MESH_LOG makes no sense");
    }
}

fn check(directory: Option<PathBuf>, against: Option<&Path>, config: &Path, output: Output) -> u8 {
    let options = check::Options {
        directory,
        config,
        against,
        format: match output {
            Output::Table => check::Format::Human,
            Output::Json => check::Format::Json,
        },
        color: color(),
    };
    let compile = |policy: &Policy| {
        let entries = compile(policy, &mut Ids::new(0));
        Ok(format!("{} kernel entries", entries.len()))
    };
    match check::run(&options, compile, &mut io::stdout(), &mut io::stderr()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cannot print: {error}");
            FAILED
        }
    }
}
