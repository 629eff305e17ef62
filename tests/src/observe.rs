//! What the agent says of itself, and waiting for it to say something else.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agent;
use crate::patience::scaled;
use crate::sandbox::Sandbox;

/// How long the agent may take to notice a change of its files.
pub const NOTICE: Duration = Duration::from_secs(10);

/// Waits until `condition` holds, for at most `limit`.
///
/// # Panics
///
/// It does not.
#[track_caller]
pub fn until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + scaled(limit);
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// Waits until a metric (see [`agent::metric`]) is as it should be.
///
/// # Panics
///
/// It is not within [`NOTICE`], or the agent does not answer.
#[track_caller]
pub fn counts(sandbox: &Sandbox, name: &str, labels: &[(&str, &str)], right: impl Fn(f64) -> bool) {
    let deadline = Instant::now() + scaled(NOTICE);
    loop {
        match agent::metric(sandbox, name, labels) {
            Ok(value) if right(value) => return,
            value => assert!(Instant::now() < deadline, "{name}{labels:?}: {value:?}"),
        }
        sleep(Duration::from_millis(50));
    }
}

/// Exit code and document of `status -o json`; the document is null if there is none.
///
/// # Errors
///
/// It cannot be run.
pub fn status(sandbox: &Sandbox) -> io::Result<(Option<i32>, Value)> {
    let output = agent::command(sandbox, &["status", "-o", "json"])?;
    let document = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Ok((output.status.code(), document))
}

/// The problems in a status document, one to a line.
pub fn problems(document: &Value) -> String {
    let problems = document["problems"].as_array();
    let texts = problems.into_iter().flatten().filter_map(Value::as_str);
    texts.collect::<Vec<_>>().join("\n")
}
