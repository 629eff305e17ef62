//! Certificates, sockets and sessions for tests.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::task::{JoinHandle, spawn_local};

use super::wire::{ALPN, Open};
use super::*;

/// The name in the server's certificate.
pub(super) const NAME: &str = "server.test";

/// Longer than anything in a test takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new([]).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&key).unwrap().der().clone();
    Authority {
        issuer: Issuer::new(parameters, key),
        certificate,
    }
});

fn roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(AUTHORITY.certificate.clone()).unwrap();
    Arc::new(roots)
}

fn issue(name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new([name.to_owned()]).unwrap();
    let certificate = parameters.signed_by(&key, &AUTHORITY.issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    (vec![certificate.der().clone()], key)
}

pub(super) fn client_config() -> ClientConfig {
    let (chain, key) = issue("client.test");
    let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(roots())
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_secret_extraction = true;
    config
}

/// A client that proves nothing.
pub(super) fn anonymous_config() -> ClientConfig {
    let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(roots())
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

pub(super) fn server_config() -> ServerConfig {
    let (chain, key) = issue(NAME);
    let verifier = WebPkiClientVerifier::builder(roots()).build().unwrap();
    let mut config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_secret_extraction = true;
    config
}

pub(super) fn peer(address: SocketAddr) -> Peer {
    Peer {
        address,
        name: ServerName::try_from(NAME).unwrap(),
        config: Arc::new(client_config()),
    }
}

pub(super) fn open() -> Open {
    Open {
        port: 80,
        endpoint: "10.0.0.12:9000".parse().unwrap(),
        client: "10.0.0.11:40000".parse().unwrap(),
        version: "".into(),
        unknown: None,
    }
}

/// Runs a test as a worker runs flows.
pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap();
    let test = async { tokio::time::timeout(PATIENCE * 3, test).await };
    runtime.block_on(test).expect("in time")
}

pub(super) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Both ends of a connection.
pub(super) async fn pair() -> (TcpStream, TcpStream) {
    let (listener, address) = listen().await;
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let near = near.unwrap();
    near.set_nodelay(true).unwrap();
    (near, far.unwrap().0)
}

pub(super) async fn accept(
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<Accepted, HandshakeError> {
    let admission = Admission::new(AdmissionLimits::default(), Arc::default());
    let place = admission.admit([127, 0, 0, 1].into()).unwrap();
    Session::<Server>::accept(stream, config, &place).await
}

/// Both ends of a session.
pub(super) async fn sessions() -> (Session<Client>, Session<Server>) {
    let (listener, address) = listen().await;
    let accepted = async {
        let (stream, _) = listener.accept().await.unwrap();
        accept(stream, Arc::new(server_config())).await.unwrap()
    };
    let peer = peer(address);
    let (client, accepted) = tokio::join!(peer.dial(), accepted);
    (client.unwrap(), accepted.session)
}

type Ended<R> = (Outcome, Option<Session<R>>);

/// A flow, with the applications' ends of it.
pub(super) struct Flow {
    pub(super) caller: TcpStream,
    pub(super) workload: TcpStream,
    pub(super) outbound: JoinHandle<Ended<Client>>,
    pub(super) inbound: JoinHandle<Ended<Server>>,
}

impl Flow {
    pub(super) async fn begin(client: Session<Client>, server: Session<Server>) -> Self {
        Self::watched(client, server, None).await
    }

    pub(super) async fn watched(
        mut client: Session<Client>,
        mut server: Session<Server>,
        tap: Option<Box<dyn Tap>>,
    ) -> Self {
        let ((caller, outer), (inner, workload)) = (pair().await, pair().await);
        let inbound = spawn_local(async move {
            let asked = server.next_open(PATIENCE).await.unwrap().unwrap();
            assert_eq!(asked, open());
            server.relay(inner).unwrap().await
        });
        let outbound = spawn_local(async move {
            client.open(open()).await.unwrap();
            match tap {
                Some(tap) => client.relay(outer).watched_by(tap).await,
                None => client.relay(outer).await,
            }
        });
        Self {
            caller,
            workload,
            outbound,
            inbound,
        }
    }

    pub(super) async fn new() -> Self {
        let (client, server) = sessions().await;
        Self::begin(client, server).await
    }

    /// How both ends say it went, and the sessions.
    pub(super) async fn ended(self) -> (Ended<Client>, Ended<Server>) {
        drop((self.caller, self.workload));
        let (outbound, inbound) = tokio::join!(self.outbound, self.inbound);
        (outbound.unwrap(), inbound.unwrap())
    }
}
