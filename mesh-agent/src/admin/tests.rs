//! The server, asked over real sockets.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hyper::Method;
use tempfile::TempDir;

use super::*;
use crate::telemetry::snapshot::{Crossing, FlowSeries, MapUsage, Transport};
use crate::telemetry::status::Document;

mod access;
mod api;
mod hostile;

/// A source that counts what it is asked for.
#[derive(Default)]
struct Fake {
    snapshots: AtomicUsize,
    series: usize,
    slow: Duration,
    pending: Vec<String>,
    broken: bool,
    certificates: Option<Arc<Bundle>>,
    /// Shared with every snapshot that is alive.
    mark: Arc<str>,
}

impl Source for Fake {
    fn snapshot(&self) -> Snapshot {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
        thread::sleep(self.slow);
        assert!(!self.broken, "a panic in the source");
        let flow = |n| FlowSeries {
            source_service: format!("shop/{n}").into(),
            destination_service: "shop/payments".into(),
            destination_version: "v1".into(),
            protocol: Transport::Tcp,
            crossing: Crossing::None,
            stats: mesh_common::FlowStats::default(),
        };
        Snapshot {
            flows: (0..self.series).map(flow).collect(),
            maps: vec![MapUsage {
                map: self.mark.clone(),
                entries: 0,
                capacity: 1,
                memory_bytes: 0,
                evicts: false,
            }],
            ..Snapshot::default()
        }
    }

    fn observed(&self) -> Observed {
        Observed {
            since_unix_seconds: 1.5,
            ..Observed::default()
        }
    }

    fn flows(&self, query: &FlowQuery) -> FlowsDocument {
        FlowsDocument {
            next: query.after.unwrap_or(7),
            ..FlowsDocument::default()
        }
    }

    fn certificates(&self) -> Option<Arc<Bundle>> {
        self.certificates.clone()
    }

    fn declared(&self) -> Vec<Declared> {
        Vec::new()
    }

    fn policy(&self) -> Option<Arc<SourceSet>> {
        None
    }

    fn status(&self) -> Status {
        Status {
            schema_version: 1,
            node: "edge-1".into(),
            ..Status::default()
        }
    }

    fn readiness(&self) -> Vec<String> {
        self.pending.clone()
    }

    fn reload(&self) -> Result<Reloaded, Rejected> {
        if self.broken {
            let diagnostics = "10-shop.toml:4:1: port 0 is not allowed".into();
            return Err(Rejected { diagnostics });
        }
        Ok(Reloaded {
            revision: 8,
            digest: "0123".into(),
        })
    }
}

struct Site {
    directory: TempDir,
    address: SocketAddr,
    source: Arc<Fake>,
    _running: Running,
}

fn options(run_dir: &Path) -> Options {
    Options {
        listen: Some(([127, 0, 0, 1], 0).into()),
        run_dir: Some(run_dir.into()),
        ..Options::default()
    }
}

fn start(fake: Fake) -> Site {
    start_with(fake, |_| {})
}

fn start_with(fake: Fake, adjust: impl FnOnce(&mut Server)) -> Site {
    let directory = tempfile::tempdir().expect("directory");
    let mut server = Server::bind(options(directory.path())).expect("bind");
    adjust(&mut server);
    let source = Arc::new(fake);
    Site {
        address: server.local_addr().expect("address"),
        _running: server.start(source.clone()).expect("start"),
        directory,
        source,
    }
}

impl Site {
    /// Sends a head over TCP and reads to the end.
    fn ask(&self, request: &str, headers: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).expect("connect");
        let head =
            format!("{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).expect("write");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("read");
        answer
    }

    fn text(&self, request: &str, headers: &str) -> String {
        String::from_utf8(self.ask(request, headers)).expect("text")
    }

    fn unix(&self, method: Method, target: &str) -> (u16, String) {
        let response = request(self.directory.path(), method, target).expect("answer");
        let body = String::from_utf8(response.body.to_vec()).expect("text");
        (response.status.as_u16(), body)
    }
}

#[test]
fn tcp_answers_what_is_for_everyone() {
    let site = start(Fake::default());
    for (request, status, needle) in [
        ("GET /", "200", "/metrics"),
        ("GET /healthz", "200", "ok\n"),
        ("GET /readyz", "200", "ready\n"),
        ("GET /metrics", "200", "mesh_build_info{"),
        ("GET /metrics?a=b", "200", "mesh_build_info{"),
        ("HEAD /metrics", "200", "content-length"),
        ("GET /nothing", "404", "not found"),
        ("GET /metrics/", "404", "not found"),
        ("POST /metrics", "405", "allow: GET, HEAD"),
        ("DELETE /", "405", "allow: GET, HEAD"),
        ("GET /status", "404", "not found"),
        ("GET /decisions", "404", "not found"),
        ("POST /reload", "404", "not found"),
    ] {
        let answer = site.text(request, "");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
        assert!(answer.contains(needle), "{request}: {answer}");
    }
}

#[test]
fn the_client_chooses_format_and_encoding() {
    let site = start(Fake::default());
    let text = site.text("GET /metrics", "");
    assert!(text.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(text.contains("# TYPE mesh_admin_scrapes_total counter\n"));
    assert!(!text.contains("# EOF"));

    let accept = "accept: text/plain;q=0.5\r\naccept: application/openmetrics-text\r\n";
    let open = site.text("GET /metrics", accept);
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0;"));
    assert!(open.contains("# TYPE mesh_admin_scrapes counter\n"));
    assert!(open.ends_with("# EOF\n"));

    let packed = site.ask("GET /metrics", "accept-encoding: gzip\r\n");
    let end = packed.windows(4).position(|w| w == b"\r\n\r\n");
    let (head, body) = packed.split_at(end.expect("head") + 4);
    assert!(String::from_utf8_lossy(head).contains("content-encoding: gzip\r\n"));
    let mut plain = String::new();
    flate2::read::GzDecoder::new(body)
        .read_to_string(&mut plain)
        .expect("gzip");
    assert!(plain.contains("mesh_build_info{"));
}

#[test]
fn readiness_lists_what_is_pending() {
    let site = start(Fake {
        pending: vec!["policy not applied".into(), "connect4 not effective".into()],
        ..Fake::default()
    });
    let answer = site.text("GET /readyz", "");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("policy not applied\nconnect4 not effective\n"));
    assert!(site.text("GET /healthz", "").starts_with("HTTP/1.1 200 "));
}

#[test]
fn the_unix_socket_has_status_and_reload() {
    let site = start(Fake::default());
    let (status, body) = site.unix(Method::GET, "/status");
    assert_eq!(status, 200);
    assert!(body.starts_with("{\n  \"schema_version\": 1,\n"), "{body}");
    let document: Document = serde_json::from_str(&body).expect("document");
    assert_eq!(document.status.node, "edge-1");
    assert!(!document.problems.is_empty());

    let (status, body) = site.unix(Method::POST, "/reload");
    assert_eq!(status, 200);
    assert!(body.contains(r#""revision": 8"#), "{body}");
    assert!(site.unix(Method::GET, "/decisions").1.contains(":1.5,"));
    assert_eq!(site.unix(Method::GET, "/reload").0, 405);
    assert_eq!(site.unix(Method::GET, "/metrics").0, 200);
    assert!(site.unix(Method::GET, "/").1.contains("/reload"));
}

#[test]
fn a_rejected_reload_says_why() {
    let site = start(Fake {
        broken: true,
        ..Fake::default()
    });
    let (status, body) = site.unix(Method::POST, "/reload");
    assert_eq!(status, 422);
    assert!(body.contains("port 0 is not allowed"), "{body}");
}

#[test]
fn a_panic_costs_one_request() {
    let site = start(Fake {
        broken: true,
        ..Fake::default()
    });
    for _ in 0..2 {
        let answer = site.text("GET /metrics", "");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    assert!(site.text("GET /healthz", "").starts_with("HTTP/1.1 200 "));
}

#[test]
fn the_unix_socket_is_private_and_goes_away() {
    let site = start(Fake::default());
    let path = site.directory.path().join(SOCKET);
    let mode = fs::symlink_metadata(&path).expect("socket").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let names: Vec<_> = fs::read_dir(site.directory.path()).expect("dir").collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let Site {
        directory,
        _running,
        ..
    } = site;
    drop(_running);
    assert!(!path.exists());
    let error = request(directory.path(), Method::GET, "/status").expect_err("nobody");
    assert!(error.to_string().contains("is it running?"), "{error}");
}

#[test]
fn only_root_and_the_agents_user_may_use_it() {
    for (uid, own, expected) in [
        (0, 0, true),
        (0, 7, true),
        (7, 7, true),
        (7, 0, false),
        (8, 7, false),
    ] {
        assert_eq!(server::may_use(uid, own), expected, "{uid} {own}");
    }
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join(SOCKET);
    drop(UnixListener::bind(&path).expect("stale"));
    let first = Server::bind(options(directory.path())).expect("bind");
    let error = Server::bind(options(directory.path())).expect_err("second");
    assert!(matches!(error, BindError::Running(_)), "{error}");
    drop(first);

    fs::write(&path, "precious").expect("write");
    let error = Server::bind(options(directory.path())).expect_err("file");
    assert!(matches!(error, BindError::NotASocket(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("read"), "precious");
}

#[test]
fn binding_problems_say_what_to_do() {
    let holder = TcpListener::bind(("127.0.0.1", 0)).expect("bind");
    let taken = holder.local_addr().expect("address");
    let missing = Path::new("/nonexistent/run");
    for (listen, run_dir, expected) in [
        (
            Some("0.0.0.0:15020".parse().expect("address")),
            None,
            "[admin] listen = \"0.0.0.0:15020\" would open /metrics to the network: set a loopback address such as \"127.0.0.1:15020\", or tls = true and a token_file or clients".to_owned(),
        ),
        (
            Some("[::]:15020".parse().expect("address")),
            None,
            "[admin] listen = \"[::]:15020\" would open /metrics to the network: set a loopback address such as \"127.0.0.1:15020\", or tls = true and a token_file or clients".to_owned(),
        ),
        (
            None,
            Some(missing),
            "cannot listen on /nonexistent/run/admin.sock: No such file or directory (os error 2); check [paths] run_dir".to_owned(),
        ),
    ] {
        let error = Server::bind(Options {
            listen,
            run_dir: run_dir.map(Into::into),
            ..Options::default()
        });
        assert_eq!(error.expect_err("refused").to_string(), expected);
    }
    let error = Server::bind(Options {
        listen: Some(taken),
        run_dir: None,
        ..Options::default()
    });
    let expected = format!("{taken} is in use: another agent? change [admin] listen");
    assert_eq!(error.expect_err("in use").to_string(), expected);
}

#[test]
fn flows_are_at_both_doors_and_questions_are_read_strictly() {
    let site = start(Fake::default());
    for (query, status, needle) in [
        ("", "200", "\"next\":7"),
        ("?after=5&last=3", "200", "\"next\":5"),
        (
            "?lst=3",
            "400",
            "unknown parameter \"lst\"; known are after, since,",
        ),
        (
            "?last=many",
            "400",
            "last is a number from 1 to 2000, not \"many\"",
        ),
        ("?opens=true", "400", "opens is for the unix socket"),
    ] {
        let answer = site.text(&format!("GET /api/v1/flows{query}"), "");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains(needle), "{query}: {answer}");
    }
    assert_eq!(site.unix(Method::GET, "/api/v1/flows?opens=true").0, 200);
    assert_eq!(site.unix(Method::POST, "/api/v1/flows").0, 405);
}
