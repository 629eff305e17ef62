//! Calls between nodes: two agents, a wire, real certificates.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mesh_tests::names::{INTRUDER, PAYMENTS, VIP, address};
use mesh_tests::nodes::*;
use mesh_tests::observe::until;
use mesh_tests::patience::scaled;
use mesh_tests::peer::{After, Dial, Kind, Request};
use mesh_tests::{host, netns};
use nix::sys::signal::Signal;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

#[test]
fn a_call_reaches_the_other_node_and_a_denied_one_does_not_leave() {
    host::run("tunnel", |_| {
        let mut nodes = Nodes::start();
        let mut intruder = nodes.here.peer(INTRUDER);
        nodes.is_open();
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
        let here = nodes.here.metric(opened, &labels("source"));
        let here = here.expect("a metric");
        assert!(here >= 1.0, "{here}");
        for (host, reporter) in [(&nodes.here, "source"), (&nodes.there, "destination")] {
            host.counts(opened, &labels(reporter), |value| value == here);
        }
        let served = nodes.payments.served().expect("a number");
        assert_eq!(served as f64, here, "every flow is one connection");
    });
}

#[test]
fn a_caller_in_a_container_is_served_as_well() {
    host::run("tunnel-container", |_| {
        let mut nodes = Nodes::start();
        let mut container = nodes
            .here
            .container("system.slice/checkout.service/payload");
        until(
            Duration::from_secs(10),
            "a listener in the container",
            || call(&mut container) == Ok("v2".into()),
        );
        nodes.is_open();
    });
}

#[test]
fn only_the_kernels_redirects_are_taken() {
    host::run("tunnel-strays", |_| {
        let mut nodes = Nodes::start();
        nodes.is_open();
        let mut intruder = nodes.here.peer(INTRUDER);
        let answer = call_to(&mut intruder, "127.0.0.1:15001");
        assert!(answer.is_err(), "{answer:?}");
        nodes
            .here
            .counts("mesh_tunnel_strays_total", &[], |value| value >= 1.0);
    });
}

#[test]
fn nobody_squats_on_the_listener_of_a_dead_agent() {
    host::run("tunnel-squatter", |_| {
        let mut nodes = Nodes::start();
        nodes.is_open();
        drop(nodes.here.agent.take());
        let mut intruder = nodes.here.peer(INTRUDER);
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
        assert_eq!(call(&mut nodes.checkout), Err("ECONNREFUSED".into()));
        nodes.here.start();
        until(Duration::from_secs(10), "the agent is back", || {
            call(&mut nodes.checkout) == Ok("v2".into())
        });
    });
}

#[test]
fn a_flow_that_the_other_node_no_longer_allows_is_cut_within_a_second() {
    host::run("tunnel-late", |_| {
        let mut nodes = Nodes::start();
        let kept = keep(&mut nodes.checkout);
        nodes
            .there
            .write_policy(&[&policy(), DENY].concat())
            .expect("a policy");
        is_cut_in_time(&mut nodes.checkout, kept, Instant::now());
        // The caller's node still allows it: the other one decides for itself.
        assert_eq!(call(&mut nodes.checkout), Err("ECONNRESET".into()));
        until(Duration::from_secs(5), "a record here", || {
            let denials = nodes.here.denials();
            denials.contains(&"policy shop/checkout shop/payments".into())
        });
        let denied = [
            ("verdict", "denied"),
            ("rule", "no-more"),
            ("source_service", "shop/checkout"),
            ("reason", "policy"),
        ];
        let decisions = "mesh_authorization_decisions_total";
        nodes.there.counts(decisions, &denied, |value| value >= 1.0);
    });
}

#[test]
fn a_canary_on_the_other_node_gets_its_share_exactly() {
    host::run("tunnel-canary", |_| {
        let policy = two_versions("{ v1 = 99, v2 = 1 }");
        let mut nodes = Nodes::with(&policy, &policy);
        let mut stable = nodes.here.peer(PAYMENTS);
        stable.serve_tcp("127.0.0.1:8081", "v1").expect("served");
        let dial = Dial::tcp(address(VIP)).times(1000).then(After::Close);
        let outcomes = nodes.checkout.dial(dial).expect("outcomes");
        let of = |label: &str| {
            let got = outcomes
                .iter()
                .filter(|o| o.label.as_deref() == Some(label));
            got.count()
        };
        assert_eq!((of("v1"), of("v2")), (990, 10), "{}", nodes.here.log());
    });
}

#[test]
fn a_workload_that_refuses_is_told_as_such() {
    host::run("tunnel-refused", |_| {
        let mut nodes = Nodes::start();
        nodes.is_open();
        drop(std::mem::replace(
            &mut nodes.payments,
            nodes.there.peer(PAYMENTS),
        ));
        assert_eq!(call(&mut nodes.checkout), Err("ECONNRESET".into()));
        let refused: String = "no-endpoint shop/checkout shop/payments".into();
        until(Duration::from_secs(5), "recorded", || {
            nodes.here.denials().contains(&refused)
        });
        nodes.payments.serve_tcp(ENDPOINT, "v2").expect("served");
        nodes.is_open();
    });
}

#[test]
fn another_agent_that_is_gone_is_a_reset_with_a_reason() {
    host::run("tunnel-gone", |_| {
        let mut nodes = Nodes::start();
        nodes.is_open();
        let kept = keep(&mut nodes.checkout);
        drop(nodes.there.agent.take());
        is_cut_in_time(&mut nodes.checkout, kept, Instant::now());
        assert_eq!(call(&mut nodes.checkout), Err("ECONNRESET".into()));
        let refused: String = "no-tunnel shop/checkout shop/payments".into();
        until(Duration::from_secs(5), "recorded", || {
            nodes.here.denials().contains(&refused)
        });
        nodes.there.start();
        until(Duration::from_secs(15), "reconnected", || {
            call(&mut nodes.checkout).is_ok()
        });
    });
}

#[test]
fn sigterm_lets_flows_end_and_new_calls_wait_for_nobody() {
    host::run("tunnel-drain", |_| {
        let mut nodes = Nodes::start();
        let kept = keep(&mut nodes.checkout);
        let agent = nodes.here.agent.take().expect("an agent");
        agent.signal(Signal::SIGTERM).expect("signalled");
        sleep(Duration::from_millis(500));
        assert!(
            is_alive(&mut nodes.checkout, kept),
            "flows may end by themselves"
        );
        let close: () = nodes
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

#[test]
fn a_flow_that_this_node_no_longer_allows_is_cut_within_a_second() {
    host::run("tunnel-late-here", |_| {
        let mut nodes = Nodes::start();
        let kept = keep(&mut nodes.checkout);
        let closed = [&policy(), DENY].concat();
        nodes.here.write_policy(&closed).expect("a policy");
        is_cut_in_time(&mut nodes.checkout, kept, Instant::now());
        assert_eq!(call(&mut nodes.checkout), Err("EPERM".into()));
        let late = [
            ("verdict", "denied"),
            ("rule", "no-more"),
            ("source_service", "shop/checkout"),
            ("reason", "late-denial"),
        ];
        let decisions = "mesh_authorization_decisions_total";
        nodes.here.counts(decisions, &late, |value| value == 1.0);
    });
}

/// Two versions, one here and one there.
fn two_versions(weights: &str) -> String {
    let both = SERVICES
        .replace(
            "endpoints = [{ address = \"127.0.0.1:8082\"",
            "endpoints = [{ address = \"127.0.0.1:8081\", version = \"v1\", node = \"edge-1\" }, \
             { address = \"127.0.0.1:8082\"",
        )
        .replace(
            "vip = \"10.96.0.10\"",
            "vip = \"10.96.0.10\"\non_weight_change = \"close\"",
        );
    let split = format!("[[split]]\nservice = \"shop/payments\"\nweights = {weights}\n");
    [NODES, &both, ALLOW, &split].concat()
}

#[test]
fn a_version_on_the_other_node_without_weight_is_left() {
    host::run("tunnel-leaving", |_| {
        let canary = two_versions("{ v1 = 0, v2 = 1 }");
        let mut nodes = Nodes::with(&canary, &canary);
        let mut stable = nodes.here.peer(PAYMENTS);
        stable.serve_tcp("127.0.0.1:8081", "v1").expect("served");
        let kept = keep(&mut nodes.checkout);
        assert!(is_alive(&mut nodes.checkout, kept));
        let back = two_versions("{ v1 = 1, v2 = 0 }");
        nodes.here.write_policy(&back).expect("a policy");
        until(Duration::from_secs(5), "closed", || {
            !is_alive(&mut nodes.checkout, kept)
        });
        assert_eq!(call(&mut nodes.checkout), Ok("v1".into()));
    });
}

#[test]
fn an_outage_of_the_wire_is_survived_and_a_long_one_is_told() {
    host::run_for(Duration::from_secs(120), "tunnel-outage", |_| {
        let mut nodes = Nodes::start();
        let kept = keep(&mut nodes.checkout);
        let wire = |nodes: &Nodes, state: &str| {
            let set = || netns::ip(&format!("link set wire {state}"));
            nodes.there.namespace.run(set).expect("the wire");
        };
        wire(&nodes, "down");
        sleep(Duration::from_secs(2));
        wire(&nodes, "up");
        assert!(is_alive(&mut nodes.checkout, kept), "TCP has waited");
        wire(&nodes, "down");
        let began = Instant::now();
        let lost = call(&mut nodes.checkout);
        assert!(lost.is_err(), "{lost:?}");
        assert!(began.elapsed() < scaled(Duration::from_secs(20)));
        // The connection that was ready is given up first, then one that is made anew.
        let refused: String = "no-tunnel shop/checkout shop/payments".into();
        until(Duration::from_secs(30), "recorded", || {
            nodes.here.denials().contains(&refused)
        });
        wire(&nodes, "up");
        until(Duration::from_secs(40), "reconnected", || {
            call(&mut nodes.checkout).is_ok()
        });
    });
}

#[test]
fn ipv6_is_carried_as_well() {
    host::run_with_ipv6("tunnel-ipv6", |_| {
        let policy = policy()
            .replace("10.96.0.10", "fd00:96::10")
            .replace(ENDPOINT, "[::1]:8082");
        let mut nodes = Nodes::with(&policy, &policy);
        nodes
            .payments
            .serve_tcp("[::1]:8082", "v6")
            .expect("served");
        until(Duration::from_secs(10), "answered", || {
            call_to(&mut nodes.checkout, "[fd00:96::10]:80") == Ok("v6".into())
        });
    });
}

/// Only mTLS lets a node in, unless the service says otherwise.
#[test]
fn a_nodes_address_opens_nothing_in_clear() {
    host::run("tunnel-clear", |_| {
        let rule = "[[allow]]\nname = \"lan\"\nfrom = [{ cidr = \"10.7.0.0/24\" }]\nto = [\"shop/payments\"]\n";
        let strict = [NODES, SERVICES, ALLOW, rule]
            .concat()
            .replace(ENDPOINT, "10.7.0.2:8083");
        let permissive = strict.replace(
            "vip = \"10.96.0.10\"",
            "vip = \"10.96.0.10\"\ntls = \"permissive\"",
        );
        for (policy, from_node) in [(&strict, false), (&permissive, true)] {
            let mut nodes = Nodes::with(policy, policy);
            nodes
                .payments
                .serve_tcp("10.7.0.2:8083", "v2")
                .expect("served");
            let add = || netns::ip("address add 10.7.0.9/24 dev wire");
            nodes.here.namespace.run(add).expect("an address");
            // This process is outside of the mesh, as a host without an agent is.
            let connects = |from: [u8; 4]| {
                let connect = || Ok(connect_from(from.into(), address("10.7.0.2:8083")).is_ok());
                nodes.here.namespace.run(connect).expect("tried")
            };
            assert!(connects([10, 7, 0, 9]), "the rule names the address");
            assert_eq!(connects([10, 7, 0, 1]), from_node, "the node's address");
            nodes.is_open();
        }
    });
}

fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_timeout(&socket, Timeout::Send, Some(scaled(Duration::from_secs(1))))?;
    bind(&socket, &SocketAddr::from((from, 0)))?;
    Ok(connect(&socket, &to)?)
}
