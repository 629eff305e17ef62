//! Handshakes in memory between the two configurations.

use std::sync::Arc;

use rcgen::SerialNumber;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, Error, HandshakeKind, NamedGroup, ProtocolVersion,
    ServerConfig, ServerConnection, SignatureScheme,
};
use rustls_pki_types::ServerName;

use super::super::testing::{Authority, Issued, after, bundle, domain, leaf, now, service, write};
use super::super::{
    ALPN, Bundle, Identity, Refusal, Role, client_config, refused_by_peer, server_config,
    server_name, verify,
};

type Ends = (ClientConnection, ServerConnection);

/// The error of the side that refuses, and what the other side learns from its alert.
#[derive(Debug)]
struct Failed {
    server: Option<Error>,
    client: Option<Error>,
}

impl Failed {
    fn codes(&self) -> (Option<&'static str>, Option<&'static str>) {
        let code = |error: &Option<Error>| {
            let error = error.as_ref()?;
            Refusal::from_tls(error)
                .map(|refusal| refusal.code())
                .or(refused_by_peer(error))
        };
        (code(&self.client), code(&self.server))
    }
}

fn connect(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: ServerName<'static>,
) -> Result<Ends, Box<Failed>> {
    let mut client = ClientConnection::new(client, name).expect("a client");
    let mut server = ServerConnection::new(server).expect("a server");
    let mut failed = Failed {
        server: None,
        client: None,
    };
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("memory");
        }
        let mut read = &bytes[..];
        while !read.is_empty() && failed.server.is_none() {
            server.read_tls(&mut read).expect("memory");
            failed.server = server.process_new_packets().err();
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("memory");
        }
        let mut read = &bytes[..];
        while !read.is_empty() && failed.client.is_none() {
            client.read_tls(&mut read).expect("memory");
            failed.client = client.process_new_packets().err();
        }
    }
    if failed.server.is_some() || failed.client.is_some() {
        return Err(Box::new(failed));
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

/// cart on edge-1 calls payments, which is on edge-1 by its certificate.
fn dial(caller: &Bundle, called: &Bundle) -> Result<Ends, Box<Failed>> {
    let expected = service("payments");
    let config = client_config(caller, &service("cart"), &expected, "edge-1");
    let name = server_name(&expected).expect("a name");
    connect(config.expect("a certificate"), server_config(called), name)
}

#[test]
fn both_sides_know_who_the_other_is() {
    let root = Authority::root("root");
    let (caller, called) = (
        bundle(&root, &["cart"]),
        bundle(&root, &["payments", "stock"]),
    );
    let (client, server) = dial(&caller, &called).expect("connected");
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = client.negotiated_key_exchange_group().expect("a group");
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
    assert_eq!(client.alpn_protocol(), Some(ALPN[0]));
    assert_eq!(server.alpn_protocol(), Some(ALPN[0]));
    let suite = client.negotiated_cipher_suite().expect("a suite");
    assert_eq!(suite.suite(), super::super::tls::preferred_suite());
    let chain = server.peer_certificates().expect("a chain");
    let peer = verify(chain, Role::Client, called.trust(), now()).expect("valid");
    assert_eq!(
        (peer.identity, peer.node.as_deref()),
        (service("cart"), Some("edge-1"))
    );
    let chain = client.peer_certificates().expect("a chain");
    let peer = verify(chain, Role::Server, caller.trust(), now()).expect("valid");
    assert_eq!(peer.identity, service("payments"));
}

#[test]
fn nothing_is_resumed() {
    let root = Authority::root("root");
    let (caller, called) = (bundle(&root, &["cart"]), bundle(&root, &["payments"]));
    let client = client_config(&caller, &service("cart"), &service("payments"), "edge-1");
    let (client, server) = (client.expect("a certificate"), server_config(&called));
    let name = server_name(&service("payments")).expect("a name");
    for _ in 0..3 {
        let ends = connect(Arc::clone(&client), Arc::clone(&server), name.clone());
        let (client, server) = ends.expect("connected");
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0);
    }
    assert_eq!(
        (server.send_tls13_tickets, server.max_early_data_size),
        (0, 0)
    );
    assert!(!server.ticketer.enabled() && !server.session_storage.can_cache());
    assert!(!client.enable_early_data);
    for log in [&client.key_log, &server.key_log] {
        assert!(!log.will_log("CLIENT_TRAFFIC_SECRET_0"));
    }
}

/// A caller whose only certificate is this one, used whether or not it is any good.
fn caller_with(root: &Authority, issued: &Issued) -> Arc<ClientConfig> {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), "ca.crt", root.0.pem());
    let bundle = Bundle::load(directory.path(), &domain(), now()).bundle;
    super::super::tls::client_config_with(
        &bundle,
        certified(issued),
        &service("payments"),
        "edge-1",
    )
    .expect("a configuration")
}

fn certified(issued: &Issued) -> Arc<CertifiedKey> {
    use rustls_pki_types::pem::PemObject as _;
    let key =
        rustls_pki_types::PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("a key");
    Arc::new(CertifiedKey::new(issued.chain.clone(), key))
}

#[test]
fn clients_that_are_refused() {
    let root = Authority::root("root");
    let other = Authority::root("other");
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), "ca.crt", root.0.pem());
    write(directory.path(), "ca.crl", root.revoke(&[&[0x66]], 30));
    root.issue_to("payments")
        .write(directory.path(), "payments");
    let called = Bundle::load(directory.path(), &domain(), now());
    assert_eq!(called.problems, []);
    let mut expired = leaf(&service("cart"));
    expired.not_after = after(0) - time::Duration::hours(1);
    let mut early = leaf(&service("cart"));
    early.not_before = after(1);
    let mut revoked = leaf(&service("cart"));
    revoked.serial_number = Some(SerialNumber::from(0x66));
    let mut nobody = leaf(&service("cart"));
    nobody.subject_alt_names.clear();
    for (issued, here, there) in [
        (root.issue(&expired), "expired", "expired"),
        (root.issue(&early), "not-yet-valid", "expired"),
        (root.issue(&revoked), "revoked", "revoked"),
        (other.issue_to("cart"), "unknown-issuer", "unknown-issuer"),
        (root.issue(&nobody), "no-uri", "refused"),
    ] {
        let name = server_name(&service("payments")).expect("a name");
        let client = caller_with(&root, &issued);
        let failed = connect(client, server_config(&called.bundle), name).expect_err("refused");
        assert_eq!(failed.codes(), (Some(there), Some(here)));
    }
}

#[derive(Debug)]
struct Nothing;

impl ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn a_client_without_a_certificate() {
    let root = Authority::root("root");
    let called = bundle(&root, &["payments"]);
    let caller = caller_with(&root, &root.issue_to("cart"));
    let mut without = (*caller).clone();
    without.client_auth_cert_resolver = Arc::new(Nothing);
    let name = server_name(&service("payments")).expect("a name");
    let failed = connect(Arc::new(without), server_config(&called), name).expect_err("refused");
    assert_eq!(
        failed.codes(),
        (Some("no-certificate"), Some("no-certificate"))
    );
}

#[test]
fn servers_that_are_refused() {
    let root = Authority::root("root");
    let other = Authority::root("other");
    let caller = bundle(&root, &["cart"]);
    let failed = dial(&caller, &bundle(&other, &["payments"])).expect_err("refused");
    assert_eq!(failed.codes().0, Some("unknown-issuer"));

    let called = bundle(&root, &["payments", "stock"]);
    let dial = |expected: &Identity, asked: &Identity, node: &str| {
        let config = client_config(&caller, &service("cart"), expected, node);
        let name = server_name(asked).expect("a name");
        connect(config.expect("a certificate"), server_config(&called), name)
    };
    let (payments, stock) = (service("payments"), service("stock"));
    assert!(dial(&payments, &payments, "edge-1").is_ok());
    let failed = dial(&payments, &stock, "edge-1").expect_err("another service");
    assert_eq!(failed.codes(), (Some("wrong-identity"), Some("refused")));
    let failed = dial(&payments, &payments, "edge-2").expect_err("another node");
    assert_eq!(failed.codes(), (Some("wrong-node"), Some("refused")));
    let unknown = service("nobody");
    let failed = dial(&unknown, &unknown, "edge-1").expect_err("not here");
    assert!(failed.server.is_some());
}

#[test]
fn no_name_no_certificate() {
    let root = Authority::root("root");
    let (caller, called) = (bundle(&root, &["cart"]), bundle(&root, &["payments"]));
    let config = client_config(&caller, &service("cart"), &service("payments"), "edge-1");
    let mut silent = (*config.expect("a certificate")).clone();
    silent.enable_sni = false;
    let name = server_name(&service("payments")).expect("a name");
    let failed = connect(Arc::new(silent), server_config(&called), name).expect_err("no name");
    assert!(failed.server.is_some());
}

#[test]
fn other_protocols_are_refused() {
    let root = Authority::root("root");
    let (caller, called) = (bundle(&root, &["cart"]), bundle(&root, &["payments"]));
    let config = client_config(&caller, &service("cart"), &service("payments"), "edge-1");
    let mut other = (*config.expect("a certificate")).clone();
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = server_name(&service("payments")).expect("a name");
    let failed = connect(Arc::new(other), server_config(&called), name).expect_err("refused");
    assert_eq!(failed.server, Some(Error::NoApplicationProtocol));

    let mut plain = ServerConnection::new(server_config(&called)).expect("a server");
    let mut request = &b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n"[..];
    plain.read_tls(&mut request).expect("memory");
    assert!(plain.process_new_packets().is_err());
}

#[test]
fn who_has_no_certificate_does_not_dial() {
    let root = Authority::root("root");
    let caller = bundle(&root, &["cart"]);
    assert!(client_config(&caller, &service("stock"), &service("payments"), "edge-1").is_none());
    let nothing = Bundle::empty(&domain());
    assert!(client_config(&nothing, &service("cart"), &service("payments"), "edge-1").is_none());
    // And nobody gets in where there is nothing.
    assert!(dial(&caller, &nothing).is_err());
}
