//! HTTP as the kernel programs read it, held to httparse.

#[path = "../../mesh-common/src/http/tests/reference.rs"]
mod reference;

use mesh_common::http::{Event, Exchange, Method, Side, Unparsed};

const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "CONNECT", "GET", "GET", "HEAD", "GET",
];

type Told = (Vec<Event>, Option<Unparsed>);

/// Reads bytes in pieces of these sizes, and at once, as either direction: the same comes of it,
/// and it is what httparse reads.
///
/// # Panics
///
/// It is not.
pub fn assert_reads(sizes: &[u8], bytes: &[u8]) {
    let whole = fed(Exchange::default(), Side::Requests, &[255], bytes);
    assert_eq!(
        fed(Exchange::default(), Side::Requests, sizes, bytes),
        whole
    );
    let asked = whole.0.iter().map(|event| match event {
        Event::Request { method } => *method,
        Event::Response { .. } => unreachable!("only requests were fed"),
    });
    let (methods, well) = reference::requests(bytes);
    let of_name = |name: &str| {
        let known = Method::ALL.iter().find(|method| method.name() == name);
        known.copied().unwrap_or(Method::Other)
    };
    let methods = methods.into_iter().map(of_name).collect();
    assert_agrees(&asked.collect::<Vec<_>>(), whole.1, (methods, well));

    let whole = fed(asking(), Side::Responses, &[255], bytes);
    assert_eq!(fed(asking(), Side::Responses, sizes, bytes), whole);
    let codes = whole.0.iter().map(|event| match event {
        Event::Response { status, .. } => *status,
        Event::Request { .. } => unreachable!("only responses were fed"),
    });
    let theirs = reference::responses(bytes, &METHODS);
    assert_agrees(&codes.collect::<Vec<_>>(), whole.1, theirs);
}

fn fed(mut exchange: Exchange, side: Side, sizes: &[u8], bytes: &[u8]) -> Told {
    let (mut rest, mut events) = (bytes, Vec::new());
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let size = sizes.next().map_or(1, |size| usize::from(*size).max(1));
        let (piece, left) = rest.split_at(rest.len().min(size));
        if let Err(reason) = exchange.feed(side, piece, 7, |event| events.push(event)) {
            return (events, Some(reason));
        }
        rest = left;
    }
    (events, None)
}

/// A connection with requests that wait for their answers.
fn asking() -> Exchange {
    let mut exchange = Exchange::default();
    for method in METHODS {
        let request = format!("{method} / HTTP/1.1\r\n\r\n");
        let fed = exchange.feed(Side::Requests, request.as_bytes(), 1, |_| {});
        assert_eq!(fed, Ok(()));
    }
    exchange
}

fn assert_agrees<T: PartialEq + std::fmt::Debug>(
    ours: &[T],
    reason: Option<Unparsed>,
    (theirs, well): (Vec<T>, bool),
) {
    assert!(ours.starts_with(&theirs), "{ours:?} {theirs:?} {reason:?}");
    if well {
        assert_eq!(reason, None, "{theirs:?}");
        assert!(ours.len() <= theirs.len() + 1, "{ours:?} {theirs:?}");
    }
}
