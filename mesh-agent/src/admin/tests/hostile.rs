//! Clients that mean harm, or behave as if they did.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use hyper::Method;

use super::super::{SOCKET, limits};
use super::{Fake, start, start_with};

/// Waits until the other end closes; returns how long that took.
fn until_closed(stream: &mut (impl Read + Write)) -> Duration {
    let start = Instant::now();
    let mut buffer = [0; 1024];
    while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
    start.elapsed()
}

#[test]
fn a_head_that_never_ends_is_cut() {
    let site = start_with(Fake::default(), |server| {
        server.timeouts.head = Duration::from_millis(300);
    });
    let mut silent = TcpStream::connect(site.address).expect("connect");
    let mut dripping = TcpStream::connect(site.address).expect("connect");
    let mut drip = dripping.try_clone().expect("clone");
    let dripper = thread::spawn(move || {
        for byte in b"GET / HTTP/1.1\r\nx: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy" {
            if drip.write_all(&[*byte]).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    let mut idle = TcpStream::connect(site.address).expect("connect");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("write");
    for stream in [&mut silent, &mut dripping, &mut idle] {
        assert!(until_closed(stream) < Duration::from_secs(2));
    }
    dripper.join().expect("dripper");
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    let big = Fake {
        series: 500,
        ..Fake::default()
    };
    let site = start_with(big, |server| {
        server.timeouts.idle = Duration::from_secs(1);
    });
    let length = site.unix(Method::GET, "/metrics").1.len();
    let mut stream = UnixStream::connect(site.directory.path().join(SOCKET)).expect("connect");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("write");
    thread::sleep(Duration::from_millis(2500));
    let mut read = Vec::new();
    let outcome = stream.read_to_end(&mut read);
    assert!(
        !read.is_empty() && read.len() < length,
        "{} of {length} bytes: {outcome:?}",
        read.len()
    );
}

#[test]
fn a_connection_does_not_live_for_ever() {
    let site = start_with(Fake::default(), |server| {
        server.timeouts.lifetime = Duration::from_millis(500);
    });
    let mut stream = TcpStream::connect(site.address).expect("connect");
    let mut asking = stream.try_clone().expect("clone");
    let asker = thread::spawn(move || {
        for _ in 0..40 {
            let ask = asking.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
            if ask.is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    assert!(until_closed(&mut stream) < Duration::from_secs(2));
    asker.join().expect("asker");
}

#[test]
fn an_endless_head_is_refused() {
    let site = start(Fake::default());
    for headers in [
        format!("x: {}\r\n", "y".repeat(100_000)),
        "x: y\r\n".repeat(1000),
    ] {
        let mut stream = TcpStream::connect(site.address).expect("connect");
        let head = format!("GET / HTTP/1.1\r\n{headers}\r\n");
        // The server may close before all is written.
        let _ = stream.write_all(head.as_bytes());
        let mut answer = [0; 12];
        if stream.read_exact(&mut answer).is_ok() {
            assert_eq!(&answer, b"HTTP/1.1 431");
        }
    }
    assert!(site.text("GET /healthz", "").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_flood_of_connections_leaves_the_unix_socket_alone() {
    let site = start(Fake::default());
    let mut flood: Vec<_> = (0..limits::CONNECTIONS + 10)
        .map(|_| TcpStream::connect(site.address).expect("connect"))
        .collect();
    for stream in &mut flood[limits::CONNECTIONS..] {
        assert!(until_closed(stream) < Duration::from_secs(2));
    }
    let (status, body) = site.unix(Method::GET, "/metrics");
    assert_eq!(status, 200);
    let expected = r#"mesh_admin_connections_refused_total{listener="tcp",cause="full"} 10"#;
    assert!(body.contains(expected), "{body}");
    drop(flood);
    // Places are free again as soon as the server has noticed.
    thread::sleep(Duration::from_millis(200));
    assert!(site.text("GET /healthz", "").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_flood_of_scrapes_is_few_snapshots() {
    let site = start(Fake {
        slow: Duration::from_millis(50),
        ..Fake::default()
    });
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert!(site.text("GET /metrics", "").starts_with("HTTP/1.1 200 "));
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
fn health_does_not_wait_for_a_slow_scrape() {
    let site = start(Fake {
        slow: Duration::from_secs(2),
        ..Fake::default()
    });
    let mut scraping = TcpStream::connect(site.address).expect("connect");
    scraping
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("write");
    thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    assert!(site.text("GET /healthz", "").starts_with("HTTP/1.1 200 "));
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn bytes_that_are_not_http_are_harmless() {
    let site = start(Fake::default());
    let mut stream = UnixStream::connect(site.directory.path().join(SOCKET)).expect("connect");
    stream.write_all(&[0xff; 4096]).expect("write");
    assert!(until_closed(&mut stream) < Duration::from_secs(2));
    assert_eq!(site.unix(Method::GET, "/healthz").0, 200);
}

#[test]
fn a_scrape_is_not_kept_for_longer_than_it_is_fresh() {
    let site = start(Fake {
        mark: "mark".into(),
        ..Fake::default()
    });
    site.unix(Method::GET, "/metrics");
    thread::sleep(limits::FRESH * 3);
    assert_eq!(site.source.snapshots.load(Ordering::Relaxed), 1);
    assert_eq!(Arc::strong_count(&site.source.mark), 1);
}
