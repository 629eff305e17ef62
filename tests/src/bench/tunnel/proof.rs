//! Whether a pair does what it is measured for: TLS 1.3, and nothing for strangers.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};

use super::certificates::{self, Certificates, Leaf};
use super::site::Site;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What a client with the near certificate negotiates at `tls`.
///
/// # Errors
///
/// It gets no answer, or one without a certificate gets one.
pub(super) fn negotiated(site: &Site, tls: SocketAddr) -> Result<String> {
    let Certificates { root, near, .. } = &site.certificates;
    let known = site.near.run(|| ask(tls, root, Some(near)))?;
    let stranger = site.near.run(|| ask(tls, root, None));
    ensure!(stranger.is_err(), "it answers without a certificate");
    Ok(known)
}

/// Asks for the page; what was negotiated if it came.
fn ask(tls: SocketAddr, root: &Path, own: Option<&Leaf>) -> Result<String> {
    let mut connection = ClientConnection::new(
        Arc::new(config(root, own)?),
        ServerName::try_from(certificates::FAR)?,
    )?;
    let mut socket = TcpStream::connect(tls)?;
    socket.set_read_timeout(Some(ANSWER))?;
    let mut stream = Stream::new(&mut connection, &mut socket);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    if &start != b"HTTP/1.1 200" {
        bail!("it answers {}", String::from_utf8_lossy(&start));
    }
    let suite = connection.negotiated_cipher_suite().context("no suite")?;
    let group = connection.negotiated_key_exchange_group();
    let group = group.context("no key exchange")?.name();
    Ok(format!("{:?}, {group:?}", suite.suite()))
}

fn config(root: &Path, own: Option<&Leaf>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(root)?)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots);
    let Some(own) = own else {
        return Ok(config.with_no_client_auth());
    };
    let chain = vec![CertificateDer::from_pem_file(&own.certificate)?];
    let key = PrivateKeyDer::from_pem_file(&own.key)?;
    Ok(config.with_client_auth_cert(chain, key)?)
}
