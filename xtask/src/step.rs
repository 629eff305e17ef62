//! A named, timed part of a task.

use std::{env, process::Command, time::Instant};

use anyhow::{Context as _, Result, bail};

/// Prints a heading when it starts and how long it took when it ends.
pub(crate) struct Step {
    name: String,
    start: Instant,
}

impl Step {
    pub(crate) fn start(name: &str) -> Self {
        println!("\n== {name}");
        Self {
            name: name.to_owned(),
            start: Instant::now(),
        }
    }

    /// Runs `command` with this process's terminal as the rest of the step.
    pub(crate) fn finish(self, mut command: Command) -> Result<()> {
        let program = command.get_program().to_owned();
        let status = command
            .status()
            .with_context(|| format!("{}: cannot run {}", self.name, program.display()))?;
        if !status.success() {
            bail!("{} failed ({status})", self.name);
        }
        self.done();
        Ok(())
    }

    pub(crate) fn done(self) {
        let seconds = self.start.elapsed().as_secs_f64();
        println!("-- {}: {seconds:.1} s", self.name);
    }
}

/// The cargo that runs this task, with `arguments`.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments);
    cargo
}
