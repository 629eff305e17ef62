//! What a guest is told and what it tells: JSON, of which `xtask` has the other side.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What to run.
#[derive(Debug, Deserialize)]
pub struct Plan {
    /// The tests, in order.
    pub tests: Vec<Planned>,
    /// How many run at a time, unless one wants to be alone.
    pub workers: usize,
    /// How long one may take, in seconds.
    pub limit: u64,
    /// How many times slower than usual this machine is.
    pub slowness: u32,
    /// Whether the kernel's type information is hidden, as on kernels built without.
    pub hide_btf: bool,
    /// The serial line that takes the report; the kernel has another one.
    pub line: PathBuf,
}

/// A test to run.
#[derive(Clone, Debug, Deserialize)]
pub struct Planned {
    /// Name of the program.
    pub suite: String,
    /// Name of the test in it.
    pub test: String,
    /// Whether nothing else may run meanwhile.
    pub alone: bool,
}

/// One line of the report.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event<'a> {
    /// The guest is up.
    Boot {
        /// Release of the kernel.
        kernel: &'a str,
    },
    /// A test begins.
    Begin {
        /// `suite::test`.
        test: &'a str,
    },
    /// A test has ended.
    End {
        /// `suite::test`.
        test: &'a str,
        /// How.
        outcome: Outcome,
        /// How long it took.
        seconds: f64,
        /// Why it was skipped, or the end of what it said.
        said: &'a str,
    },
    /// All have ended.
    Done,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not, or took too long.
    Failed,
    /// It cannot be run here.
    Skipped,
    /// It cannot be run here, and need not.
    Optional,
}
