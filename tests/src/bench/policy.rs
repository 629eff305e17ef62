//! Policies of any size around the services that are measured.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

/// Rules in one file: the agent reads files of up to 1 MiB.
const RULES_PER_FILE: usize = 5000;

/// Half of 1 MiB, but for one rule.
const LARGE_HALF: usize = (1 << 19) - 400;

/// The measured services: checkout calls the servers at `port` (see `worker.rs`); nobody else may.
pub(super) fn base(port: u16) -> (String, String) {
    let [one, two, echo, swallow] = [0, 1, 2, 3].map(|offset| port + offset);
    let text = format!(
        r#"[mesh]
default = "deny"
vip_range = "10.96.0.0/16"

[[service]]
name = "checkout"
namespace = "bench"
workload = {{ systemd = "checkout.service" }}

[[service]]
name = "payments"
namespace = "bench"
vip = "10.96.0.10"
ports = [{{ name = "main", listen = 80 }}]
workload = {{ systemd = "payments-*.service" }}
endpoints = [
  {{ address = "127.0.0.1:{one}", version = "v1" }},
  {{ address = "127.0.0.1:{two}", version = "v2" }},
]

[[service]]
name = "echo"
namespace = "bench"
vip = "10.96.0.11"
ports = [{{ name = "main", listen = 80 }}]
endpoints = [{{ address = "127.0.0.1:{echo}" }}]

[[service]]
name = "swallow"
namespace = "bench"
vip = "10.96.0.12"
ports = [{{ name = "main", listen = 80 }}]
endpoints = [{{ address = "127.0.0.1:{swallow}" }}]

[[split]]
service = "bench/payments"
weights = {{ v1 = 1, v2 = 1 }}

[[allow]]
name = "checkout"
from = ["bench/checkout"]
to = ["bench/payments", "bench/echo", "bench/swallow"]
"#
    );
    ("10-base.toml".into(), text)
}

/// `base` among `services` services and `rules` rules.
pub(super) fn of_size(port: u16, services: usize, rules: usize) -> Vec<(String, String)> {
    let (more, rules) = (services.saturating_sub(4), rules.saturating_sub(1));
    let mut files = vec![base(port)];
    let services: Vec<usize> = (0..more).collect();
    for (number, chunk) in services.chunks(RULES_PER_FILE / 2).enumerate() {
        let text = chunk.iter().fold(String::new(), |mut text, number| {
            service(&mut text, *number);
            text
        });
        files.push((format!("20-services-{number}.toml"), text));
    }
    let rules: Vec<usize> = (0..rules).collect();
    for (number, chunk) in rules.chunks(RULES_PER_FILE).enumerate() {
        let text = chunk.iter().fold(String::new(), |mut text, number| {
            rule(&mut text, *number, more.max(2));
            text
        });
        files.push((format!("30-rules-{number}.toml"), text));
    }
    files
}

/// `base` among `services` services that checkout may call, each with an address of its own at
/// loopback's port `served`.
pub(super) fn served(port: u16, services: usize, served: u16) -> Vec<(String, String)> {
    let mut text = String::from(
        "[[allow]]\nname = \"many\"\nfrom = [\"bench/checkout\"]\nto = [\"many/*\"]\n\n",
    );
    for number in 0..services {
        let (high, low) = high_low(number);
        let vip = served_vip(number);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            r#"[[service]]
name = "s{number}"
namespace = "many"
vip = "{vip}"
ports = [{{ name = "main", listen = 80 }}]
endpoints = [{{ address = "127.1.{high}.{low}:{served}" }}]

"#
        );
    }
    vec![base(port), ("20-served.toml".into(), text)]
}

/// Where the services of [`served`] are dialled.
pub(super) fn served_vips(services: usize) -> Vec<SocketAddr> {
    let vip = |number| SocketAddr::from((served_vip(number), 80));
    (0..services).map(vip).collect()
}

fn served_vip(number: usize) -> Ipv4Addr {
    let (high, low) = high_low(number);
    Ipv4Addr::new(10, 96, high + 1, low)
}

/// The last two parts of an address.
fn high_low(number: usize) -> (u8, u8) {
    ((number / 250) as u8, (number % 250 + 1) as u8)
}

/// Two halves of a file of rules that is nearly as large as the agent reads, for `services`
/// services.
pub(super) fn large_file(services: usize) -> (String, String) {
    let half = |numbers: std::ops::RangeFrom<usize>| {
        let mut text = String::new();
        for number in numbers {
            if text.len() > LARGE_HALF {
                break;
            }
            rule(&mut text, number, services - 4);
        }
        text
    };
    (half(0..), half(50_000..))
}

fn service(text: &mut String, number: usize) {
    let (high, low) = high_low(number);
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        r#"[[service]]
name = "s{number}"
namespace = "many"
workload = {{ systemd = "s{number}.service" }}
ports = [{{ name = "main", listen = 80 }}]
endpoints = [{{ address = "10.1.{high}.{low}:8080" }}]

"#
    );
}

/// Every service gets callers that are its neighbours, all pairs different.
fn rule(text: &mut String, number: usize, services: usize) {
    let to = number % services;
    let from = (to + 1 + (number / services) % (services - 1)) % services;
    let _ = write!(
        text,
        "[[allow]]\nname = \"r{number}\"\nfrom = [\"many/s{from}\"]\nto = [\"many/s{to}\"]\n\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_have_the_size_asked_for() {
        for (services, rules) in [(10, 20), (1000, 10_000)] {
            let files = of_size(9001, services, rules);
            let count = |what: &str| -> usize {
                files
                    .iter()
                    .map(|(_, text)| text.matches(what).count())
                    .sum()
            };
            assert_eq!(count("[[service]]"), services);
            assert_eq!(count("[[allow]]"), rules);
            assert!(files.iter().all(|(_, text)| text.len() < 1 << 20));
        }
    }
}
