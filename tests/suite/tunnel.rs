//! Calls between nodes: two agents, a wire, real certificates.

use mesh_tests::authority::Authority;
use mesh_tests::host;
use mesh_tests::hosts::{Host, two};
use mesh_tests::names::{CHECKOUT, INTRUDER, PAYMENTS, VIP, address};
use mesh_tests::peer::{After, Dial, Peer};

const POLICY: &str = r#"
[[node]]
name = "edge-1"
address = "10.7.0.1"

[[node]]
name = "edge-2"
address = "10.7.0.2"

[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout.service" }

[[service]]
name = "intruder"
namespace = "dev"
workload = { systemd = "intruder.service" }

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "http", listen = 80 }]
workload = { systemd = "payments.service" }
endpoints = [{ address = "127.0.0.1:8082", version = "v2", node = "edge-2" }]

[[allow]]
name = "checkout-pays"
from = ["shop/checkout"]
to = ["shop/payments"]
"#;

/// Two hosts with agents: checkout and intruder on the first, payments on the second.
struct Mesh {
    here: Host,
    there: Host,
    authority: Authority,
    checkout: Peer,
    payments: Peer,
}

impl Mesh {
    fn start() -> Self {
        let [mut here, mut there] = two().expect("two hosts");
        let authority = Authority::new("root").expect("an authority");
        here.certify(
            &authority,
            &["shop/checkout", "dev/intruder", "node edge-1"],
            100,
        )
        .expect("certificates");
        there
            .certify(&authority, &["shop/payments", "node edge-2"], 200)
            .expect("certificates");
        for host in [&mut here, &mut there] {
            host.write_policy(POLICY).expect("a policy");
            host.start();
        }
        let checkout = here.peer(CHECKOUT);
        let mut payments = there.peer(PAYMENTS);
        payments.serve_tcp("127.0.0.1:8082", "v2").expect("served");
        Self {
            here,
            there,
            authority,
            checkout,
            payments,
        }
    }
}

fn call(peer: &mut Peer) -> Result<String, String> {
    let outcome = peer
        .dial_once(Dial::tcp(address(VIP)).then(After::Close))
        .expect("an outcome");
    match outcome.failure {
        Some(failure) => Err(failure.errno),
        None => Ok(outcome.label.unwrap_or_default()),
    }
}

#[test]
fn a_call_reaches_the_other_node_and_a_denied_one_does_not_leave() {
    host::run("tunnel", |_| {
        let mut mesh = Mesh::start();
        let mut intruder = mesh.here.peer(INTRUDER);
        assert_eq!(
            call(&mut mesh.checkout),
            Ok("v2".into()),
            "{}{}",
            mesh.here.log(),
            mesh.there.log()
        );
        assert_eq!(call(&mut intruder), Err("EPERM".into()));
        let flow = |reporter| {
            [
                ("reporter", reporter),
                ("source_service", "shop/checkout"),
                ("destination_service", "shop/payments"),
                ("connection_security_policy", "mutual_tls"),
            ]
        };
        for (host, reporter) in [(&mesh.here, "source"), (&mesh.there, "destination")] {
            let opened = "mesh_tcp_connections_opened_total";
            host.counts(opened, &flow(reporter), |value| value == 1.0);
        }
    });
}
