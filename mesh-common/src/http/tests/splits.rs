//! Streams made of parts that meet in every way, cut in every way.

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::{answered, asked, read_in, reference};
use crate::http::{Event, Exchange, Method, Side, Unparsed};

/// Parts of streams, good and bad.
const PARTS: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "HEAD /a HTTP/1.0\n",
    "POST /b?c=d HTTP/1.1\r\n",
    "CONNECT a:1 HTTP/1.1\r\n",
    "PURGE * HTTP/1.1\r\n",
    "GET /\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 404\r\n",
    "HTTP/1.0 500 Oh no\r\n",
    "HTTP/1.1 100 Continue\r\n",
    "HTTP/1.1 101 Switch\r\n",
    "HTTP/1.1 204 None\n",
    "HTTP/1.1 304 Same\r\n",
    "Host: localhost\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 5\r\n",
    "content-length:12\n",
    "Content-Length: 3\r\nContent-Length: 3\r\n",
    "Content-Lengths: 5\r\n",
    "Content-Type: text/plain\r\n",
    "Transfer-Encoding: chunked\r\n",
    "transfer-encoding:\tChunked \r\n",
    "Transfer-Encoding: gzip\r\n",
    "Connection: keep-alive\r\n",
    "T: a\r\n",
    "C: b\r\n",
    " folded\r\n",
    "\r\n",
    "\n",
    "5\r\nhello\r\n",
    "1;x=y\r\n \r\n",
    "0\r\n\r\n",
    "0\r\nTrailer: x\r\n\r\n",
    "hello",
    "x",
    "\0",
];

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let part = prop::sample::select(PARTS);
    let parts = prop::collection::vec(part, 0..30);
    let text = parts.prop_map(|parts| parts.concat().into_bytes());
    let noise = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
    (text, noise).prop_map(|(mut bytes, noise)| {
        for (at, byte) in noise {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes
    })
}

/// Messages that are whole and follow one another.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let heads = prop::sample::select(&PARTS[..13]);
    let lines = prop::collection::vec(prop::sample::select(&PARTS[13..26]), 0..4);
    let bodies = prop::collection::vec(prop::sample::select(&PARTS[29..34]), 0..3);
    let message = (heads, lines, bodies)
        .prop_map(|(head, lines, body)| [head, &lines.concat(), "\r\n", &body.concat()].concat());
    prop::collection::vec(message, 0..8).prop_map(|messages| messages.concat().into_bytes())
}

fn pieces(bytes: &[u8], sizes: &[usize], side: Side, exchange: &mut Exchange) -> Told {
    let (mut rest, mut events) = (bytes, Vec::new());
    for size in sizes.iter().cycle() {
        let (piece, left) = rest.split_at(rest.len().min(*size));
        if let Err(reason) = exchange.feed(side, piece, 7, |event| events.push(event)) {
            return (events, Some(reason));
        }
        rest = left;
        if rest.is_empty() {
            break;
        }
    }
    (events, None)
}

type Told = (Vec<Event>, Option<Unparsed>);

const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "CONNECT", "GET", "GET", "HEAD", "GET",
];

fn asking() -> Exchange {
    let mut exchange = Exchange::default();
    for method in METHODS {
        let request = std::format!("{method} / HTTP/1.1\r\n\r\n");
        let fed = exchange.feed(Side::Requests, request.as_bytes(), 1, |_| {});
        fed.expect("followed");
    }
    exchange
}

/// Holds what is read to the reference: everything that it has read, and, unless something was
/// wrong, nothing else but a message whose head is not complete.
fn agree<T: PartialEq + core::fmt::Debug>(
    ours: &[T],
    reason: Option<Unparsed>,
    (theirs, whole): (Vec<T>, bool),
) {
    assert!(ours.starts_with(&theirs), "{ours:?} {theirs:?} {reason:?}");
    if whole {
        assert_eq!(reason, None, "{theirs:?}");
        assert!(ours.len() <= theirs.len() + 1, "{ours:?} {theirs:?}");
    }
}

fn check_requests(bytes: &[u8], sizes: &[usize]) {
    let (events, reason) = read_in(1 << 20, bytes, b"");
    let (methods, whole) = reference::requests(bytes);
    let of_name = |name: &str| {
        let known = Method::ALL.iter().find(|method| method.name() == name);
        known.copied().unwrap_or(Method::Other)
    };
    let methods = methods.into_iter().map(of_name).collect();
    agree(&asked(&events), reason, (methods, whole));
    let cut = pieces(bytes, sizes, Side::Requests, &mut Exchange::default());
    assert_eq!(cut, (events, reason));
}

fn check_responses(bytes: &[u8], sizes: &[usize]) {
    let (events, reason) = pieces(bytes, &[1 << 20], Side::Responses, &mut asking());
    agree(
        &answered(&events),
        reason,
        reference::responses(bytes, &METHODS),
    );
    let cut = pieces(bytes, sizes, Side::Responses, &mut asking());
    assert_eq!(cut, (events, reason));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn requests_are_what_httparse_reads(
        bytes in prop_oneof![stream(), messages()],
        sizes in prop::collection::vec(1usize..40, 1..8),
    ) {
        check_requests(&bytes, &sizes);
    }

    #[test]
    fn responses_are_what_httparse_reads(
        bytes in prop_oneof![stream(), messages()],
        sizes in prop::collection::vec(1usize..40, 1..8),
    ) {
        check_responses(&bytes, &sizes);
    }
}

#[test]
fn a_cut_anywhere_changes_nothing() {
    let requests = b"\r\nPOST /a HTTP/1.1\r\nContent-Type: x\r\nContent-Length: 7\r\n\r\n1234567\
                     PROPFIND / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\na;b\r\n0123456789\r\n\
                     0\r\nt: u\r\n\r\nGET / HTTP/1.1\n\n";
    for at in 1..requests.len() {
        check_requests(requests, &[at, 1 << 20]);
    }
    let responses = b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc\
                      HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\
                      HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    for at in 1..responses.len() {
        check_responses(responses, &[at, 1 << 20]);
    }
}
