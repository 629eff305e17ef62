extern crate std;

mod bodies;
mod heads;
mod order;
mod ordinary;
mod reference;
mod splits;

use std::vec::Vec;

use super::{Event, Exchange, Method, Side, Unparsed};

/// What a connection says, fed in pieces of `size` bytes, requests before responses.
fn read_in(size: usize, requests: &[u8], responses: &[u8]) -> (Vec<Event>, Option<Unparsed>) {
    let mut exchange = Exchange::default();
    let mut events = Vec::new();
    for (side, bytes) in [(Side::Requests, requests), (Side::Responses, responses)] {
        for piece in bytes.chunks(size) {
            if let Err(reason) = exchange.feed(side, piece, 7, |event| events.push(event)) {
                return (events, Some(reason));
            }
        }
    }
    (events, None)
}

fn asked(events: &[Event]) -> Vec<Method> {
    let methods = events.iter().filter_map(|event| match event {
        Event::Request { method } => Some(*method),
        Event::Response { .. } => None,
    });
    methods.collect()
}

fn answered(events: &[Event]) -> Vec<u16> {
    let codes = events.iter().filter_map(|event| match event {
        Event::Request { .. } => None,
        Event::Response { status, .. } => Some(*status),
    });
    codes.collect()
}

/// Sizes of pieces that cut everything everywhere.
const SIZES: [usize; 9] = [1, 2, 3, 5, 7, 11, 64, 479, 1 << 20];

/// Holds what is read of `requests`, in pieces of many sizes, to `methods` and an ending.
fn check_requests(requests: &str, methods: &[Method], ending: Option<Unparsed>) {
    for size in SIZES {
        let (events, reason) = read_in(size, requests.as_bytes(), b"");
        assert_eq!(asked(&events), methods, "{requests:?} by {size}");
        assert_eq!(reason, ending, "{requests:?} by {size}");
    }
}

/// The same for the responses to requests of `methods`.
fn check_responses(methods: &[&str], responses: &str, codes: &[u16], ending: Option<Unparsed>) {
    use std::fmt::Write as _;
    let mut requests = std::string::String::new();
    for method in methods {
        write!(requests, "{method} / HTTP/1.1\r\n\r\n").expect("written");
    }
    for size in SIZES {
        let (events, reason) = read_in(size, requests.as_bytes(), responses.as_bytes());
        assert_eq!(answered(&events), codes, "{responses:?} by {size}");
        assert_eq!(reason, ending, "{responses:?} by {size}");
    }
}
