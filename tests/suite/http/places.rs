//! Who calls from where, and whom.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use mesh_tests::patience::scaled;
use mesh_tests::peer::{Options, Peer};
use mesh_tests::{AgentProcess, Cgroup, Mesh, Sandbox, host, kernel, netns};

use super::{Book, CHECKOUT, ENDPOINT, PAYMENTS, SHOP, VIP, client, server, talk};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A process in a network namespace of its own that is joined to this one.
fn boxed(cgroup: &Cgroup, name: &str) -> Peer {
    let options = Options {
        own_netns: true,
        ..Options::default()
    };
    let peer = Peer::spawn_at(&cgroup.child(name).expect("a cgroup"), options).expect("a peer");
    netns::join(peer.pid());
    sleep(scaled(Duration::from_millis(200)));
    peer
}

fn prepare<'s>(sandbox: &'s Sandbox, services: &[&str]) -> Mesh<'s> {
    for service in services {
        let name = format!("system.slice/{service}.service");
        sandbox.cgroup.child(&name).expect("a cgroup");
    }
    Mesh::start(sandbox, SHOP)
}

#[test]
fn connections_of_both_families_are_read() {
    host::run_with_ipv6("http-six", |sandbox| {
        let mesh = prepare(sandbox, &["six"]);
        let (mut six, mut caller) = (mesh.peer("system.slice/six.service"), mesh.peer(CHECKOUT));
        let talked = [client(GET), server(OK)];
        talk(&mut six, "[::1]:8082", &mut caller, "[::1]:8082", &talked);
        talk(
            &mut six,
            "[::1]:8082",
            &mut caller,
            "[fd00:96::10]:80",
            &talked,
        );
        let mut book = Book::default();
        book.request("shop/checkout", "shop/six", "GET", 200, 2);
        book.settle(sandbox);
    });
}

/// The policy with payments at an address that other namespaces reach.
fn on_the_wire() -> String {
    SHOP.replace(
        "\"127.0.0.1:8081\"",
        "\"10.88.0.1:8081\", node = \"edge-1\"",
    )
}

#[test]
fn a_client_in_a_container_has_its_name() {
    host::run("http-boxed-client", |sandbox| {
        sandbox.cgroup.child(PAYMENTS).expect("a cgroup");
        let mut caller = boxed(&sandbox.cgroup, CHECKOUT);
        let mesh = Mesh::start(sandbox, &on_the_wire());
        let mut payments = mesh.peer(PAYMENTS);
        let talked = vec![[client(GET), server(OK)]; 3].concat();
        talk(&mut payments, "10.88.0.1:8081", &mut caller, VIP, &talked);
        let mut book = Book::default();
        book.request("shop/checkout", "shop/payments", "GET", 200, 3);
        book.settle(sandbox);
    });
}

#[test]
fn a_server_in_a_container_is_read() {
    host::run("http-boxed-server", |sandbox| {
        let mesh = prepare(sandbox, &["boxed"]);
        let mut served = boxed(&sandbox.cgroup, "system.slice/boxed.service");
        let mut caller = mesh.peer(CHECKOUT);
        let talked = [client(GET), server(OK)];
        talk(
            &mut served,
            "10.88.0.2:9000",
            &mut caller,
            "10.96.0.11:80",
            &talked,
        );
        let mut book = Book::default();
        book.request("shop/checkout", "shop/boxed", "GET", 200, 1);
        book.settle(sandbox);
    });
}

#[test]
fn a_client_of_another_host_is_outside() {
    host::run("http-cidr", |sandbox| {
        sandbox.cgroup.child(PAYMENTS).expect("a cgroup");
        let outside = Cgroup::new("http-outside").expect("a cgroup");
        let mut stranger = boxed(&outside, "far");
        let mesh = Mesh::start(sandbox, &on_the_wire());
        let mut payments = mesh.peer(PAYMENTS);
        let talked = [client(GET), server(OK)];
        let at = "10.88.0.1:8081";
        talk(&mut payments, at, &mut stranger, at, &talked);
        let mut book = Book::default();
        book.request("outside", "shop/payments", "GET", 200, 1);
        book.settle(sandbox);
    });
}

#[test]
fn other_ports_of_the_workload_are_not_read() {
    host::run("http-other-ports", |sandbox| {
        let mesh = prepare(sandbox, &["payments"]);
        let (mut payments, mut caller) = (mesh.peer(PAYMENTS), mesh.peer(CHECKOUT));
        let talked = [client(GET), server(OK)];
        talk(
            &mut payments,
            "127.0.0.1:8084",
            &mut caller,
            "10.96.0.10:82",
            &talked,
        );
        talk(&mut payments, ENDPOINT, &mut caller, VIP, &talked);
        let mut book = Book::default();
        book.request("shop/checkout", "shop/payments", "GET", 200, 1);
        book.settle(sandbox);
        // What is declared as gRPC speaks HTTP/2 (see the suite `grpc`), or is not followed.
        talk(
            &mut payments,
            "127.0.0.1:8083",
            &mut caller,
            "10.96.0.10:81",
            &talked,
        );
        book.unparsed("not-http");
        book.settle(sandbox);
    });
}

#[test]
fn a_service_that_is_started_again_is_read_from_its_first_request() {
    host::run("http-restart", |sandbox| {
        let mesh = prepare(sandbox, &[]);
        let mut caller = mesh.peer(CHECKOUT);
        let mut book = Book::default();
        for _ in 0..3 {
            // A unit's cgroup goes with it and comes again.
            let name = "system.slice/payments-7.service";
            let path = sandbox.cgroup.child(name).expect("a cgroup");
            let mut payments = mesh.peer(name);
            // Usually so before a program has even started; never sure.
            mesh.expect_metric("mesh_http_cgroups", &[("state", "read")], 1.0);
            talk(
                &mut payments,
                ENDPOINT,
                &mut caller,
                VIP,
                &[client(GET), server(OK)],
            );
            book.request("shop/checkout", "shop/payments", "GET", 200, 1);
            drop(payments);
            // The last of its sockets may hold it for a moment.
            while fs::remove_dir(&path).is_err() {
                sleep(Duration::from_millis(10));
            }
            book.settle(sandbox);
        }
        let left = || {
            let links = kernel::links(sandbox).expect("links");
            links
                .keys()
                .filter(|name| name.starts_with("http-"))
                .count()
        };
        mesh.expect_metric("mesh_http_cgroups", &[("state", "read")], 0.0);
        assert_eq!(left(), 0, "links of cgroups that are gone");
    });
}

#[test]
fn an_agent_that_is_started_again_goes_on_counting() {
    host::run("http-agent", |sandbox| {
        let mut mesh = prepare(sandbox, &["payments"]);
        let (mut payments, mut caller) = (mesh.peer(PAYMENTS), mesh.peer(CHECKOUT));
        let talked = [client(GET), server(OK)];
        let mut book = Book::default();
        let links = kernel::links(sandbox).expect("links");
        mesh.agent.take().expect("running").kill().expect("killed");
        talk(&mut payments, ENDPOINT, &mut caller, VIP, &talked);
        book.request("shop/checkout", "shop/payments", "GET", 200, 1);
        let agent = AgentProcess::start(sandbox).expect("the agent starts");
        talk(&mut payments, ENDPOINT, &mut caller, VIP, &talked);
        book.request("shop/checkout", "shop/payments", "GET", 200, 1);
        book.settle(sandbox);
        let after = kernel::links(sandbox).expect("links");
        for (name, linked) in links.iter().filter(|(name, _)| name.starts_with("http-")) {
            assert_eq!(after[name].link, linked.link, "{name} is the same link");
            assert_ne!(after[name].program, linked.program, "with a new program");
        }
        drop(agent);
    });
}

#[test]
fn a_connection_that_no_program_has_seen_is_counted_as_such() {
    host::run("http-unseen", |sandbox| {
        let mut mesh = prepare(sandbox, &["payments"]);
        // Its socket is of a cgroup of nobody's, as one that a service manager has opened.
        let mut payments = mesh.peer("system.slice/manager.service");
        let policy = SHOP.replace("systemd = \"payments*.service\"", "uid = 0");
        mesh.reload(&policy);
        let mut caller = mesh.peer(CHECKOUT);
        talk(
            &mut payments,
            ENDPOINT,
            &mut caller,
            VIP,
            &[client(GET), server(OK)],
        );
        let mut book = Book::default();
        book.unparsed("unseen");
        book.settle(sandbox);
    });
}
