//! The page and its data: who gets them, and what cannot be asked.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::Value;

use super::super::limits;
use super::{Fake, Site, start, start_with};

impl Site {
    fn browse(&self, target: &str, headers: &str) -> String {
        self.text(&format!("GET {target}"), headers)
    }

    fn status(&self, target: &str, headers: &str) -> String {
        self.browse(target, headers)[9..12].to_owned()
    }

    /// Asks as a browser does that was told another name for this host.
    fn rebound(&self, target: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("connect");
        let head = format!(
            "GET {target} HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read");
        answer
    }
}

#[test]
fn the_page_is_for_browsers_and_the_list_for_everyone_else() {
    let site = start(Fake::default());
    let page = site.browse("/", "accept: text/html,*/*\r\n");
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    for header in [
        "content-type: text/html; charset=utf-8\r\n",
        "content-security-policy: default-src 'none'; script-src 'self';",
        "cross-origin-resource-policy: same-origin\r\n",
        "referrer-policy: no-referrer\r\n",
        "x-content-type-options: nosniff\r\n",
    ] {
        assert!(page.contains(header), "{header}: {page}");
    }
    assert!(!page.contains("access-control-"), "{page}");
    // Everything that it asks for is here.
    let (_, body) = page.split_once("\r\n\r\n").expect("a body");
    let asked: Vec<_> = body
        .split('"')
        .filter(|part| part.starts_with("/page/"))
        .collect();
    assert!(asked.len() >= 3, "{asked:?}");
    for path in asked {
        assert_eq!(site.status(path, ""), "200", "{path}");
    }
    let list = site.text("GET /", "accept: */*\r\n");
    assert!(
        list.contains("text/plain") && list.contains("/api/v1/graph"),
        "{list}"
    );
    let (_, list) = site.unix(Method::GET, "/");
    assert!(list.contains("/reload") && list.contains("/api/v1/services"));
    assert_eq!(site.unix(Method::GET, "/page/app.js").0, 404);
}

#[test]
fn paths_are_compared_and_never_walked() {
    let site = start(Fake::default());
    for path in [
        "/page/",
        "/page/../index.html",
        "/page/..%2f..%2f..%2fetc%2fpasswd",
        "/page//app.js",
        "/page/app.js/",
        "/page/%61pp.js",
        "/page/app.js%00",
        "/../../etc/passwd",
        "/api/v1/",
        "/api/v1/services/",
        "/api/v2/services",
        "/API/V1/services",
    ] {
        assert_eq!(site.status(path, ""), "404", "{path}");
    }
}

#[test]
fn both_doors_have_the_documents() {
    let site = start(Fake {
        series: 3,
        ..Fake::default()
    });
    for path in ["/api/v1/services", "/api/v1/graph?window=60"] {
        let answer = site.browse(path, "");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        assert!(head.contains("content-type: application/json"), "{head}");
        let (status, document) = site.unix(Method::GET, path);
        assert_eq!(status, 200);
        for body in [body, &document] {
            let document: Value = serde_json::from_str(body).expect("JSON");
            assert_eq!(document["schema_version"], 1, "{document}");
        }
    }
    let (_, graph) = site.unix(Method::GET, "/api/v1/graph");
    let graph: Value = serde_json::from_str(&graph).expect("JSON");
    assert_eq!(graph["edges"].as_array().map(Vec::len), Some(3));
    assert_eq!(graph["edges"][0]["target"], "shop/payments");
}

#[test]
fn questions_that_make_no_sense_are_answered_so() {
    let site = start(Fake::default());
    let asked = |query: &str| site.browse(&format!("/api/v1/graph?{query}"), "");
    for query in [
        "window=0",
        "window=x",
        "window=1&window=1",
        "depth=1",
        "window=301",
    ] {
        let answer = asked(query);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{query}: {answer}");
        assert!(
            answer.contains("allowed: ") || answer.contains("twice"),
            "{answer}"
        );
    }
    let answer = asked(&format!("window={}", "9".repeat(15_000)));
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.len() < 1000);
    let mut stream = TcpStream::connect(site.address).expect("connect");
    let huge = format!(
        "GET /api/v1/graph?{} HTTP/1.1\r\nhost: x\r\n\r\n",
        "a".repeat(1 << 20)
    );
    // The server may close before all is written.
    let _ = stream.write_all(huge.as_bytes());
    let mut answer = [0; 10];
    if stream.read_exact(&mut answer).is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 4");
    }
    assert_eq!(site.status("/api/v1/graph?", ""), "200");
    assert_eq!(site.source.snapshots.load(Ordering::Relaxed), 1);
}

#[test]
fn pages_of_other_sites_get_nothing() {
    let site = start(Fake::default());
    for path in [
        "/api/v1/graph",
        "/api/v1/services",
        "/api/v1/flows",
        "/page/app.js",
    ] {
        let rebound = site.rebound(path, "");
        assert!(rebound.starts_with("HTTP/1.1 421 "), "{path}: {rebound}");
        let across = "sec-fetch-site: cross-site\r\nsec-fetch-mode: no-cors\r\n";
        assert_eq!(site.status(path, across), "403", "{path}");
        assert_eq!(
            site.status(path, "sec-fetch-site: same-origin\r\n"),
            "200",
            "{path}"
        );
    }
    let page = "accept: text/html\r\n";
    assert!(site.rebound("/", page).starts_with("HTTP/1.1 421 "));
    let link = format!(
        "{page}sec-fetch-site: cross-site\r\nsec-fetch-mode: navigate\r\nsec-fetch-dest: document\r\n"
    );
    assert_eq!(site.status("/", &link), "200");
    // Prometheus and probes name any host.
    assert!(site.rebound("/metrics", "").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_flood_of_questions_is_few_snapshots() {
    let site = start(Fake {
        slow: Duration::from_millis(50),
        series: 200,
        ..Fake::default()
    });
    let start = Instant::now();
    thread::scope(|scope| {
        for client in 0..8 {
            let site = &site;
            scope.spawn(move || {
                for n in 0..20 {
                    let window = 1 + (client * 20 + n) % 300;
                    let path = format!("/api/v1/graph?window={window}");
                    assert_eq!(site.status(&path, ""), "200");
                }
            });
        }
    });
    let allowed = 2 + start.elapsed().as_millis() / limits::FRESH.as_millis();
    let taken = site.source.snapshots.load(Ordering::Relaxed);
    assert!(
        taken as u128 <= allowed,
        "{taken} snapshots, {allowed} allowed"
    );
}

#[test]
fn slow_readers_of_the_graph_are_cut_and_hold_up_nobody() {
    const IDLE: Duration = Duration::from_secs(4);
    let site = start_with(
        Fake {
            series: 1500,
            ..Fake::default()
        },
        |server| server.timeouts.idle = IDLE,
    );
    let length = site.unix(Method::GET, "/api/v1/graph").1.len();
    let request = format!(
        "GET /api/v1/graph HTTP/1.1\r\nhost: {}\r\n\r\n",
        site.address
    );
    let mut readers: Vec<_> = (0..limits::CONNECTIONS - 1)
        .map(|_| {
            let mut stream = TcpStream::connect(site.address).expect("connect");
            // More than the kernel buffers for both ends.
            for _ in 0..8 {
                stream.write_all(request.as_bytes()).expect("write");
            }
            stream
        })
        .collect();
    thread::sleep(Duration::from_millis(200));
    let start = Instant::now();
    assert_eq!(site.unix(Method::GET, "/api/v1/graph").0, 200);
    assert!(site.text("GET /healthz", "").starts_with("HTTP/1.1 200 "));
    assert!(start.elapsed() < IDLE, "{:?}", start.elapsed());
    thread::sleep(IDLE + Duration::from_secs(1));
    for stream in &mut readers {
        let mut read = Vec::new();
        // Reset, or closed with less than was asked for.
        let _ = stream.read_to_end(&mut read);
        assert!(read.len() < 8 * length, "{} of {}", read.len(), 8 * length);
    }
    assert_eq!(site.status("/api/v1/graph", ""), "200");
}
