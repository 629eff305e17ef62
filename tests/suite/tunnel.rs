//! Calls between nodes: two agents, a wire, real certificates.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use mesh_tests::authority::{Authority, Wanted};
use mesh_tests::host;
use mesh_tests::hosts::{EDGE_2, Host, two};
use mesh_tests::names::{CHECKOUT, INTRUDER, PAYMENTS, VIP, address};
use mesh_tests::observe::until;
use mesh_tests::patience::scaled;
use mesh_tests::peer::{After, Dial, Kind, Peer, Request, Socket};
use nix::sys::signal::Signal;

/// How long a connection may outlive what allowed it.
const AT_MOST: Duration = Duration::from_secs(1);
/// What checkout may call on the other node.
const ENDPOINT: &str = "127.0.0.1:8082";
const NODES: &str = r#"
[[node]]
name = "edge-1"
address = "10.7.0.1"

[[node]]
name = "edge-2"
address = "10.7.0.2"
"#;
const SERVICES: &str = r#"
[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout.service" }

[[service]]
name = "intruder"
namespace = "dev"
workload = { systemd = "intruder.service" }

[[service]]
name = "ledger"
namespace = "shop"
ports = [{ name = "http", listen = 80 }]
workload = { systemd = "ledger.service" }
endpoints = [{ address = "127.0.0.1:9999", node = "edge-2" }]

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "http", listen = 80 }]
workload = { systemd = "payments.service" }
endpoints = [{ address = "127.0.0.1:8082", version = "v2", node = "edge-2" }]
"#;
const ALLOW: &str = r#"
[[allow]]
name = "checkout-pays"
from = ["shop/checkout"]
to = ["shop/payments"]
"#;
const DENY: &str = r#"
[[deny]]
name = "no-more"
from = ["shop/checkout"]
to = ["shop/payments"]
"#;
/// Certificates of the first host; the serial number of checkout's comes first.
const HERE: [&str; 4] = [
    "shop/checkout",
    "dev/intruder",
    "node edge-1",
    "shop/ledger",
];
/// Those of the second.
const THERE: [&str; 3] = ["shop/payments", "shop/ledger", "node edge-2"];
const CHECKOUT_SERIAL: u64 = 100;
const PAYMENTS_SERIAL: u64 = 200;

fn policy() -> String {
    [NODES, SERVICES, ALLOW].concat()
}

/// Two hosts with agents: callers on the first, payments on the second.
struct Mesh {
    here: Host,
    there: Host,
    authority: Authority,
    checkout: Peer,
    payments: Peer,
}

impl Mesh {
    fn start() -> Self {
        Self::with(&policy(), &policy())
    }

    fn with(here_says: &str, there_says: &str) -> Self {
        Self::prepared(here_says, there_says, |_, _, _| {})
    }

    /// With other certificates than the right ones.
    fn certified(prepare: impl FnOnce(&Authority, &Host, &Host)) -> Self {
        Self::prepared(&policy(), &policy(), prepare)
    }

    fn prepared(
        here_says: &str,
        there_says: &str,
        prepare: impl FnOnce(&Authority, &Host, &Host),
    ) -> Self {
        let [mut here, mut there] = two().expect("two hosts");
        let authority = Authority::new("root").expect("an authority");
        here.certify(&authority, &HERE, CHECKOUT_SERIAL)
            .expect("certificates");
        there
            .certify(&authority, &THERE, PAYMENTS_SERIAL)
            .expect("certificates");
        prepare(&authority, &here, &there);
        for (host, policy) in [(&mut here, here_says), (&mut there, there_says)] {
            host.write_policy(policy).expect("a policy");
            host.start();
        }
        let checkout = here.peer(CHECKOUT);
        let mut payments = there.peer(PAYMENTS);
        payments.serve_tcp(ENDPOINT, "v2").expect("served");
        let mut mesh = Self {
            here,
            there,
            authority,
            checkout,
            payments,
        };
        mesh.warm_up();
        mesh
    }

    /// Waits until calls are taken: listeners are opened where callers are.
    fn warm_up(&mut self) {
        let Self { here, checkout, .. } = self;
        until(Duration::from_secs(10), "calls are taken", || {
            call(checkout) != Err("EPERM".into())
        });
        drop(here.denials());
    }

    #[track_caller]
    fn is_open(&mut self) {
        let answer = call(&mut self.checkout);
        let (here, there) = (self.here.log(), self.there.log());
        assert_eq!(answer, Ok("v2".into()), "{here}\n{there}");
    }
}

fn call(peer: &mut Peer) -> Result<String, String> {
    call_to(peer, VIP)
}

fn call_to(peer: &mut Peer, to: &str) -> Result<String, String> {
    let dial = Dial::tcp(address(to)).then(After::Close);
    let outcome = peer.dial_once(dial).expect("an outcome");
    match outcome.failure {
        Some(failure) => Err(failure.errno),
        None => Ok(outcome.label.unwrap_or_default()),
    }
}

/// A flow that is kept.
#[track_caller]
fn keep(peer: &mut Peer) -> Socket {
    let dial = Dial::tcp(address(VIP)).then(After::Keep);
    let outcome = peer.dial_once(dial).expect("an outcome");
    assert_eq!(outcome.failure, None, "{outcome:?}");
    outcome.socket.expect("kept")
}

fn is_alive(peer: &mut Peer, socket: Socket) -> bool {
    let said = peer.exchange(&[socket], "still").expect("an outcome");
    said.iter().all(|outcome| outcome.failure.is_none())
}

/// Waits until a flow is cut, and holds that against the limit.
#[track_caller]
fn is_cut_in_time(peer: &mut Peer, socket: Socket, since: Instant) {
    until(Duration::from_secs(5), "cut", || !is_alive(peer, socket));
    let took = since.elapsed();
    assert!(took < scaled(AT_MOST), "{took:?}");
}

#[test]
fn a_call_reaches_the_other_node_and_a_denied_one_does_not_leave() {
    host::run("tunnel", |_| {
        let mut mesh = Mesh::start();
        let mut intruder = mesh.here.peer(INTRUDER);
        mesh.is_open();
        assert_eq!(call(&mut intruder), Err("EPERM".into()));
        let labels = |reporter| {
            [
                ("reporter", reporter),
                ("source_service", "shop/checkout"),
                ("destination_service", "shop/payments"),
                ("destination_version", "v2"),
                ("connection_security_policy", "mutual_tls"),
            ]
        };
        let opened = "mesh_tcp_connections_opened_total";
        let here = mesh.here.metric(opened, &labels("source"));
        let here = here.expect("a metric");
        assert!(here >= 1.0, "{here}");
        for (host, reporter) in [(&mesh.here, "source"), (&mesh.there, "destination")] {
            host.counts(opened, &labels(reporter), |value| value == here);
        }
        let served = mesh.payments.served().expect("a number");
        assert_eq!(served as f64, here, "every flow is one connection");
    });
}

#[test]
fn a_caller_in_a_container_is_served_as_well() {
    host::run("tunnel-container", |_| {
        let mut mesh = Mesh::start();
        let mut container = mesh.here.container("system.slice/checkout.service/payload");
        until(
            Duration::from_secs(10),
            "a listener in the container",
            || call(&mut container) == Ok("v2".into()),
        );
        mesh.is_open();
    });
}

#[test]
fn only_the_kernels_redirects_are_taken() {
    host::run("tunnel-strays", |_| {
        let mut mesh = Mesh::start();
        mesh.is_open();
        let mut intruder = mesh.here.peer(INTRUDER);
        let answer = call_to(&mut intruder, "127.0.0.1:15001");
        assert!(answer.is_err(), "{answer:?}");
        mesh.here
            .counts("mesh_tunnel_strays_total", &[], |value| value >= 1.0);
    });
}

#[test]
fn nobody_squats_on_the_listener_of_a_dead_agent() {
    host::run("tunnel-squatter", |_| {
        let mut mesh = Mesh::start();
        mesh.is_open();
        drop(mesh.here.agent.take());
        let mut intruder = mesh.here.peer(INTRUDER);
        for at in ["127.0.0.1:15001", "0.0.0.0:15001", "127.0.0.9:15001"] {
            let socket = intruder.open(Kind {
                reuse: true,
                ..Kind::default()
            });
            let bind = Request::Bind {
                socket: socket.expect("a socket"),
                address: address(at),
            };
            let error: Option<String> = intruder.ask(&bind).expect("an answer");
            assert_eq!(error.as_deref(), Some("EPERM"), "{at}");
        }
        assert_eq!(call(&mut mesh.checkout), Err("ECONNREFUSED".into()));
        mesh.here.start();
        until(Duration::from_secs(10), "the agent is back", || {
            call(&mut mesh.checkout) == Ok("v2".into())
        });
    });
}

#[test]
fn a_revoked_certificate_ends_everything_within_a_second() {
    host::run("tunnel-revoked", |_| {
        for (revoker, serial) in [(1, CHECKOUT_SERIAL), (0, PAYMENTS_SERIAL)] {
            let mut mesh = Mesh::start();
            let kept = keep(&mut mesh.checkout);
            assert!(is_alive(&mut mesh.checkout, kept));
            let host = [&mesh.here, &mesh.there][revoker];
            let tls = host.sandbox.path("tls");
            mesh.authority.revoke(&tls, &[serial]).expect("a list");
            is_cut_in_time(&mut mesh.checkout, kept, Instant::now());
            let answer = call(&mut mesh.checkout);
            assert!(answer.is_err(), "{answer:?}");
            until(Duration::from_secs(5), "a record", || {
                let denials = host.denials();
                denials
                    .iter()
                    .any(|denial| denial.starts_with("certificate-revoked"))
            });
            host.counts("mesh_tunnel_sessions_revoked_total", &[], |value| {
                value >= 1.0
            });
        }
    });
}

#[test]
fn a_node_that_leaves_the_policy_is_cut_within_a_second() {
    host::run("tunnel-node", |_| {
        let mut mesh = Mesh::start();
        let kept = keep(&mut mesh.checkout);
        let without = NODES
            .replace("edge-1", "edge-9")
            .replace("10.7.0.1", "10.7.0.9");
        // agent.toml says who this node is, so that only the other one is asked.
        let policy = [&without, SERVICES, ALLOW].concat();
        mesh.there.write_policy(&policy).expect("a policy");
        is_cut_in_time(&mut mesh.checkout, kept, Instant::now());
        let answer = call(&mut mesh.checkout);
        assert!(answer.is_err(), "{answer:?}");
    });
}

#[test]
fn a_flow_that_the_other_node_no_longer_allows_is_cut_within_a_second() {
    host::run("tunnel-late", |_| {
        let mut mesh = Mesh::start();
        let kept = keep(&mut mesh.checkout);
        mesh.there
            .write_policy(&[&policy(), DENY].concat())
            .expect("a policy");
        is_cut_in_time(&mut mesh.checkout, kept, Instant::now());
        // The caller's node still allows it: the other one decides for itself.
        assert_eq!(call(&mut mesh.checkout), Err("ECONNRESET".into()));
        until(Duration::from_secs(5), "a record here", || {
            let denials = mesh.here.denials();
            denials.contains(&"policy shop/checkout shop/payments".into())
        });
        let denied = [
            ("verdict", "denied"),
            ("rule", "no-more"),
            ("source_service", "shop/checkout"),
            ("reason", "policy"),
        ];
        let decisions = "mesh_authorization_decisions_total";
        mesh.there.counts(decisions, &denied, |value| value >= 1.0);
    });
}

#[test]
fn who_cannot_prove_who_he_is_gets_nowhere() {
    host::run_for(Duration::from_secs(180), "tunnel-identity", |_| {
        let right = || Wanted::of("shop/checkout", "edge-1", 1);
        let uris = |uris: &[&str]| Wanted {
            uris: uris.iter().map(ToString::to_string).collect(),
            ..right()
        };
        let own = "spiffe://mesh.local/ns/shop/sa/checkout";
        for (what, wanted) in [
            (
                "expired",
                Some(Wanted {
                    expired: true,
                    ..right()
                }),
            ),
            ("none", None),
            (
                "other domain",
                Some(uris(&["spiffe://evil.local/ns/shop/sa/checkout"])),
            ),
            (
                "two names",
                Some(uris(&[own, "spiffe://mesh.local/ns/shop/sa/ledger"])),
            ),
            ("no name", Some(uris(&[]))),
        ] {
            let mut mesh = Mesh::certified(|authority, here, _| {
                let tls = here.sandbox.path("tls");
                for file in ["shop.checkout.crt", "shop.checkout.key"] {
                    fs::remove_file(tls.join(file)).expect("removed");
                }
                if let Some(wanted) = &wanted {
                    authority
                        .write(&tls, "shop.checkout", wanted)
                        .expect("written");
                }
            });
            assert_eq!(call(&mut mesh.checkout), Err("ECONNRESET".into()), "{what}");
            let denials = mesh.here.denials();
            let refused: String = "identity shop/checkout shop/payments".into();
            assert!(denials.contains(&refused), "{what}: {denials:?}");
        }
    });
}

#[test]
fn nodes_of_different_authorities_do_not_talk() {
    host::run("tunnel-authority", |_| {
        let mut mesh = Mesh::certified(|_, _, there| {
            let other = Authority::new("other").expect("an authority");
            there.certify(&other, &THERE, 900).expect("certificates");
        });
        assert_eq!(call(&mut mesh.checkout), Err("ECONNRESET".into()));
        let refused: String = "identity shop/checkout shop/payments".into();
        assert!(
            mesh.here.denials().contains(&refused),
            "{:?}",
            mesh.here.denials()
        );
        let failed = [("role", "client"), ("outcome", "failed")];
        mesh.here
            .counts("mesh_tls_handshakes_total", &failed, |value| value >= 1.0);
    });
}

/// What another TLS implementation shows the other node's agent, and whether that is enough.
#[test]
fn certificates_are_judged_whoever_shows_them() {
    host::run("tunnel-openssl", |_| {
        let mesh = Mesh::start();
        let tls = mesh.here.sandbox.path("tls");
        let shown = mesh.here.sandbox.path("shown");
        let other = Authority::new("other").expect("an authority");
        let right = || Wanted::of("shop/checkout", "edge-1", 1);
        let uris = |uris: &[&str]| Wanted {
            uris: uris.iter().map(ToString::to_string).collect(),
            ..right()
        };
        for (what, authority, wanted, outcome) in [
            ("right", &mesh.authority, right(), "ok"),
            (
                "expired",
                &mesh.authority,
                Wanted {
                    expired: true,
                    ..right()
                },
                "failed",
            ),
            ("no name", &mesh.authority, uris(&[]), "failed"),
            (
                "other domain",
                &mesh.authority,
                uris(&["spiffe://evil/ns/shop/sa/checkout"]),
                "failed",
            ),
            ("other authority", &other, right(), "failed"),
            (
                "other node",
                &mesh.authority,
                Wanted {
                    node: Some("edge-7"),
                    ..right()
                },
                "failed",
            ),
        ] {
            authority.write(&shown, "peer", &wanted).expect("written");
            let labels = [("role", "server"), ("outcome", outcome)];
            let handshakes = "mesh_tls_handshakes_total";
            let before = mesh.there.metric(handshakes, &labels).expect("a metric");
            let shake = || {
                // It leaves when it has read its input, and has to stay for its handshake.
                let mut command = Command::new("sh");
                command.args(["-c", "sleep 0.3 | openssl s_client \"$@\"", "sh"]);
                command.args(["-connect", "10.7.0.2:15008", "-alpn", "mesh/1"]);
                command.args([
                    "-servername",
                    "8b7f46a2279e8e7247f95dcbf79ae836.mesh",
                    "-CAfile",
                ]);
                command.arg(tls.join("ca.pem"));
                command.arg("-cert").arg(shown.join("peer.crt"));
                command.arg("-key").arg(shown.join("peer.key"));
                Ok(command.output()?)
            };
            let output = mesh.here.namespace.run(shake).expect("openssl runs");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains("TLSv1.3"), "{what}: {said}");
            until(Duration::from_secs(5), what, || {
                mesh.there
                    .metric(handshakes, &labels)
                    .is_ok_and(|now| now > before)
            });
        }
    });
}

#[test]
fn a_service_calls_only_from_where_it_is_placed() {
    host::run("tunnel-placement", |_| {
        let rule = "[[allow]]\nname = \"ledger-pays\"\nfrom = [\"shop/ledger\"]\nto = [\"shop/payments\"]\n";
        let policy = [&policy(), rule].concat();
        let mesh = Mesh::with(&policy, &policy);
        // The first host has a certificate for ledger, which the policy places on the second.
        let mut ledger = mesh.here.peer("system.slice/ledger.service");
        until(Duration::from_secs(5), "refused", || {
            call(&mut ledger) == Err("ECONNRESET".into())
        });
        let refused: String = "identity shop/ledger shop/payments".into();
        until(Duration::from_secs(5), "recorded by both", || {
            mesh.here.denials().contains(&refused) && mesh.there.denials().contains(&refused)
        });
    });
}

#[test]
fn a_canary_on_the_other_node_gets_its_share_exactly() {
    host::run("tunnel-canary", |_| {
        let both = SERVICES.replace(
            "endpoints = [{ address = \"127.0.0.1:8082\"",
            "endpoints = [{ address = \"127.0.0.1:8081\", version = \"v1\", node = \"edge-1\" }, \
             { address = \"127.0.0.1:8082\"",
        );
        let split = "[[split]]\nservice = \"shop/payments\"\nweights = { v1 = 99, v2 = 1 }\n";
        let policy = [NODES, &both, ALLOW, split].concat();
        let mut mesh = Mesh::with(&policy, &policy);
        let mut stable = mesh.here.peer(PAYMENTS);
        stable.serve_tcp("127.0.0.1:8081", "v1").expect("served");
        let dial = Dial::tcp(address(VIP)).times(1000).then(After::Close);
        let outcomes = mesh.checkout.dial(dial).expect("outcomes");
        let of = |label: &str| {
            let got = outcomes
                .iter()
                .filter(|o| o.label.as_deref() == Some(label));
            got.count()
        };
        assert_eq!((of("v1"), of("v2")), (990, 10), "{}", mesh.here.log());
    });
}

#[test]
fn a_workload_that_refuses_is_told_as_such() {
    host::run("tunnel-refused", |_| {
        let mut mesh = Mesh::start();
        mesh.is_open();
        drop(std::mem::replace(
            &mut mesh.payments,
            mesh.there.peer(PAYMENTS),
        ));
        assert_eq!(call(&mut mesh.checkout), Err("ECONNRESET".into()));
        let refused: String = "no-endpoint shop/checkout shop/payments".into();
        until(Duration::from_secs(5), "recorded", || {
            mesh.here.denials().contains(&refused)
        });
        mesh.payments.serve_tcp(ENDPOINT, "v2").expect("served");
        mesh.is_open();
    });
}

#[test]
fn another_agent_that_is_gone_is_a_reset_with_a_reason() {
    host::run("tunnel-gone", |_| {
        let mut mesh = Mesh::start();
        mesh.is_open();
        let kept = keep(&mut mesh.checkout);
        drop(mesh.there.agent.take());
        is_cut_in_time(&mut mesh.checkout, kept, Instant::now());
        assert_eq!(call(&mut mesh.checkout), Err("ECONNRESET".into()));
        let refused: String = "no-tunnel shop/checkout shop/payments".into();
        until(Duration::from_secs(5), "recorded", || {
            mesh.here.denials().contains(&refused)
        });
        mesh.there.start();
        until(Duration::from_secs(15), "reconnected", || {
            call(&mut mesh.checkout).is_ok()
        });
    });
}

#[test]
fn a_stranger_on_the_wire_gets_nothing() {
    host::run("tunnel-stranger", |_| {
        let mut mesh = Mesh::start();
        mesh.is_open();
        let at = SocketAddr::from((EDGE_2, 15008));
        for said in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"\x16\x03\x01\x00\x05hello",
            b"",
        ] {
            let answer = mesh.here.namespace.run(|| {
                let mut stream = TcpStream::connect(at)?;
                stream.set_read_timeout(Some(scaled(Duration::from_secs(8))))?;
                stream.write_all(said)?;
                let mut answer = Vec::new();
                // A reset is as good as an end.
                let _ = stream.read_to_end(&mut answer);
                Ok(answer)
            });
            let answer = answer.expect("an answer");
            // An alert at most (RFC 8446, section 6): seven bytes.
            assert!(answer.len() <= 7, "{answer:?}");
        }
        mesh.is_open();
    });
}

#[test]
fn sigterm_lets_flows_end_and_new_calls_wait_for_nobody() {
    host::run("tunnel-drain", |_| {
        let mut mesh = Mesh::start();
        let kept = keep(&mut mesh.checkout);
        let agent = mesh.here.agent.take().expect("an agent");
        agent.signal(Signal::SIGTERM).expect("signalled");
        std::thread::sleep(Duration::from_millis(500));
        assert!(
            is_alive(&mut mesh.checkout, kept),
            "flows may end by themselves"
        );
        let close: () = mesh
            .checkout
            .ask(&Request::Close(vec![kept]))
            .expect("closed");
        let () = close;
        let since = Instant::now();
        assert_eq!(agent.wait().expect("ended"), Some(0));
        assert!(
            since.elapsed() < scaled(Duration::from_secs(3)),
            "{:?}",
            since.elapsed()
        );
    });
}
