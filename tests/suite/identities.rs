//! Who is believed: certificates, placement, revocation.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use mesh_tests::authority::{Authority, Wanted};
use mesh_tests::host;
use mesh_tests::hosts::EDGE_2;
use mesh_tests::nodes::*;
use mesh_tests::observe::until;
use mesh_tests::patience::scaled;

#[test]
fn a_revoked_certificate_ends_everything_within_a_second() {
    host::run("tunnel-revoked", |_| {
        for (revoker, serial) in [(1, CHECKOUT_SERIAL), (0, PAYMENTS_SERIAL)] {
            let mut mesh = Nodes::start();
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
        let mut mesh = Nodes::start();
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
            let mut mesh = Nodes::certified(|authority, here, _| {
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
        let mut mesh = Nodes::certified(|_, _, there| {
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
        let mesh = Nodes::start();
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
        let mesh = Nodes::with(&policy, &policy);
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
fn a_stranger_on_the_wire_gets_nothing() {
    host::run("tunnel-stranger", |_| {
        let mut mesh = Nodes::start();
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
