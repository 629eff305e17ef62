//! A real server under a real load.

use std::collections::BTreeMap;

use mesh_tests::names::address;
use mesh_tests::web::{Load, Nginx, Seen};
use mesh_tests::{Mesh, Sandbox, host, web};

use super::{Book, CHECKOUT, ENDPOINT, PAYMENTS, SHOP, VIP, unparsed};

const LOCATIONS: &str = "location / { return 200 \"hello\"; } location /no { return 503; }\n\
                         location /file { root files; }";

/// One kind of request, on some connections.
fn load(sandbox: &Sandbox, path: &str, connections: u64, requests: u64) -> Seen {
    let checkout = sandbox.cgroup.child(CHECKOUT).expect("a cgroup");
    let load = Load {
        to: address(VIP),
        path: path.into(),
        connections,
        requests,
        fail_every: 0,
    };
    load.run(&checkout, &sandbox.path("wrk")).expect("wrk")
}

#[test]
fn every_request_of_a_load_is_counted() {
    host::run("http-load", |sandbox| {
        if let Some(missing) = web::missing() {
            eprintln!("SKIPPED: {missing}");
            return;
        }
        let payments = sandbox.cgroup.child(PAYMENTS).expect("a cgroup");
        let _mesh = Mesh::start(sandbox, SHOP);
        let directory = sandbox.path("nginx");
        let listen = [address(ENDPOINT)];
        let _nginx = Nginx::start(&payments, &directory, &listen, LOCATIONS).expect("nginx");
        std::fs::create_dir_all(directory.join("files")).expect("a directory");
        std::fs::write(directory.join("files/file"), vec![b'x'; 100_000]).expect("a file");

        let mut book = Book::default();
        for (path, code, each) in [("/", 200, 25_000), ("/no", 503, 5_000), ("/file", 200, 500)] {
            let seen = load(sandbox, path, 4, each);
            let errors = if code < 400 { 0 } else { 4 * each };
            assert_eq!(
                (seen.requests, seen.errors, seen.failures),
                (4 * each, errors, 0)
            );
            book.request("shop/checkout", "shop/payments", "GET", code, 4 * each);
            book.settle(sandbox);
        }
        assert_eq!(unparsed(sandbox), BTreeMap::new());
    });
}
