//! Configurations of both sides.
//!
//! Nothing is resumed, no tickets are given or kept, and there is no early data: a certificate
//! that was revoked must not live on in a session.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use rustls_pki_types::ServerName;

use super::algorithms::{has_aes, provider};
use super::judge::{JudgeOfClients, JudgeOfGuests, JudgeOfServer};
use crate::identity::bundle::Bundle;
use crate::identity::name::Identity;
use crate::identity::peer::Expected;

/// Protocols inside the tunnel, the preferred one first.
pub const ALPN: &[&[u8]] = &[b"mesh/1"];

/// For connections on which `source` calls `expected` on a node. `None` if this node has no
/// certificate for `source`.
pub fn client_config(
    bundle: &Bundle,
    source: &Identity,
    expected: &Identity,
    expected_node: &str,
) -> Option<Arc<ClientConfig>> {
    let own = Arc::clone(&bundle.own(source)?.key);
    client_config_with(bundle, own, expected, expected_node)
}

/// As [`client_config`], with a certificate that may be any.
pub(in crate::identity) fn client_config_with(
    bundle: &Bundle,
    own: Arc<CertifiedKey>,
    expected: &Identity,
    expected_node: &str,
) -> Option<Arc<ClientConfig>> {
    let judge = JudgeOfServer {
        trust: Arc::clone(bundle.trust()),
        expected: Expected {
            identity: expected.clone(),
            node: expected_node.into(),
        },
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(judge))
        .with_client_cert_resolver(Arc::new(OneCertificate(own)));
    config.alpn_protocols = alpn();
    config.resumption = Resumption::disabled();
    // The tunnel seals and opens records itself, in place.
    config.enable_secret_extraction = true;
    config.enable_early_data = false;
    Some(Arc::new(config))
}

/// For connections to the services of this node, each with its own certificate.
///
/// A handshake that names none of them fails, and so does every handshake if the node has none.
pub fn server_config(bundle: &Bundle) -> Arc<ServerConfig> {
    let judge = JudgeOfClients(Arc::clone(bundle.trust()));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
        .with_client_cert_verifier(Arc::new(judge))
        .with_cert_resolver(Arc::new(CertificateByName::new(bundle)));
    config.alpn_protocols = alpn();
    config.enable_secret_extraction = true;
    // A CPU that has no AES suffers more than one that has it gains.
    config.ignore_client_order = !has_aes();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// For HTTPS as `own`, whatever name it is asked by; clients may have a certificate, which is then
/// judged. `None` if this node has no certificate for `own`.
pub fn guest_config(bundle: &Bundle, own: &Identity) -> Option<Arc<ServerConfig>> {
    let own = Arc::clone(&bundle.own(own)?.key);
    let judge = JudgeOfGuests(JudgeOfClients(Arc::clone(bundle.trust())));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .ok()?
        .with_client_cert_verifier(Arc::new(judge))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Some(Arc::new(config))
}

/// The name by which a server is asked for the certificate of `identity`. `None` if it cannot be
/// written as a DNS name.
pub fn server_name(identity: &Identity) -> Option<ServerName<'static>> {
    ServerName::try_from(identity.server_name()).ok()
}

fn alpn() -> Vec<Vec<u8>> {
    ALPN.iter().map(|protocol| protocol.to_vec()).collect()
}

#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for OneCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct CertificateByName(HashMap<String, Arc<CertifiedKey>>);

impl CertificateByName {
    fn new(bundle: &Bundle) -> Self {
        let named = |(identity, key): (&Identity, _)| {
            // rustls folds the name that it is asked for.
            (identity.server_name().to_ascii_lowercase(), key)
        };
        let own = bundle.identities();
        Self(
            own.map(|own| named((&own.identity, Arc::clone(&own.key))))
                .collect(),
        )
    }
}

impl ResolvesServerCert for CertificateByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.get(hello.server_name()?).cloned()
    }
}
