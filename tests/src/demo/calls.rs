//! A caller of the demo: HTTP requests, each over a new connection, and a count of what came.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Identity;

/// How long it waits for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it goes on altogether.
const ALL: Duration = Duration::from_secs(60);

/// Its command line.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    identity: Identity,
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    count: u64,
}

/// What came of the calls; on stdout as JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Calls {
    /// The caller's process id.
    pub(super) pid: u32,
    /// Answers by version.
    pub(super) answers: BTreeMap<String, u64>,
    /// What `connect()` failed with, and how often.
    pub(super) refused: BTreeMap<String, u64>,
    /// What failed later, and how often.
    pub(super) failed: BTreeMap<String, u64>,
    /// How long one call took, the median, microseconds.
    pub(super) median_micros: u64,
}

/// Calls and prints what came of it.
pub(super) fn run(args: &Args) -> Result<()> {
    args.identity.assume()?;
    let mut calls = Calls {
        pid: process::id(),
        ..Calls::default()
    };
    let begin = Instant::now();
    let mut times = Vec::new();
    for _ in 0..args.count {
        let start = Instant::now();
        calls.call(args.to);
        times.push(start.elapsed());
        if begin.elapsed() > ALL {
            break;
        }
    }
    times.sort_unstable();
    calls.median_micros = times[times.len() / 2].as_micros() as u64;
    println!("{}", serde_json::to_string(&calls)?);
    Ok(())
}

impl Calls {
    fn call(&mut self, to: SocketAddr) {
        let (list, what) = match TcpStream::connect(to) {
            Err(error) => (&mut self.refused, without_number(&error)),
            Ok(stream) => match request(stream) {
                Ok(version) => (&mut self.answers, version),
                Err(error) => (&mut self.failed, without_number(&error)),
            },
        };
        *list.entry(what).or_default() += 1;
    }

    /// How many got no answer.
    pub(super) fn unanswered(&self) -> u64 {
        self.refused.values().sum::<u64>() + self.failed.values().sum::<u64>()
    }
}

/// The version that answers.
fn request(mut stream: TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: payments.shop\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    version(&answer).ok_or_else(|| io::Error::other(format!("not an answer: {answer:?}")))
}

/// The last word of an answer that says 200.
fn version(answer: &str) -> Option<String> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let version = body.split_whitespace().last()?;
    head.starts_with("HTTP/1.1 200 ").then(|| version.into())
}

/// `Operation not permitted` out of `Operation not permitted (os error 1)`.
fn without_number(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error ").unwrap_or(text.len());
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_200_with_a_version() {
        let answer = |text: &str| version(text);
        assert_eq!(
            answer("HTTP/1.1 200 OK\r\ndate: x\r\n\r\npayments v2\n").as_deref(),
            Some("v2")
        );
        assert_eq!(answer("HTTP/1.1 503 No\r\n\r\npayments v2\n"), None);
        assert_eq!(answer("HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(answer(""), None);
    }
}
