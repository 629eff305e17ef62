//! Frames as they stand in the standard, and such as nobody should send.

use proptest::prelude::*;

use super::streams::MOST;
use super::*;

const END_HEADERS: u8 = frame_flag::END_HEADERS;
const END_STREAM: u8 = frame_flag::END_STREAM;
const BOTH: u8 = END_HEADERS | END_STREAM;

/// `:method: POST` and `:status: 200` of the static table.
const POST: &[u8] = &[0x83];
const OK: &[u8] = &[0x88];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn headers(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
    frame(frame_kind::HEADERS, flags, stream, block)
}

fn settings() -> Vec<u8> {
    frame(frame_kind::SETTINGS, 0, 0, &[])
}

/// A literal field that is kept in the table.
fn kept(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0x40, name.len() as u8];
    block.extend(name.as_bytes());
    block.push(value.len() as u8);
    block.extend(value.as_bytes());
    block
}

use Side::{Requests as Client, Responses as Server};

/// What is told of a conversation whose lines each take a microsecond.
fn hear(lines: &[(Side, Vec<u8>)]) -> Result<Vec<Outcome>, Unparsed> {
    let mut told = Vec::new();
    let mut bytes = Bytes::default();
    let greeting = [(Client, settings()), (Server, settings())];
    for (number, (from, line)) in greeting.iter().chain(lines).enumerate() {
        let at = number as u64 * 1000;
        bytes.pass(*from, at, line, &mut |outcome| told.push(outcome))?;
    }
    bytes.end(&mut |outcome| told.push(outcome));
    Ok(told)
}

fn outcome(code: u16, grpc: Option<u8>, waited: Option<u64>) -> Outcome {
    Outcome {
        method: Method::Post,
        code,
        grpc,
        waited,
    }
}

#[test]
fn a_unary_call() {
    let told = hear(&[
        (Client, headers(END_HEADERS, 1, POST)),
        (Client, frame(frame_kind::DATA, END_STREAM, 1, b"question")),
        (Server, headers(END_HEADERS, 1, OK)),
        (Server, frame(frame_kind::DATA, 0, 1, b"answer")),
        (Server, headers(BOTH, 1, &kept("grpc-status", "5"))),
    ]);
    assert_eq!(told, Ok(vec![outcome(200, Some(5), Some(2000))]));
}

#[test]
fn trailers_only() {
    let block = [OK, &kept("grpc-status", "12")].concat();
    let told = hear(&[
        (Client, headers(BOTH, 1, POST)),
        (Server, headers(BOTH, 1, &block)),
    ]);
    assert_eq!(told, Ok(vec![outcome(200, Some(12), Some(1000))]));
}

#[test]
fn an_interim_answer_is_none() {
    let interim = [&[0x08, 3][..], b"103"].concat();
    let told = hear(&[
        (Client, headers(BOTH, 1, POST)),
        (Server, headers(END_HEADERS, 1, &interim)),
        (Server, headers(END_HEADERS, 1, OK)),
        (Server, frame(frame_kind::DATA, END_STREAM, 1, b"")),
    ]);
    assert_eq!(told, Ok(vec![outcome(200, None, Some(2000))]));
}

#[test]
fn streams_that_are_reset_or_left() {
    let reset = |stream| frame(frame_kind::RST_STREAM, 0, stream, &[0; 4]);
    let told = hear(&[
        (Client, headers(BOTH, 1, POST)),
        (Client, headers(BOTH, 3, POST)),
        (Client, headers(BOTH, 5, POST)),
        (Server, headers(END_HEADERS, 3, OK)),
        // By the client, without an answer.
        (Client, reset(1)),
        // What was on its way is of no interest, nor is the reset of a stream that has ended.
        (Server, headers(BOTH, 1, OK)),
        (Server, reset(1)),
        // By the server, in the middle of its answer.
        (Server, reset(3)),
        // The fifth is left when the connection ends.
    ]);
    let none = outcome(0, None, None);
    let half = outcome(200, None, Some(2000));
    assert_eq!(told, Ok(vec![none, half, none]));
}

#[test]
fn what_goaway_leaves_out_is_not_answered() {
    let goaway = |last: u32, more: &[u8]| {
        let payload = [&last.to_be_bytes()[..], &[0; 4], more].concat();
        frame(frame_kind::GOAWAY, 0, 0, &payload)
    };
    let told = hear(&[
        (Client, headers(BOTH, 1, POST)),
        (Client, headers(BOTH, 3, POST)),
        // First of all a warning, then what is meant.
        (Server, goaway(u32::MAX >> 1, b"")),
        (Server, goaway(1, &[b'x'; 2000])),
        (Server, headers(BOTH, 1, OK)),
    ]);
    let answered = outcome(200, None, Some(4000));
    assert_eq!(told, Ok(vec![outcome(0, None, None), answered]));
}

#[test]
fn padding_priority_and_continuation_are_no_part_of_the_block() {
    let flags = frame_flag::PADDED | frame_flag::PRIORITY;
    let padded = [&[3, 0, 0, 0, 0, 9][..], POST, &[0x80; 3]].concat();
    let promise = [&[2, 0, 0, 0, 2][..], &kept("x", "y"), &[0x80; 2]].concat();
    let promise = frame(
        frame_kind::PUSH_PROMISE,
        END_HEADERS | frame_flag::PADDED,
        1,
        &promise,
    );
    let block = [OK, &kept("grpc-status", "0")].concat();
    let (first, second) = block.split_at(7);
    let lines = [
        (Client, headers(BOTH | flags, 1, &padded)),
        (Client, headers(flags, 3, &padded)),
        (
            Client,
            frame(frame_kind::CONTINUATION, END_HEADERS, 3, &kept("a", "b")),
        ),
        (Server, promise),
        // Pushed.
        (Server, headers(BOTH, 2, OK)),
        (Server, headers(END_STREAM, 1, first)),
        (
            Server,
            frame(frame_kind::CONTINUATION, END_HEADERS, 1, second),
        ),
        (Server, headers(BOTH, 3, OK)),
    ];
    let expected = [
        outcome(200, Some(0), Some(5000)),
        outcome(200, None, Some(6000)),
    ];
    assert_eq!(hear(&lines), Ok(expected.to_vec()));
    // Byte by byte it is the same, but for the times.
    let apart = lines.iter().flat_map(|(from, line)| {
        let bytes = line.iter();
        bytes.map(|byte| (*from, vec![*byte]))
    });
    let told = hear(&apart.collect::<Vec<_>>()).unwrap();
    let codes = |told: &[Outcome]| -> Vec<_> { told.iter().map(|o| (o.code, o.grpc)).collect() };
    assert_eq!(codes(&told), codes(&expected));
}

#[test]
fn what_nobody_may_send() {
    let continued = |stream| frame(frame_kind::CONTINUATION, END_HEADERS, stream, OK);
    let cases = [
        // A block that something else comes into, on the same stream or another.
        vec![
            (Client, headers(0, 1, POST)),
            (Client, headers(BOTH, 1, POST)),
        ],
        vec![(Client, headers(0, 1, POST)), (Client, continued(3))],
        vec![(Client, continued(1))],
        // Streams that are the server's, or nobody's.
        vec![(Client, headers(BOTH, 2, POST))],
        vec![(Server, headers(BOTH, 1, OK))],
        vec![(
            Client,
            frame(frame_kind::PUSH_PROMISE, END_HEADERS, 1, &[0; 8]),
        )],
        // More padding than there is.
        vec![(Client, headers(BOTH | frame_flag::PADDED, 1, &[2, 0x83]))],
        vec![(
            Client,
            headers(BOTH | frame_flag::PRIORITY, 1, &[0, 0, 0, 0]),
        )],
        // A reference to what was never said.
        vec![(Client, headers(BOTH, 1, &[0xc5]))],
    ];
    for lines in cases {
        assert_eq!(hear(&lines), Err(Unparsed::Malformed), "{lines:?}");
    }
    let unsound = [(Client, headers(BOTH, 0, POST))];
    assert_eq!(hear(&unsound), Err(Unparsed::NotHttp));
}

#[test]
fn nothing_grows_without_end() {
    let stream = |number: u32| (Client, headers(BOTH, 2 * number + 1, POST));
    let mut many: Vec<_> = (0..MOST as u32).map(stream).collect();
    assert_eq!(hear(&many).map(|told| told.len()), Ok(MOST));
    many.push(stream(MOST as u32));
    assert_eq!(hear(&many), Err(Unparsed::Pipeline));

    let mut long = vec![(Client, headers(0, 1, POST))];
    let more = frame(frame_kind::CONTINUATION, 0, 1, &[0x83; 16 << 10]);
    long.extend((0..5).map(|_| (Client, more.clone())));
    assert_eq!(hear(&long), Err(Unparsed::Head));

    let grown = headers(BOTH, 1, &[0x3f, 0xe2, 0xff, 0x03]);
    assert_eq!(hear(&[(Client, grown)]), Err(Unparsed::HeaderTable));
}

#[test]
fn an_idle_connection_takes_little() {
    let mut bytes = Bytes::default();
    let mut pass = |from, line: &[u8]| {
        bytes.pass(from, 0, line, &mut drop).expect("parsed");
        bytes.held()
    };
    let idle = pass(Client, &settings());
    assert!(idle < 512, "{idle}");
    pass(Server, &settings());
    // What a long head took is given back; what tables hold is not.
    let long = [vec![0x83; 20 << 10], kept("x", "y")].concat();
    let (first, second) = long.split_at(16 << 10);
    pass(Client, &headers(0, 1, first));
    let after = pass(
        Client,
        &frame(frame_kind::CONTINUATION, END_HEADERS, 1, second),
    );
    assert!(after < idle + 2048, "{after}");
}

proptest! {
    /// Whatever comes: no panic, and no more memory than is said.
    #[test]
    fn anything_may_come(parts in prop::collection::vec(
        (any::<bool>(), prop::collection::vec(any_frame(), 1..4)),
        0..40,
    )) {
        let mut bytes = Bytes::default();
        let mut told = 0;
        for side in [Client, Server] {
            bytes.pass(side, 0, &settings(), &mut drop).unwrap();
        }
        for (by_client, frames) in parts {
            let side = if by_client { Client } else { Server };
            if bytes.pass(side, 0, &frames.concat(), &mut |_| told += 1).is_err() {
                break;
            }
        }
        prop_assert!(bytes.held() < 64 << 10);
    }
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        Just(POST.to_vec()),
        Just(OK.to_vec()),
        Just(kept("grpc-status", "3")),
        prop::collection::vec(any::<u8>(), 0..64),
    ];
    (0..11_u8, any::<u8>(), 0..6_u32, payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}
