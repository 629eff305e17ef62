//! Requests, as the kernel counts them, against what clients and servers have seen.

#[path = "http/framing.rs"]
mod framing;
#[path = "http/places.rs"]
mod places;
#[path = "http/servers.rs"]
mod servers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mesh_tests::patience::scaled;
use mesh_tests::peer::{Peer, Step};
use mesh_tests::{Sandbox, agent, names};

/// Services that speak HTTP at loopback and in a container, and those that may call.
const SHOP: &str = r#"
[mesh]
default = "deny"

[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout.service" }

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [
  { name = "http", listen = 80, protocol = "http" },
  { name = "rpc", listen = 81, protocol = "grpc" },
  { name = "raw", listen = 82 },
]
workload = { systemd = "payments*.service" }
endpoints = [
  { address = "127.0.0.1:8081", port = "http", version = "v1" },
  { address = "127.0.0.1:8083", port = "rpc", version = "v1" },
  { address = "127.0.0.1:8084", port = "raw", version = "v1" },
]

[[service]]
name = "six"
namespace = "shop"
vip = "fd00:96::10"
ports = [{ name = "http", listen = 80, protocol = "http" }]
workload = { systemd = "six.service" }
endpoints = [{ address = "[::1]:8082", version = "v2" }]

[[service]]
name = "boxed"
namespace = "shop"
vip = "10.96.0.11"
ports = [{ name = "http", listen = 80, protocol = "http" }]
workload = { cgroup = "/system.slice/boxed.service" }
endpoints = [{ address = "10.88.0.2:9000", version = "v1", node = "edge-1" }]

[[allow]]
name = "checkout-pays"
from = ["shop/checkout", { cidr = "10.88.0.0/24" }]
to = ["shop/*"]
"#;

const PAYMENTS: &str = names::PAYMENTS;
const CHECKOUT: &str = names::CHECKOUT;
const ENDPOINT: &str = "127.0.0.1:8081";
const VIP: &str = "10.96.0.10:80";

/// A series of requests: who called whom, the method and the status.
type Series = [String; 4];

/// Requests by series.
fn counted(sandbox: &Sandbox) -> BTreeMap<Series, u64> {
    let mut counts = BTreeMap::new();
    let series = agent::series(sandbox, "mesh_http_requests_total").expect("metrics");
    for (labels, value) in series {
        assert_eq!(labels["reporter"], "destination");
        let names = [
            "source_service",
            "destination_service",
            "method",
            "response_code",
        ];
        *counts
            .entry(names.map(|name| labels[name].clone()))
            .or_default() += value as u64;
    }
    counts
}

/// Connections that could not be followed, by reason.
fn unparsed(sandbox: &Sandbox) -> BTreeMap<String, u64> {
    let series = agent::series(sandbox, "mesh_http_unparsed_total").expect("metrics");
    let of_series =
        |(labels, value): (BTreeMap<String, String>, f64)| (labels["reason"].clone(), value as u64);
    series.into_iter().map(of_series).collect()
}

/// What must have been counted.
#[derive(Clone, Debug, Default)]
struct Book {
    requests: BTreeMap<Series, u64>,
    unparsed: BTreeMap<String, u64>,
}

impl Book {
    fn request(&mut self, from: &str, to: &str, method: &str, code: u16, count: u64) {
        let series = [from.into(), to.into(), method.into(), code.to_string()];
        *self.requests.entry(series).or_default() += count;
    }

    fn unparsed(&mut self, reason: &str) {
        *self.unparsed.entry(reason.into()).or_default() += 1;
    }

    /// Waits until exactly this is counted, and durations of what was answered.
    #[track_caller]
    fn settle(&self, sandbox: &Sandbox) {
        let deadline = Instant::now() + scaled(Duration::from_secs(4));
        loop {
            let counts = (counted(sandbox), unparsed(sandbox));
            if counts == (self.requests.clone(), self.unparsed.clone()) {
                break;
            }
            if Instant::now() > deadline {
                let log = agent::log(sandbox);
                assert_eq!(counts.0, self.requests, "{:?} {log}", counts.1);
                assert_eq!(counts.1, self.unparsed, "{log}");
            }
            sleep(Duration::from_millis(30));
        }
        let answered = self.requests.iter().filter(|(series, _)| series[3] != "0");
        let answered: u64 = answered.map(|(_, count)| count).sum();
        let timed = agent::metric(sandbox, "mesh_http_request_duration_seconds_count", &[]);
        assert_eq!(timed.expect("metrics") as u64, answered);
    }
}

/// One end's part of a conversation.
#[derive(Clone, Debug)]
enum Said {
    Client(Vec<u8>),
    Server(Vec<u8>),
    /// The client waits, milliseconds.
    Pause(u64),
}

fn client(text: &str) -> Said {
    Said::Client(text.into())
}

fn server(text: &str) -> Said {
    Said::Server(text.into())
}

/// The scripts of both ends: each hears what the other says before it goes on.
fn scripts(conversation: &[Said]) -> (Vec<Step>, Vec<Step>) {
    let (mut client, mut server) = (Vec::new(), Vec::new());
    for said in conversation {
        match said {
            Said::Client(bytes) => {
                client.push(Step::Say(bytes.clone()));
                server.push(Step::Receive(bytes.len() as u64));
            }
            Said::Server(bytes) => {
                server.push(Step::Say(bytes.clone()));
                client.push(Step::Receive(bytes.len() as u64));
            }
            Said::Pause(millis) => client.push(Step::Pause(*millis)),
        }
    }
    (client, server)
}

/// Has a conversation, of which every byte must arrive.
#[track_caller]
fn talk(server: &mut Peer, at: &str, caller: &mut Peer, to: &str, conversation: &[Said]) {
    let (asks, answers) = scripts(conversation);
    let bound: SocketAddr = server.play_server(at, &answers).expect("a server");
    assert_eq!(bound, names::address(at));
    let played = caller.play(to, &asks).expect("a client");
    let count = |client: bool| -> u64 {
        let lengths = conversation.iter().map(|said| match said {
            Said::Client(bytes) if client => bytes.len() as u64,
            Said::Server(bytes) if !client => bytes.len() as u64,
            _ => 0,
        });
        lengths.sum()
    };
    assert_eq!(played.error, None);
    assert_eq!((played.sent, played.received), (count(true), count(false)));
}
