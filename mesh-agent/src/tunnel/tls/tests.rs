//! Against rustls' own records.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream as StdStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{CipherSuite, ClientConnection, ServerConnection, SupportedCipherSuite, crypto};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use crate::tunnel::testing::{
    Flow, NAME, PATIENCE, accept, anonymous_config, client_config, listen, open, pair, peer, run,
    server_config, sessions,
};
use crate::tunnel::wire::{Decoder, Event, Frame, Preamble, data_header};
use crate::tunnel::{Broken, DialError, End, HandshakeError};

/// Blocking rustls that answers OPEN, echoes all data until END, and updates its keys on the
/// way, asking the other side to do so, too.
fn echo(config: rustls::ServerConfig) -> (std::net::SocketAddr, JoinHandle<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut connection = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::Stream::new(&mut connection, &mut socket);
        let (mut decoder, mut echoed) = (Decoder::new(), 0);
        let mut buffer = vec![0; 50_000];
        loop {
            let length = stream.read(&mut buffer).unwrap();
            let mut at = 0;
            while let Some(event) = decoder.next(&buffer[..length], &mut at).unwrap() {
                let mut out = Vec::new();
                match event {
                    Event::Preamble(_) => out.extend(Preamble::default().encode()),
                    Event::Frame(Frame::Open(_)) => Frame::Opened.encode(&mut out).unwrap(),
                    Event::Frame(Frame::End) => {
                        Frame::End.encode(&mut out).unwrap();
                        stream.write_all(&out).unwrap();
                        return echoed;
                    }
                    Event::Frame(frame) => panic!("{frame:?}"),
                    Event::Data(range) => {
                        echoed += range.len() as u64;
                        stream.conn.refresh_traffic_keys().unwrap();
                        out.extend(data_header(range.len()));
                        out.extend(&buffer[range]);
                    }
                }
                stream.write_all(&out).unwrap();
            }
        }
    });
    (address, thread)
}

#[test]
fn every_suite_is_understood_by_rustls_and_keys_are_updated() {
    let suites = crypto::aws_lc_rs::ALL_CIPHER_SUITES;
    let tls13 = |suite: &&SupportedCipherSuite| matches!(suite, SupportedCipherSuite::Tls13(_));
    let suites: Vec<CipherSuite> = suites.iter().filter(tls13).map(|s| s.suite()).collect();
    assert_eq!(suites.len(), 3);
    for suite in suites {
        let mut provider = crypto::aws_lc_rs::default_provider();
        provider
            .cipher_suites
            .retain(|known| known.suite() == suite);
        let mut config = server_config();
        let fresh = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(config.cert_resolver.clone());
        config = fresh;
        config.alpn_protocols = vec![crate::tunnel::wire::ALPN.to_vec()];
        let (address, thread) = echo(config);
        let sent = run(async {
            let mut session = peer(address).dial().await.unwrap();
            session.open(open()).await.unwrap();
            let (mut caller, outer) = pair().await;
            let relay = spawn_local(session.relay(outer));
            let mut sent = 0;
            for length in [1, 5_000, 16_379, 16_380, 16_381, 70_000, 300_000] {
                let data: Vec<u8> = (0..length).map(|index| (index * 7) as u8).collect();
                let mut back = vec![0; length];
                let (mut reader, mut writer) = caller.split();
                let (read, write) =
                    tokio::join!(reader.read_exact(&mut back), writer.write_all(&data));
                read.unwrap();
                write.unwrap();
                assert!(back == data, "{suite:?} {length}");
                sent += length as u64;
            }
            caller.shutdown().await.unwrap();
            let (outcome, _) = relay.await.unwrap();
            assert_eq!((outcome.sent, outcome.received), (sent, sent));
            assert_eq!(outcome.end, End::Finished);
            sent
        });
        assert_eq!(thread.join().unwrap(), sent);
    }
}

#[test]
fn a_worn_key_is_replaced() {
    run(async {
        let (mut client, mut server) = sessions().await;
        // Sixteen records for each key.
        client.link().tls().set_limit(80);
        server.link().tls().set_limit(80);
        let mut flow = Flow::begin(client, server).await;
        let data = vec![7; 100];
        for _ in 0..200 {
            flow.caller.write_all(&data).await.unwrap();
            let mut bytes = [0; 100];
            flow.workload.read_exact(&mut bytes).await.unwrap();
            flow.workload.write_all(&bytes).await.unwrap();
            flow.caller.read_exact(&mut bytes).await.unwrap();
            assert_eq!(bytes[..], data);
        }
        let ((outcome, client), _) = flow.ended().await;
        assert_eq!(outcome.sent, 20_000);
        let used = client.unwrap().link().tls().sealed();
        assert!(used <= 32, "{used} records with one key");
    });
}

#[test]
fn what_is_changed_on_the_way_ends_the_connection() {
    run(async {
        let (mut client, mut server) = sessions().await;
        // A record that no key made.
        let mut record = vec![23, 3, 3, 0, 40];
        record.resize(45, 9);
        client.link().outgoing.keep(&record);
        let opening = spawn_local(async move { client.open(open()).await.is_err() });
        let asked = server.next_open(PATIENCE).await;
        assert_eq!(asked, Err(Broken::Tls(rustls::Error::DecryptError)));
        drop(server);
        assert!(opening.await.unwrap());
    });
}

#[test]
fn records_without_data_are_not_taken_for_ever() {
    run(async {
        let (listener, address) = listen().await;
        let client = thread::spawn(move || {
            let mut socket = StdStream::connect(address).unwrap();
            let name = ServerName::try_from(NAME).unwrap();
            let mut connection = ClientConnection::new(Arc::new(client_config()), name).unwrap();
            let mut stream = rustls::Stream::new(&mut connection, &mut socket);
            stream.flush().unwrap();
            for _ in 0..100 {
                stream.conn.refresh_traffic_keys().unwrap();
                if stream.flush().is_err() {
                    return;
                }
            }
            let ended = stream.read(&mut [0; 100]);
            assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        });
        let (stream, _) = listener.accept().await.unwrap();
        let mut accepted = accept(stream, Arc::new(server_config())).await.unwrap();
        let asked = accepted.session.next_open(PATIENCE).await;
        assert!(matches!(asked, Err(Broken::Tls(_))), "{asked:?}");
        drop(accepted);
        client.join().unwrap();
    });
}

#[test]
fn a_handshake_tells_the_name_and_the_certificates_and_resumes() {
    run(async {
        let (listener, address) = listen().await;
        let config = Arc::new(server_config());
        let peer = peer(address);
        for resumed in [false, true] {
            let accepted = async {
                let (stream, _) = listener.accept().await.unwrap();
                let mut accepted = accept(stream, config.clone()).await.unwrap();
                assert_eq!(accepted.server_name.as_deref(), Some(NAME));
                assert_eq!(accepted.session.certificates().len(), 1);
                assert_eq!(accepted.resumed, resumed);
                accepted.session.next_open(PATIENCE).await.unwrap();
                accepted
                    .session
                    .refuse(crate::tunnel::wire::Code::Denied)
                    .await
            };
            let opened = async {
                let mut session = peer.dial().await.unwrap();
                session.open(open()).await.unwrap_err()
            };
            let (refused, _) = tokio::join!(accepted, opened);
            refused.unwrap();
        }
    });
}

#[test]
fn what_cannot_be_a_peer_is_told_apart() {
    run(async {
        let (listener, address) = listen().await;
        let dial = |peer: crate::tunnel::Peer| async move { peer.dial().await.err().unwrap() };
        // Another protocol, another name, a server that hangs up, nobody at all.
        let mut other = server_config();
        other.alpn_protocols = vec![b"h2".to_vec()];
        let refuse = async {
            let (stream, _) = listener.accept().await.unwrap();
            accept(stream, Arc::new(other)).await.err().unwrap()
        };
        let (near, far) = tokio::join!(dial(peer(address)), refuse);
        assert!(
            matches!(near, DialError::Handshake(_, HandshakeError::Tls(_))),
            "{near:?}"
        );
        assert!(matches!(far, HandshakeError::Tls(_)), "{far:?}");

        let mut stranger = peer(address);
        stranger.name = ServerName::try_from("other.test").unwrap();
        let refuse = async {
            let (stream, _) = listener.accept().await.unwrap();
            accept(stream, Arc::new(server_config()))
                .await
                .err()
                .unwrap()
        };
        let (near, far) = tokio::join!(dial(stranger), refuse);
        let wrong = rustls::Error::InvalidCertificate;
        assert!(
            matches!(&near, DialError::Handshake(_, HandshakeError::Tls(error))
                if std::mem::discriminant(error) == std::mem::discriminant(&wrong(rustls::CertificateError::Expired))),
            "{near:?}"
        );
        // The client has sent an alert, and the server knows why.
        assert!(
            matches!(far, HandshakeError::Tls(rustls::Error::AlertReceived(_))),
            "{far:?}"
        );

        let hang_up = async { drop(listener.accept().await.unwrap()) };
        let (near, ()) = tokio::join!(dial(peer(address)), hang_up);
        assert_eq!(near.name(), "tls", "{near:?}");
        drop(listener);
        assert_eq!(dial(peer(address)).await.name(), "refused");
    });
}

#[test]
fn a_client_without_a_certificate_and_what_is_no_tls_are_refused() {
    run(async {
        let (listener, address) = listen().await;
        let config = Arc::new(server_config());
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let refused = accept(stream, config.clone()).await.err().unwrap();
        assert!(matches!(refused, HandshakeError::Tls(_)), "{refused:?}");

        let client = thread::spawn(move || {
            let mut socket = StdStream::connect(address).unwrap();
            let name = ServerName::try_from(NAME).unwrap();
            let anonymous = anonymous_config();
            let mut connection = ClientConnection::new(Arc::new(anonymous), name).unwrap();
            let mut stream = rustls::Stream::new(&mut connection, &mut socket);
            stream
                .write_all(b"x")
                .and_then(|()| stream.read(&mut [0; 1]))
                .unwrap_err()
        });
        let (stream, _) = listener.accept().await.unwrap();
        let refused = accept(stream, config).await.err().unwrap();
        let none = rustls::Error::NoCertificatesPresented;
        assert!(
            matches!(&refused, HandshakeError::Tls(error) if *error == none),
            "{refused:?}"
        );
        let told = client.join().unwrap();
        assert_eq!(told.kind(), ErrorKind::InvalidData, "an alert: {told}");
    });
}

#[test]
fn who_says_nothing_costs_nothing_and_is_given_up() {
    run(async {
        let (listener, address) = listen().await;
        let _silent = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let started = tokio::time::Instant::now();
        let refused = accept(stream, Arc::new(server_config()))
            .await
            .err()
            .unwrap();
        assert!(matches!(refused, HandshakeError::Timeout), "{refused:?}");
        assert!(started.elapsed() < Duration::from_secs(5));
    });
}
