//! Flows to endpoints that new calls no longer get: kept, drained, closed at a rate.

use std::thread::sleep;
use std::time::{Duration, Instant};

use mesh_tests::names::CHECKOUT;
use mesh_tests::observe::{problems, status};
use mesh_tests::peer::{After, Dial, Peer, Socket};
use mesh_tests::{Mesh, Sandbox, host};

const FLOWS: u32 = 40;

/// Payments in two versions, of which v2 has `weight` and is there if `present`.
fn shop(setting: &str, weight: u32, present: bool) -> String {
    let v2 = "{ address = \"127.0.0.1:8082\", version = \"v2\" },";
    let (endpoint, weights) = if present {
        (v2, format!("{{ v1 = 1, v2 = {weight} }}"))
    } else {
        ("", "{ v1 = 1 }".to_owned())
    };
    format!(
        r#"
[mesh]
default = "deny"

[[service]]
name = "checkout"
namespace = "shop"
workload = {{ systemd = "checkout.service" }}

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{{ name = "http", listen = 80 }}]
{setting}
endpoints = [
  {{ address = "127.0.0.1:8081", version = "v1" }},
  {endpoint}
]

[[split]]
service = "shop/payments"
weights = {weights}

[[allow]]
name = "checkout-pays"
from = ["shop/checkout"]
to = ["shop/payments"]
"#
    )
}

/// A mesh, its servers and flows to both versions.
struct Scene<'s> {
    mesh: Mesh<'s>,
    _server: Peer,
    checkout: Peer,
    v1: Vec<Socket>,
    v2: Vec<Socket>,
    /// Dialled around the VIP.
    around: Socket,
}

impl<'s> Scene<'s> {
    fn open(sandbox: &'s Sandbox, setting: &str) -> Self {
        let mesh = Mesh::start(sandbox, &shop(setting, 1, true));
        let mut server = mesh.peer("system.slice/payments.service");
        server.serve_tcp("127.0.0.1:8081", "v1").expect("served");
        server.serve_tcp("127.0.0.1:8082", "v2").expect("served");
        let mut checkout = mesh.peer(CHECKOUT);
        let mut keep = |to: &str, times| {
            let dial = Dial::tcp(to.parse().expect("an address")).then(After::Keep);
            let outcomes = checkout.dial(dial.times(times)).expect("outcomes");
            let of = |outcome: mesh_tests::peer::Outcome| {
                (outcome.answered().to_owned(), outcome.socket.expect("kept"))
            };
            outcomes.into_iter().map(of).collect::<Vec<_>>()
        };
        let around = keep("127.0.0.1:8082", 1)[0].1;
        let flows = keep("10.96.0.10:80", FLOWS);
        let of = |label: &str| {
            let of_it = flows.iter().filter(|(answered, _)| answered == label);
            of_it.map(|(_, socket)| *socket).collect::<Vec<_>>()
        };
        let (v1, v2) = (of("v1"), of("v2"));
        assert_eq!((v1.len(), v2.len()), (20, 20));
        Self {
            mesh,
            _server: server,
            checkout,
            v1,
            v2,
            around,
        }
    }

    /// How many of some flows still work; those that do not are forgotten.
    fn alive(&mut self, sockets: fn(&mut Self) -> &mut Vec<Socket>) -> usize {
        let all = sockets(self).clone();
        let said = self.checkout.exchange(&all, "y").expect("outcomes");
        let alive = all.into_iter().zip(said);
        let alive: Vec<Socket> = alive
            .filter(|(_, outcome)| outcome.failure.is_none())
            .map(|(socket, _)| socket)
            .collect();
        *sockets(self) = alive;
        sockets(self).len()
    }

    fn v2_alive(&mut self) -> usize {
        self.alive(|scene| &mut scene.v2)
    }

    /// Those that nothing happened to.
    #[track_caller]
    fn others_go_on(&mut self, around: bool) {
        assert_eq!(self.alive(|scene| &mut scene.v1), 20);
        let said = self.checkout.exchange(&[self.around], "y").expect("said");
        assert_eq!(said[0].failure.is_none(), around, "{said:?}");
        self.mesh.expect_metric("mesh_late_denials_total", &[], 0.0);
    }

    #[track_caller]
    fn expect(&self, metric: &str, value: f64) {
        let labels = [("service", "shop/payments"), ("version", "v2")];
        self.mesh.expect_metric(metric, &labels, value);
    }
}

#[test]
fn kept_flows_go_on_and_are_counted() {
    host::run("keep", |sandbox| {
        let mut scene = Scene::open(sandbox, "");
        scene.mesh.reload(&shop("", 0, true));
        scene.expect("mesh_flows_remaining", 20.0);
        sleep(Duration::from_secs(1));
        assert_eq!(scene.v2_alive(), 20);
        scene.mesh.reload(&shop("", 0, false));
        // The one around the VIP has lost its endpoint too.
        scene.expect("mesh_flows_remaining", 21.0);
        assert_eq!(scene.v2_alive(), 20);
        scene.others_go_on(true);
        let (_, document) = status(sandbox).expect("status");
        assert_eq!(document["live"]["leaving"][0]["remaining"], 21);
        assert_eq!(problems(&document), "");
        // Back again, and nothing is left over.
        scene.mesh.reload(&shop("", 1, true));
        scene.expect("mesh_flows_remaining", 0.0);
        assert_eq!(scene.v2_alive(), 20);
    });
}

#[test]
fn flows_are_closed_at_the_rate() {
    host::run("close", |sandbox| {
        let setting = "on_weight_change = \"close\"\nclose_rate = 5";
        let mut scene = Scene::open(sandbox, setting);
        scene.mesh.reload(&shop(setting, 0, true));
        let began = Instant::now();
        sleep(Duration::from_secs(2));
        let left = scene.v2_alive();
        let most = 20.0 - 5.0 * (began.elapsed().as_secs_f64() + 1.0);
        assert!((left as f64) > most && left < 15, "{left} after 2 s");
        while scene.v2_alive() > 0 {
            assert!(began.elapsed() < Duration::from_secs(7), "not closed");
            sleep(Duration::from_millis(50));
        }
        assert!(
            began.elapsed() > Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
        scene.others_go_on(true);
        scene.expect("mesh_flows_remaining", 0.0);
        scene.expect("mesh_flows_closed_total", 20.0);
    });
}

#[test]
fn flows_are_drained_and_then_closed() {
    host::run("drain", |sandbox| {
        let setting = "on_weight_change = \"drain\"\ndrain_timeout = \"3s\"";
        let mut scene = Scene::open(sandbox, setting);
        scene.mesh.reload(&shop(setting, 0, false));
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2500) {
            assert_eq!(scene.v2_alive(), 20, "{:?}", began.elapsed());
            sleep(Duration::from_millis(100));
        }
        scene.expect("mesh_flows_remaining", 21.0);
        sleep(Duration::from_millis(4500).saturating_sub(began.elapsed()));
        assert_eq!(scene.v2_alive(), 0);
        scene.others_go_on(false);
        scene.expect("mesh_flows_remaining", 0.0);
        scene.expect("mesh_flows_closed_total", 21.0);
    });
}

#[test]
fn a_denial_does_not_wait_for_the_drain() {
    host::run("denydrain", |sandbox| {
        let setting = "on_weight_change = \"drain\"\ndrain_timeout = \"1h\"";
        let mut scene = Scene::open(sandbox, setting);
        let denied = shop(setting, 0, true).replace("shop/checkout\"]\nto", "host\"]\nto");
        scene.mesh.reload(&denied);
        sleep(Duration::from_secs(1));
        assert_eq!(scene.v2_alive(), 0);
        assert_eq!(scene.alive(|scene| &mut scene.v1), 0);
        let late = f64::from(FLOWS) + 1.0;
        scene
            .mesh
            .expect_metric("mesh_late_denials_total", &[], late);
        scene.expect("mesh_flows_closed_total", 0.0);
    });
}
