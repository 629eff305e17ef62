extern crate std;

use std::vec::Vec;

use super::{check_requests, check_responses};
use crate::http::{Event, Exchange, MAX_RUNS, Method, Side, Unparsed};

#[test]
fn bodies_of_requests_are_passed_over() {
    check_requests(
        "POST / HTTP/1.1\r\nContent-Length: 23\r\n\r\nGET /inner HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        &[Method::Post, Method::Get],
        None,
    );
    check_requests(
        "PUT / HTTP/1.1\r\ncontent-LENGTH:\t 3 \t\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
        &[Method::Put, Method::Get],
        None,
    );
    check_requests(
        "POST / HTTP/1.1\r\ntransfer-encoding:  CHUNKED\t\r\n\r\n\
         5\r\nhello\r\n1a;name=\"v\"\r\nabcdefghijklmnopqrstuvwxyz\r\n00A \r\n0123456789\r\n\
         0;last\r\nTrailer: 1\r\nContent-Length: 5\r\n\r\nDELETE / HTTP/1.1\r\n\r\n",
        &[Method::Post, Method::Delete],
        None,
    );
}

#[test]
fn broken_chunks_are_not_followed() {
    for chunks in [
        "\r\n",
        "x\r\n",
        "5\nhello\r\n",
        "5;a\nhello\r\n",
        "5\rhello",
        "5\r\nhelloX",
        "5\r\nhello\rX",
        "5x\r\nhello",
        "-1\r\n",
        "ffffffffffffffffff\r\n",
        "0\r\n\rX",
    ] {
        let request = std::format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        check_requests(&request, &[Method::Post], Some(Unparsed::Chunk));
    }
}

#[test]
fn every_framing_of_responses_is_followed() {
    let responses = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nContent-Length: 7\r\n\r\n\
                     HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\
                     HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n\
                     HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n\
                     HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n\
                     HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                     HTTP/1.0 404 Not Found\r\nServer: a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    check_responses(
        &["POST", "GET", "GET", "HEAD", "PATCH", "GET"],
        responses,
        &[200, 204, 304, 200, 500, 404],
        None,
    );
}

#[test]
fn what_is_no_longer_http_is_told() {
    let switch = "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n\x01\x02";
    check_responses(&["GET"], switch, &[101], Some(Unparsed::Upgraded));
    let tunnel = "HTTP/1.1 200 OK\r\n\r\n";
    check_responses(&["CONNECT"], tunnel, &[200], Some(Unparsed::Upgraded));
    let refused = "HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    check_responses(&["CONNECT", "GET"], refused, &[405, 200], None);
}

#[test]
fn a_response_to_nothing_is_not_counted() {
    let unasked = "HTTP/1.1 408 Request Timeout\r\n\r\n";
    check_responses(&[], unasked, &[], Some(Unparsed::Unsolicited));
}

#[test]
fn time_is_taken_between_first_bytes() {
    let mut exchange = Exchange::default();
    let mut elapsed = Vec::new();
    let mut feed = |side, bytes: &str, now| {
        exchange
            .feed(side, bytes.as_bytes(), now, |event| {
                if let Event::Response { elapsed_ns, .. } = event {
                    elapsed.push(elapsed_ns);
                }
            })
            .expect("followed");
    };
    feed(Side::Requests, "\r\nG", 1000);
    feed(Side::Requests, "ET / HTTP/1.1\r\n\r", 2000);
    feed(
        Side::Requests,
        "\nGET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        3000,
    );
    feed(Side::Responses, "HTTP/1.1 100 Continue\r\n\r\n", 3500);
    feed(Side::Responses, "H", 5000);
    feed(
        Side::Responses,
        "TTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n",
        6000,
    );
    feed(Side::Responses, "xHTTP/1.1 204 OK\r\n\r\n", 7000);
    feed(Side::Responses, "HTTP/1.1 204 OK\r\n\r\n", 9000);
    assert_eq!(elapsed, [4000, 4000, 6000]);
}

#[test]
fn requests_without_an_answer_are_told() {
    let mut exchange = Exchange::default();
    let two = b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\nPOST /ab";
    exchange
        .feed(Side::Requests, two, 1, |_| {})
        .expect("followed");
    let answer = b"HTTP/1.1 200 OK\r\n\r\n";
    exchange
        .feed(Side::Responses, answer, 2, |_| {})
        .expect("followed");
    let left: Vec<_> = exchange.unanswered().collect();
    assert_eq!(left, [(Method::Get, 1), (Method::Post, 1)]);
    assert_eq!(exchange.unanswered().count(), 0);
}

#[test]
fn requests_of_one_packet_take_one_place() {
    let mut exchange = Exchange::default();
    let many = "GET / HTTP/1.1\r\n\r\n".repeat(5000);
    for now in 0..MAX_RUNS as u64 {
        let fed = exchange.feed(Side::Requests, many.as_bytes(), now, |_| {});
        assert_eq!(fed, Ok(()));
    }
    let fed = exchange.feed(Side::Requests, many.as_bytes(), 99, |_| {});
    assert_eq!(fed, Err(Unparsed::Pipeline));
    assert_eq!(
        exchange.unanswered().map(|(_, count)| count).sum::<u32>(),
        5000 * MAX_RUNS as u32
    );
}
