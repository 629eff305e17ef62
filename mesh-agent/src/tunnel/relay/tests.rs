use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;

use super::super::testing::{Flow, PATIENCE, open, pair, run, sessions};
use super::super::wire::Code;
use super::super::{Client, NotOpened, Server};
use super::*;

/// Bytes that differ from their neighbours.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index / 251 + index) as u8)
        .collect()
}

async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

async fn read_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// Waits for a reset, which nothing but a reset is.
async fn assert_reset(stream: &mut TcpStream) {
    let error = loop {
        match stream.read(&mut [0; 4096]).await {
            Ok(0) => panic!("FIN where a reset was due"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

fn outcome(sent: u64, received: u64, end: End) -> Outcome {
    Outcome {
        sent,
        received,
        end,
    }
}

/// The next flow on the sessions works as the first one did.
async fn assert_reusable(client: Option<Session<Client>>, server: Option<Session<Server>>) {
    let mut client = client.expect("the client's session is kept");
    assert!(client.is_usable());
    let mut flow = Flow::begin(client, server.expect("the server's session is kept")).await;
    flow.caller.write_all(b"again").await.unwrap();
    assert_eq!(read(&mut flow.workload, 5).await, b"again");
    let ((outbound, _), _) = flow.ended().await;
    assert_eq!(outbound.sent, 5);
}

#[test]
fn a_request_and_an_answer_cross_and_the_session_is_kept() {
    run(async {
        let mut flow = Flow::new().await;
        flow.caller.write_all(b"ping").await.unwrap();
        assert_eq!(read(&mut flow.workload, 4).await, b"ping");
        flow.workload.write_all(b"answer").await.unwrap();
        assert_eq!(read(&mut flow.caller, 6).await, b"answer");
        let ((outbound, client), (inbound, server)) = flow.ended().await;
        assert_eq!(outbound, outcome(4, 6, End::Finished));
        assert_eq!(inbound, outcome(6, 4, End::Finished));
        assert_reusable(client, server).await;
    });
}

#[test]
fn the_server_may_speak_first() {
    run(async {
        let mut flow = Flow::new().await;
        flow.workload.write_all(b"220 ready").await.unwrap();
        assert_eq!(read(&mut flow.caller, 9).await, b"220 ready");
    });
}

#[test]
fn either_side_may_end_its_direction_first() {
    run(async {
        let mut flow = Flow::new().await;
        flow.caller.write_all(b"all of it").await.unwrap();
        flow.caller.shutdown().await.unwrap();
        assert_eq!(read_end(&mut flow.workload).await, b"all of it");
        flow.workload.write_all(b"and the answer").await.unwrap();
        flow.workload.shutdown().await.unwrap();
        assert_eq!(read_end(&mut flow.caller).await, b"and the answer");
        let ((_, client), (_, server)) = flow.ended().await;

        let mut flow = Flow::begin(client.unwrap(), server.unwrap()).await;
        flow.workload.shutdown().await.unwrap();
        assert_eq!(read_end(&mut flow.caller).await, b"");
        flow.caller.write_all(b"still").await.unwrap();
        flow.caller.shutdown().await.unwrap();
        assert_eq!(read_end(&mut flow.workload).await, b"still");
        let ((outbound, client), (inbound, server)) = flow.ended().await;
        assert_eq!(outbound, outcome(5, 0, End::Finished));
        assert_eq!(inbound, outcome(0, 5, End::Finished));
        assert_reusable(client, server).await;
    });
}

#[test]
fn a_reset_of_either_application_is_one_of_the_other() {
    run(async {
        let mut flow = Flow::new().await;
        flow.caller.write_all(b"x").await.unwrap();
        read(&mut flow.workload, 1).await;
        reset(flow.caller);
        assert_reset(&mut flow.workload).await;
        let (outbound, client) = flow.outbound.await.unwrap();
        let (inbound, server) = flow.inbound.await.unwrap();
        assert_eq!(outbound, outcome(1, 0, End::ResetByApp));
        assert_eq!(inbound, outcome(0, 1, End::ResetByPeer));

        let mut flow = Flow::begin(client.unwrap(), server.unwrap()).await;
        flow.workload.write_all(b"y").await.unwrap();
        read(&mut flow.caller, 1).await;
        reset(flow.workload);
        assert_reset(&mut flow.caller).await;
        let (outbound, client) = flow.outbound.await.unwrap();
        let (inbound, server) = flow.inbound.await.unwrap();
        assert_eq!(outbound, outcome(0, 1, End::ResetByPeer));
        assert_eq!(inbound, outcome(1, 0, End::ResetByApp));
        assert_reusable(client, server).await;
    });
}

#[test]
fn writing_to_an_application_that_is_gone_resets_the_writer() {
    run(async {
        let mut flow = Flow::new().await;
        // The caller ends its direction, then goes without reading the answer.
        flow.caller.shutdown().await.unwrap();
        assert_eq!(read_end(&mut flow.workload).await, b"");
        drop(flow.caller);
        let writer = spawn_local(async move {
            loop {
                if let Err(error) = flow.workload.write_all(b"anyone there?").await {
                    return error.kind();
                }
                sleep(Duration::from_millis(1)).await;
            }
        });
        let kind = writer.await.unwrap();
        assert!(matches!(
            kind,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ));
        let (outbound, client) = flow.outbound.await.unwrap();
        let (inbound, server) = flow.inbound.await.unwrap();
        assert_eq!(outbound.end, End::ResetByApp);
        assert_eq!(inbound.end, End::ResetByPeer);
        assert_reusable(client, server).await;
    });
}

#[test]
fn a_reset_in_the_middle_of_much_data_leaves_a_session_that_works() {
    run(async {
        let (mut client, mut server) = sessions().await;
        for _ in 0..20 {
            let mut flow = Flow::begin(client, server).await;
            let data = pattern(300_000);
            let writer =
                spawn_local(async move { while flow.workload.write_all(&data).await.is_ok() {} });
            read(&mut flow.caller, 400_000).await;
            reset(flow.caller);
            writer.await.unwrap();
            let (outbound, kept) = flow.outbound.await.unwrap();
            assert_eq!(outbound.end, End::ResetByApp);
            let (_, other) = flow.inbound.await.unwrap();
            (client, server) = match (kept, other) {
                (Some(client), Some(server)) => (client, server),
                // Too much was on its way.
                _ => sessions().await,
            };
        }
        assert_reusable(Some(client), Some(server)).await;
    });
}

#[test]
fn much_data_crosses_both_ways_unchanged() {
    run(async {
        let flow = Flow::new().await;
        let data = pattern(24 << 20);
        let (mut caller, mut workload) = (flow.caller, flow.workload);
        let both = |mut stream: TcpStream, data: Vec<u8>| async move {
            let (mut reader, mut writer) = stream.split();
            let mut received = Vec::new();
            let write = async {
                writer.write_all(&data).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let (read, ()) = tokio::join!(reader.read_to_end(&mut received), write);
            read.unwrap();
            assert!(received == data, "the data was changed");
        };
        caller.set_nodelay(true).unwrap();
        workload.set_nodelay(true).unwrap();
        caller.flush().await.unwrap();
        workload.flush().await.unwrap();
        tokio::join!(both(caller, data.clone()), both(workload, data));
        let (outbound, client) = flow.outbound.await.unwrap();
        let (inbound, server) = flow.inbound.await.unwrap();
        assert_eq!(outbound, outcome(24 << 20, 24 << 20, End::Finished));
        assert_eq!(inbound, outbound);
        assert_reusable(client, server).await;
    });
}

#[test]
fn a_receiver_that_does_not_read_stops_the_sender() {
    run(async {
        let mut flow = Flow::new().await;
        let chunk = pattern(1 << 20);
        let mut sent = 0;
        // Until a write does not come through for a while.
        while let Ok(written) =
            tokio::time::timeout(Duration::from_millis(500), flow.caller.write(&chunk)).await
        {
            sent += written.unwrap();
            assert!(sent < 200 << 20, "nothing stops the sender");
        }
        let mut left = sent;
        let mut buffer = vec![0; 1 << 20];
        while left > 0 {
            left -= flow.workload.read(&mut buffer).await.unwrap();
        }
        flow.workload.write_all(b"got it").await.unwrap();
        assert_eq!(read(&mut flow.caller, 6).await, b"got it");
    });
}

#[test]
fn the_death_of_the_peers_agent_is_a_reset() {
    run(async {
        for at_client in [true, false] {
            let mut flow = Flow::new().await;
            flow.caller.write_all(b"x").await.unwrap();
            read(&mut flow.workload, 1).await;
            match at_client {
                true => flow.outbound.abort(),
                false => flow.inbound.abort(),
            }
            assert_reset(&mut flow.caller).await;
            assert_reset(&mut flow.workload).await;
            let broken = match at_client {
                true => flow.inbound.await.unwrap().0,
                false => flow.outbound.await.unwrap().0,
            };
            assert!(matches!(broken.end, End::Broken(_)), "{broken:?}");
        }
    });
}

#[test]
fn a_cut_resets_both_applications_at_once() {
    run(async {
        let (client, server) = sessions().await;
        let control = server.control();
        let mut flow = Flow::begin(client, server).await;
        flow.caller.write_all(b"x").await.unwrap();
        read(&mut flow.workload, 1).await;
        assert_eq!((control.sent(), control.received()), (0, 1));
        control.cut();
        assert_reset(&mut flow.caller).await;
        assert_reset(&mut flow.workload).await;
        let (inbound, server) = flow.inbound.await.unwrap();
        assert_eq!(inbound, outcome(0, 1, End::Broken(Broken::Cut)));
        assert!(server.is_none());
    });
}

#[test]
fn a_server_that_drains_finishes_the_flow_and_takes_no_other() {
    run(async {
        let (client, server) = sessions().await;
        let control = server.control();
        let mut flow = Flow::begin(client, server).await;
        flow.caller.write_all(b"x").await.unwrap();
        read(&mut flow.workload, 1).await;
        control.drain();
        flow.workload.write_all(b"to the end").await.unwrap();
        assert_eq!(read(&mut flow.caller, 10).await, b"to the end");
        let ((outbound, client), (_, server)) = flow.ended().await;
        assert_eq!(outbound.end, End::Finished);
        assert!(client.is_none(), "the client was told");
        let next = server.unwrap().next_open(PATIENCE).await;
        assert_eq!(next, Ok(None));
    });
}

#[test]
fn an_open_that_crosses_goaway_is_refused() {
    run(async {
        let (mut client, mut server) = sessions().await;
        server.control().drain();
        let server = spawn_local(async move { server.next_open(PATIENCE).await });
        let refused = client.open(open()).await;
        assert!(matches!(refused, Err(NotOpened::Refused(Code::Draining))));
        assert!(!client.is_usable());
        client.close();
        assert_eq!(server.await.unwrap(), Ok(None));
    });
}

#[test]
fn a_refusal_leaves_the_session_for_the_next_flow() {
    run(async {
        let (mut client, mut server) = sessions().await;
        for code in Code::ALL {
            let refuse = async {
                server.next_open(PATIENCE).await.unwrap().unwrap();
                server.refuse(code).await.unwrap();
            };
            let (refused, ()) = tokio::join!(client.open(open()), refuse);
            assert!(matches!(refused, Err(NotOpened::Refused(given)) if given == code));
        }
        assert_reusable(Some(client), Some(server)).await;
    });
}

#[test]
fn an_idle_flow_is_small() {
    // Two sockets, two tasks' worth of state; buffers come and go.
    assert!(
        size_of::<Relay<Client>>() <= 256,
        "{}",
        size_of::<Relay<Client>>()
    );
    assert!(size_of::<Link>() <= 256, "{}", size_of::<Link>());
    assert!(
        size_of::<super::super::tls::Tls>() <= 2048,
        "{}",
        size_of::<super::super::tls::Tls>()
    );
}

#[test]
fn data_that_was_never_asked_for_ends_the_connection() {
    run(async {
        let (client, mut server) = sessions().await;
        let (mut caller, outer) = pair().await;
        // A client that does not wait for an answer.
        let relay = spawn_local(client.relay(outer));
        caller.write_all(b"data before OPEN").await.unwrap();
        let asked = server.next_open(PATIENCE).await;
        assert!(matches!(asked, Err(Broken::Wire(_))), "{asked:?}");
        drop(server);
        assert_reset(&mut caller).await;
        assert!(relay.await.unwrap().1.is_none());
    });
}

#[derive(Default)]
struct Seen {
    sent: Vec<u8>,
    received: Vec<u8>,
    has_ended: bool,
}

struct Watcher(Rc<RefCell<Seen>>);

impl Tap for Watcher {
    fn sent(&mut self, bytes: &[u8]) {
        self.0.borrow_mut().sent.extend_from_slice(bytes);
    }

    fn received(&mut self, bytes: &[u8]) {
        self.0.borrow_mut().received.extend_from_slice(bytes);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.borrow_mut().has_ended = true;
    }
}

#[test]
fn who_watches_sees_what_passes() {
    run(async {
        let (client, server) = sessions().await;
        let seen = Rc::<RefCell<Seen>>::default();
        let tap = Box::new(Watcher(Rc::clone(&seen)));
        let flow = Flow::watched(client, server, Some(tap)).await;
        let (there, back) = (pattern(3_000_000), pattern(1_234_567));
        let (mut caller, mut workload) = (flow.caller, flow.workload);
        let asked = async {
            caller.write_all(b"a first word").await.unwrap();
            caller.write_all(&there).await.unwrap();
            caller.shutdown().await.unwrap();
            read_end(&mut caller).await
        };
        let answered = async {
            let got = read_end(&mut workload).await;
            workload.write_all(&back).await.unwrap();
            workload.shutdown().await.unwrap();
            got
        };
        let (answer, question) = tokio::join!(asked, answered);
        let ended = flow.outbound.await.unwrap();
        flow.inbound.await.unwrap();
        assert_eq!(ended.0.end, End::Finished);
        let seen = seen.borrow();
        assert!(seen.sent == question, "what was sent");
        assert!(seen.received == answer, "what was received");
        assert!(seen.has_ended);
    });
}
