//! What is asked of the contestants: bulk transfers by iperf3, requests by wrk.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::contestant::{Contestant, Target};
use super::sample;
use super::site::Site;
use super::table::{Column, Rank, count, decimals};

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// So many streams that send as much as they can.
    Bulk(u32),
    /// Requests one after the other on each of so many connections.
    KeepAlive(u32),
    /// A connection for each request, so many at a time.
    Close(u32),
}

/// What a load gave: a value for each column, and how many CPUs others used meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) values: Vec<f64>,
    pub(super) foreign: f64,
}

impl Load {
    /// Heading of its table.
    pub(super) fn title(self) -> String {
        match self {
            Self::Bulk(1) => "bulk: one stream".into(),
            Self::Bulk(streams) => format!("bulk: {streams} streams"),
            Self::KeepAlive(1) => "keep-alive: requests on one connection".into(),
            Self::KeepAlive(count) => format!("keep-alive: requests on {count} connections"),
            Self::Close(count) => format!("close: a connection per request, {count} at a time"),
        }
    }

    /// The columns of its table.
    pub(super) fn columns(self) -> Vec<Column> {
        let column = |name, rank, show| Column { name, rank, show };
        match self {
            Self::Bulk(_) => vec![
                column("Gbit/s", Rank::Most, decimals::<2>),
                column("proxies s/GB", Rank::Least, decimals::<2>),
                column("total s/GB", Rank::Least, decimals::<2>),
            ],
            Self::KeepAlive(_) | Self::Close(_) => vec![
                column("req/s", Rank::Most, count),
                column("p50 us", Rank::Least, count),
                column("p99 us", Rank::Least, count),
                column("proxies us/req", Rank::Least, decimals::<1>),
                column("total us/req", Rank::Least, decimals::<1>),
                column("errors", Rank::No, count),
            ],
        }
    }

    /// Puts it on a contestant for some seconds.
    pub(super) fn run(
        self,
        site: &Site,
        contestant: &dyn Contestant,
        seconds: u32,
    ) -> Result<Sample> {
        match self {
            Self::Bulk(streams) => bulk(site, contestant, seconds, streams),
            Self::KeepAlive(count) => requests(site, contestant, seconds, count, &[]),
            Self::Close(count) => {
                let close = ["--header", "Connection: close"];
                requests(site, contestant, seconds, count, &close)
            }
        }
    }
}

fn bulk(site: &Site, to: &dyn Contestant, seconds: u32, streams: u32) -> Result<Sample> {
    let endpoint = to.endpoint(Target::Bulk);
    let (host, port) = (endpoint.ip().to_string(), endpoint.port().to_string());
    let (seconds, streams) = (seconds.to_string(), streams.to_string());
    let command = [
        "iperf3",
        "--json",
        "--client",
        &host,
        "--port",
        &port,
        "--time",
        &seconds,
        "--parallel",
        &streams,
    ];
    let once = || {
        sample::during(site, to, || {
            site.output(to.client(), &command)
                .and_then(|said| received(&said))
        })
    };
    let first = once();
    // The server takes one test at a time, and a slow proxy may still hold on to the last one.
    let ((bytes, per_second), cpu) = first.or_else(|_| {
        sleep(Duration::from_secs(1));
        once()
    })?;
    let gigabytes = bytes / 1e9;
    Ok(Sample {
        values: vec![
            per_second / 1e9,
            cpu.proxies / gigabytes,
            cpu.total / gigabytes,
        ],
        foreign: cpu.foreign,
    })
}

/// Bytes that the server of `iperf3` received, and bits a second.
fn received(said: &str) -> Result<(f64, f64)> {
    let said: Value = serde_json::from_str(said)?;
    let sum = &said["end"]["sum_received"];
    let field = |name: &str| sum[name].as_f64().context("iperf3 received nothing");
    Ok((field("bytes")?, field("bits_per_second")?))
}

fn requests(
    site: &Site,
    to: &dyn Contestant,
    seconds: u32,
    connections: u32,
    more: &[&str],
) -> Result<Sample> {
    let url = format!("http://{}/", to.endpoint(Target::Http));
    let (seconds, threads) = (seconds.to_string(), connections.min(2).to_string());
    let connections = connections.to_string();
    let mut command = vec![
        "wrk",
        "--latency",
        "--duration",
        &seconds,
        "--threads",
        &threads,
        "--connections",
        &connections,
    ];
    command.extend_from_slice(more);
    command.push(&url);
    let (said, cpu) = sample::during(site, to, || site.output(to.client(), &command))?;
    let answers = Answers::read(&said).with_context(|| format!("wrk says\n{said}"))?;
    let micros = |seconds: f64| seconds * 1e6 / answers.count;
    Ok(Sample {
        values: vec![
            answers.per_second,
            answers.p50,
            answers.p99,
            micros(cpu.proxies),
            micros(cpu.total),
            answers.errors,
        ],
        foreign: cpu.foreign,
    })
}

/// What wrk says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Answers {
    count: f64,
    per_second: f64,
    /// Microseconds.
    p50: f64,
    p99: f64,
    errors: f64,
}

impl Answers {
    fn read(said: &str) -> Option<Self> {
        let lines = || said.lines().map(str::trim);
        let after = |key| {
            lines()
                .find_map(|line| line.strip_prefix(key))
                .map(str::trim)
        };
        let count = lines().find_map(|line| line.split_once(" requests in ")?.0.parse().ok())?;
        Some(Self {
            count,
            per_second: after("Requests/sec:")?.parse().ok()?,
            p50: micros(after("50%")?)?,
            p99: micros(after("99%")?)?,
            errors: errors(after("Socket errors:")) + errors(after("Non-2xx or 3xx responses:")),
        })
    }
}

/// A time as wrk writes it, in microseconds.
fn micros(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6)];
    units.into_iter().find_map(|(unit, factor)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(number * factor)
    })
}

/// All numbers of a line.
fn errors(line: Option<&str>) -> f64 {
    let words = line.unwrap_or_default().split([' ', ',']);
    words.filter_map(|word| word.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
Running 4s test @ http://10.88.0.2:8080/
  2 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   693.27us    1.16ms  16.44ms   88.84%
    Req/Sec    54.96k     5.74k   70.03k    63.75%
  Latency Distribution
     50%  201.00us
     75%  683.00us
     90%    2.06ms
     99%    5.42ms
  437654 requests in 4.03s, 490.89MB read
  Socket errors: connect 0, read 3, write 0, timeout 2
  Non-2xx or 3xx responses: 4
Requests/sec: 108599.51
Transfer/sec:    121.81MB
";

    #[test]
    fn reads_what_wrk_says() {
        let expected = Answers {
            count: 437_654.0,
            per_second: 108_599.51,
            p50: 201.0,
            p99: 5420.0,
            errors: 9.0,
        };
        assert_eq!(Answers::read(SAID), Some(expected));
        assert_eq!(Answers::read("unable to connect"), None);
    }

    #[test]
    fn reads_what_iperf3_says() {
        let said = r#"{"end":{"sum_received":{"bytes":17,"bits_per_second":34.5}}}"#;
        assert_eq!(received(said).expect("read"), (17.0, 34.5));
        assert!(received(r#"{"end":{},"error":"the server is busy"}"#).is_err());
    }
}
