//! Who has to show a token or a certificate, and whether it is enough.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use hyper::Method;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;

use super::super::limits;
use super::super::{Access, BindError, Options, Server};
use super::{Fake, Running, Site, options};
use crate::identity::testing::{Authority, Issued, domain, leaf, now, service, write};
use crate::identity::{Bundle, Identity};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn token_file(directory: &TempDir) -> PathBuf {
    let path = directory.path().join("token");
    fs::write(&path, TOKEN).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
    path
}

fn guarded(fake: Fake, access: Access) -> Site {
    let directory = tempfile::tempdir().expect("directory");
    let server = Server::bind(Options {
        access,
        ..options(directory.path())
    });
    let server = server.expect("bind");
    let source = Arc::new(fake);
    let address = server.local_addr().expect("address");
    let running: Running = server.start(source.clone()).expect("start");
    Site {
        address,
        _running: running,
        directory,
        source,
    }
}

#[test]
fn a_token_is_asked_for_where_there_is_one() {
    let directory = tempfile::tempdir().expect("directory");
    let site = guarded(
        Fake::default(),
        Access {
            token_file: Some(token_file(&directory)),
            ..Access::default()
        },
    );
    let ask = |request: &str, headers: &str| site.text(request, headers);
    let right = format!("authorization: Bearer {TOKEN}\r\n");
    let wrong = "authorization: Bearer 0123456789abcdef0123456789abcdee\r\n";
    for path in [
        "/metrics",
        "/api/v1/graph",
        "/api/v1/services",
        "/api/v1/flows",
    ] {
        let request = format!("GET {path}");
        for headers in [
            "",
            wrong,
            "authorization: Bearer \r\n",
            "authorization: Bearer\r\n",
            &format!("authorization: Basic {TOKEN}\r\n"),
            &format!("authorization: {TOKEN}\r\n"),
        ] {
            let answer = ask(&request, headers);
            assert!(
                answer.starts_with("HTTP/1.1 401 "),
                "{path} {headers}: {answer}"
            );
            assert!(answer.contains("www-authenticate: Bearer\r\n"), "{answer}");
        }
        let lower = right.replace("Bearer", "bearer");
        for headers in [&right, &lower] {
            assert!(
                ask(&request, headers).starts_with("HTTP/1.1 200 "),
                "{path}"
            );
        }
    }
    // Probes, and the page without its data.
    for (request, headers) in [
        ("GET /healthz", ""),
        ("GET /readyz", ""),
        ("GET /", "accept: text/html\r\n"),
        ("GET /page/app.js", ""),
    ] {
        assert!(
            ask(request, headers).starts_with("HTTP/1.1 200 "),
            "{request}"
        );
    }
    assert_eq!(site.unix(Method::GET, "/api/v1/graph").0, 200);
    // A scrape of a moment ago is good enough for the server.
    thread::sleep(limits::FRESH * 2);
    let metrics = site.unix(Method::GET, "/metrics").1;
    assert!(
        metrics.contains("mesh_admin_unauthorized_total 24"),
        "{metrics}"
    );
}

#[test]
fn without_a_good_token_it_does_not_start() {
    let directory = tempfile::tempdir().expect("directory");
    let path = token_file(&directory);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
    let error = Server::bind(Options {
        access: Access {
            token_file: Some(path.clone()),
            ..Access::default()
        },
        ..options(directory.path())
    });
    let error = error.expect_err("refused");
    assert!(matches!(error, BindError::Token { .. }));
    let expected = format!(
        "[admin] token_file: {}: others than root can read or change it; run `chown root` and `chmod 600` on it",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn the_network_needs_tls_and_a_proof() {
    let node = Identity::Node("edge-1".into());
    let directory = tempfile::tempdir().expect("directory");
    let token = Some(token_file(&directory));
    let clients = vec![service("prometheus")];
    for (tls, token_file, clients, safe) in [
        (None, None, vec![], false),
        (None, token.clone(), vec![], false),
        (Some(node.clone()), None, vec![], false),
        (Some(node.clone()), token, vec![], true),
        (Some(node), None, clients, true),
    ] {
        let access = Access {
            tls,
            token_file,
            clients,
        };
        let bound = Server::bind(Options {
            listen: Some(([0, 0, 0, 0], 0).into()),
            run_dir: None,
            access: access.clone(),
            ..Options::default()
        });
        assert_eq!(bound.is_ok(), safe, "{access:?}");
    }
}

/// A node `edge-1` that serves TLS, and the authority behind it.
fn over_tls(directory: &TempDir) -> (Site, Authority) {
    let root = Authority::root("root");
    let files = tempfile::tempdir().expect("directory");
    write(files.path(), "ca.crt", root.0.pem());
    let node = Identity::Node("edge-1".into());
    root.issue(&leaf(&node)).write(files.path(), "node");
    let loaded = Bundle::load(files.path(), &domain(), now());
    assert_eq!(loaded.problems, []);
    let fake = Fake {
        certificates: Some(Arc::new(loaded.bundle)),
        ..Fake::default()
    };
    let access = Access {
        tls: Some(node),
        token_file: Some(token_file(directory)),
        clients: vec![service("prometheus")],
    };
    (guarded(fake, access), root)
}

/// What an ordinary TLS client gets that trusts `root`, knows the node by its name and may have a
/// certificate.
fn ask(site: &Site, root: &Authority, own: Option<&Issued>, headers: &str) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(root.0.der().clone()).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let config = match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            use rustls_pki_types::pem::PemObject as _;
            let chain = CertificateDer::pem_slice_iter(own.pem.as_bytes());
            let chain = chain.collect::<Result<_, _>>().map_err(io::Error::other)?;
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes());
            config
                .with_client_auth_cert(chain, key.map_err(io::Error::other)?)
                .map_err(io::Error::other)?
        }
    };
    let name = ServerName::try_from("edge-1.node.mesh").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, TcpStream::connect(site.address)?);
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n"
    )?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // The server does not say goodbye in TLS.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

#[test]
fn over_tls_a_token_or_a_certificate_will_do() {
    let directory = tempfile::tempdir().expect("directory");
    let (site, root) = over_tls(&directory);
    let right = format!("authorization: Bearer {TOKEN}\r\n");
    let prometheus = root.issue_to("prometheus");
    let other = root.issue_to("cart");
    for (own, headers, expected) in [
        (None, "", "401"),
        (None, &*right, "200"),
        (Some(&prometheus), "", "200"),
        (Some(&other), "", "401"),
        (Some(&other), &right, "200"),
    ] {
        let answer = ask(&site, &root, own, headers).expect("an answer");
        assert_eq!(&answer[9..12], expected, "{answer}");
    }
    // Nobody's certificate is worse than none.
    let stranger = Authority::root("root").issue_to("prometheus");
    assert!(ask(&site, &root, Some(&stranger), "").is_err_or_empty());
    // In clear there is nothing.
    let mut plain = TcpStream::connect(site.address).expect("connect");
    plain
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("write");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert_eq!(site.unix(Method::GET, "/metrics").0, 200);
}

trait Nothing {
    fn is_err_or_empty(&self) -> bool;
}

impl Nothing for io::Result<String> {
    fn is_err_or_empty(&self) -> bool {
        self.as_ref().is_ok_and(String::is_empty) || self.is_err()
    }
}

#[test]
fn a_handshake_that_never_ends_is_cut() {
    let directory = tempfile::tempdir().expect("directory");
    let (site, root) = over_tls(&directory);
    let mut silent: Vec<_> = (0..8)
        .map(|_| TcpStream::connect(site.address).expect("connect"))
        .collect();
    for stream in &mut silent {
        stream.write_all(&[0x16, 3, 1]).expect("write");
    }
    let right = format!("authorization: Bearer {TOKEN}\r\n");
    assert!(ask(&site, &root, None, &right).is_ok());
    for mut stream in silent {
        let mut end = [0; 16];
        // An alert or nothing; but an end.
        while stream.read(&mut end).is_ok_and(|read| read > 0) {}
    }
}
