//! Against another implementation, whose client and server talk to each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes as Body;
use h2::{Reason, client, server};
use http::{HeaderMap, HeaderValue, Method as Verb, Request, Response};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet, spawn_local};

use super::*;
use mesh_common::http2::PREFACE;

/// Longer than a conversation takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// How a request goes.
#[derive(Clone, Debug)]
struct Call {
    verb: Verb,
    /// Fields of the request and of the response.
    fields: [Vec<(String, Vec<u8>)>; 2],
    body: usize,
    answer: Answer,
    /// Once the client has the head of the answer.
    answered: Arc<Notify>,
}

#[derive(Clone, Debug)]
enum Answer {
    /// A status, and a body of that length.
    Plain(u16, usize),
    /// A body of that length, and a status in trailers.
    Grpc(u8, usize),
    /// Nothing but a status.
    TrailersOnly(u8),
    /// Part of a body, then a reset.
    Broken,
    Reset,
}

/// Requests at a time. Both ends writing much and neither reading would be the end of it.
const MOST: usize = 30;

type Counts = BTreeMap<(Verb, u16, Option<u8>), usize>;

fn fields() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    // Names and values come again, so that the tables are used.
    let name = prop_oneof!["x-[a-d]", "[a-z][a-z0-9-]{0,40}"];
    let byte = prop_oneof![8 => 32..127_u8, 1 => 128..=255_u8];
    let value = prop_oneof![
        vec(Just(b'v'), 0..4),
        vec(byte, 0..80),
        Just(vec![b'l'; 3000])
    ];
    let usual = |(name, _): &(String, _)| !matches!(&**name, "te" | "host" | "connection");
    vec((name, value).prop_filter("of a connection", usual), 0..12)
}

fn calls(most: usize) -> impl Strategy<Value = Vec<Call>> {
    let verb = prop::sample::select(vec![Verb::GET, Verb::POST, Verb::DELETE, Verb::PATCH]);
    let body = prop_oneof![Just(0), 1..100_usize, Just(70_000)];
    let answer = prop_oneof![
        (200..600_u16, body.clone()).prop_map(|(code, body)| Answer::Plain(code, body)),
        (0..=16_u8, body.clone()).prop_map(|(status, body)| Answer::Grpc(status, body)),
        (0..=16_u8).prop_map(Answer::TrailersOnly),
        Just(Answer::Broken),
        Just(Answer::Reset),
    ];
    let call = (verb, [fields(), fields()], body, answer);
    let call = call.prop_map(|(verb, fields, body, answer)| Call {
        verb,
        fields,
        body,
        answer,
        answered: Arc::default(),
    });
    vec(call, 1..most)
}

impl Call {
    /// The same with heads only: a peer bears just so many resets and small bodies.
    fn brief(self) -> Self {
        let answer = match self.answer {
            Answer::Plain(code, _) => Answer::Plain(code, 0),
            Answer::Grpc(status, _) => Answer::TrailersOnly(status),
            _ => Answer::TrailersOnly(0),
        };
        Self {
            body: 0,
            answer,
            ..self
        }
    }

    fn outcome(&self) -> (Verb, u16, Option<u8>) {
        let (code, grpc) = match self.answer {
            Answer::Plain(code, _) => (code, None),
            Answer::Grpc(status, _) | Answer::TrailersOnly(status) => (200, Some(status)),
            Answer::Broken => (200, None),
            Answer::Reset => (0, None),
        };
        (self.verb.clone(), code, grpc)
    }
}

fn add(headers: &mut HeaderMap, fields: &[(String, Vec<u8>)]) {
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (
            http::HeaderName::try_from(name),
            HeaderValue::from_bytes(value),
        ) {
            headers.append(name, value);
        }
    }
}

/// Passes bytes on in pieces and shows them; ends when either end does.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    size: usize,
    see: impl Fn(&[u8]),
) {
    let mut buffer = vec![0; size];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        see(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

struct Seen {
    bytes: Bytes,
    preface: usize,
    counts: Counts,
    slowest: u64,
}

impl Seen {
    fn see(&mut self, from: Side, mut bytes: &[u8]) {
        if from == Side::Requests && self.preface < PREFACE.len() {
            let length = bytes.len().min(PREFACE.len() - self.preface);
            let (first, rest) = bytes.split_at(length);
            assert_eq!(first, &PREFACE[self.preface..self.preface + length]);
            self.preface += length;
            bytes = rest;
        }
        let (counts, slowest) = (&mut self.counts, &mut self.slowest);
        let told = &mut |outcome| count(counts, slowest, outcome);
        self.bytes.pass(from, 1, bytes, told).expect("parsed");
    }
}

fn count(counts: &mut Counts, slowest: &mut u64, outcome: Outcome) {
    assert_eq!(outcome.waited.is_some(), outcome.code != 0);
    *slowest = outcome.waited.unwrap_or_default().max(*slowest);
    let verb = outcome.method.name().parse().unwrap();
    *counts
        .entry((verb, outcome.code, outcome.grpc))
        .or_default() += 1;
}

async fn serve(stream: DuplexStream, table: u32, calls: Arc<Vec<Call>>) {
    let mut builder = server::Builder::new();
    builder.header_table_size(table);
    let mut connection = builder.handshake(stream).await.unwrap();
    while let Some(asked) = connection.accept().await {
        let Ok((request, respond)) = asked else { break };
        let number: usize = request.uri().path()[1..].parse().unwrap();
        spawn_local(answer(calls[number].clone(), request, respond));
    }
}

async fn answer(
    call: Call,
    mut request: Request<h2::RecvStream>,
    mut respond: server::SendResponse<Body>,
) {
    if matches!(call.answer, Answer::Reset) {
        respond.send_reset(Reason::REFUSED_STREAM);
        return;
    }
    while let Some(Ok(part)) = request.body_mut().data().await {
        let _ = request
            .body_mut()
            .flow_control()
            .release_capacity(part.len());
    }
    let mut response = Response::new(());
    add(response.headers_mut(), &call.fields[1]);
    let body = |length| Body::from(vec![b'b'; length]);
    match call.answer {
        Answer::Plain(code, 0) => {
            *response.status_mut() = code.try_into().unwrap();
            respond.send_response(response, true).unwrap();
        }
        Answer::Plain(code, length) => {
            *response.status_mut() = code.try_into().unwrap();
            let mut send = respond.send_response(response, false).unwrap();
            send.send_data(body(length), true).unwrap();
        }
        Answer::Grpc(status, length) => {
            let mut send = respond.send_response(response, false).unwrap();
            send.send_data(body(length), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.to_string().parse().unwrap());
            add(&mut trailers, &call.fields[0]);
            send.send_trailers(trailers).unwrap();
        }
        Answer::TrailersOnly(status) => {
            let status = status.to_string().parse().unwrap();
            response.headers_mut().insert("grpc-status", status);
            respond.send_response(response, true).unwrap();
        }
        Answer::Broken => {
            let mut send = respond.send_response(response, false).unwrap();
            send.send_data(body(5), false).unwrap();
            // What is queued is lost with a reset.
            call.answered.notified().await;
            send.send_reset(Reason::INTERNAL_ERROR);
        }
        Answer::Reset => unreachable!("it has returned"),
    }
}

async fn call(stream: DuplexStream, table: u32, calls: Arc<Vec<Call>>) {
    let mut builder = client::Builder::new();
    builder.header_table_size(table).enable_push(false);
    let (mut sender, connection) = builder.handshake::<_, Body>(stream).await.unwrap();
    let driver = spawn_local(connection);
    let mut tasks = JoinSet::new();
    for (number, call) in calls.iter().enumerate() {
        if tasks.len() >= MOST {
            let _ = tasks.join_next().await;
        }
        sender = sender.ready().await.unwrap();
        let uri = format!("http://server.test/{number}");
        let mut request = Request::new(());
        *request.method_mut() = call.verb.clone();
        *request.uri_mut() = uri.parse().unwrap();
        add(request.headers_mut(), &call.fields[0]);
        let (response, mut send) = sender.send_request(request, call.body == 0).unwrap();
        if call.body > 0 {
            let _ = send.send_data(Body::from(vec![b'q'; call.body]), true);
        }
        let answered = Arc::clone(&call.answered);
        tasks.spawn_local(async move {
            let Ok(mut response) = response.await else {
                return;
            };
            answered.notify_one();
            let body = response.body_mut();
            while let Some(Ok(part)) = body.data().await {
                let _ = body.flow_control().release_capacity(part.len());
            }
            let _ = body.trailers().await;
        });
    }
    tasks.join_all().await;
    drop(sender);
    let _ = driver.await;
}

/// What is seen of the calls when it comes in pieces of `size`.
fn watch(calls: Vec<Call>, tables: [u32; 2], size: usize) -> Counts {
    let calls = Arc::new(calls);
    let seen = Arc::new(Mutex::new(Seen {
        bytes: Bytes::default(),
        preface: 0,
        counts: Counts::new(),
        slowest: 0,
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let talk = async {
        let (near, far) = (duplex(16 << 10), duplex(16 << 10));
        let (from_client, to_client) = split(near.1);
        let (from_server, to_server) = split(far.0);
        let shown = |from| {
            let seen = Arc::clone(&seen);
            move |bytes: &[u8]| seen.lock().unwrap().see(from, bytes)
        };
        let passing = [
            spawn_local(pass(from_client, to_server, size, shown(Side::Requests))),
            spawn_local(pass(from_server, to_client, size, shown(Side::Responses))),
        ];
        let serving = spawn_local(serve(far.1, tables[0], Arc::clone(&calls)));
        call(near.0, tables[1], calls).await;
        serving.await.unwrap();
        for task in passing {
            task.await.unwrap();
        }
    };
    let talk = async { tokio::time::timeout(PATIENCE, talk).await };
    LocalSet::new().block_on(&runtime, talk).expect("in time");
    let mut seen = seen.lock().unwrap();
    assert_eq!(
        seen.bytes.connection.in_flight(),
        0,
        "what has ended is known to have"
    );
    std::mem::take(&mut seen.counts)
}

fn expected(calls: &[Call]) -> Counts {
    let mut counts = Counts::new();
    for call in calls {
        *counts.entry(call.outcome()).or_default() += 1;
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every request is seen as it went, whatever is said around it and however the bytes come.
    #[test]
    fn requests_are_seen_as_they_went(
        calls in calls(40),
        tables in [table(), table()],
        size in prop_oneof![1..64_usize, Just(16 << 10)],
    ) {
        let wanted = expected(&calls);
        prop_assert_eq!(watch(calls, tables, size), wanted);
    }
}

/// Thousands of requests on one connection, whose tables are overwritten again and again.
#[test]
fn a_long_connection_stays_in_step() {
    let mut runner = TestRunner::deterministic();
    let calls = calls(200);
    let mut all = Vec::new();
    while all.len() < 3000 {
        let more = calls.new_tree(&mut runner).unwrap().current();
        all.extend(more.into_iter().map(Call::brief));
    }
    let wanted = expected(&all);
    assert_eq!(watch(all, [4096, 4096], 1400), wanted);
}

fn table() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0, 100, 4096, 65536])
}
