//! Connections of HTTP, read from any bytes cut anywhere.

// Its tests are not where rustfmt looks for them from here.
#[rustfmt::skip]
#[path = "../../mesh-agent/src/http/mod.rs"]
pub mod http;

use mesh_common::http::{Side, Unparsed};
use mesh_common::http2::PREFACE;

use self::http::{Conversation, Memory, Outcome};

/// More than one connection can hold.
const MOST: usize = 512 << 10;

/// What a connection said, and why no more is known.
type Said = (Vec<(u16, Option<u8>)>, Option<Unparsed>);

fn said(lines: &[(bool, &[u8])], cut: usize) -> Said {
    let memory = Memory::new(MOST);
    let mut conversation = Conversation::new(false, &memory);
    let mut heard = Vec::new();
    let mut failed = None;
    let mut told = |outcome: Outcome| {
        assert_eq!(outcome.waited.is_some(), outcome.code != 0);
        heard.push((outcome.code, outcome.grpc));
    };
    for (by_server, line) in lines {
        let from = if *by_server {
            Side::Responses
        } else {
            Side::Requests
        };
        for part in line.chunks(cut) {
            let passed = conversation.pass(from, 0, part, &mut told);
            failed = failed.or(passed.err());
        }
    }
    conversation.end(&mut told);
    drop(conversation);
    assert_eq!(memory.held(), 0);
    assert_ne!(
        failed,
        Some(Unparsed::NoStorage),
        "it holds more than it may"
    );
    (heard, failed)
}

/// However a connection is cut it says the same.
pub fn assert_reads(cut: u8, is_http2: bool, lines: &[(bool, &[u8])]) {
    let mut all: Vec<(bool, &[u8])> = Vec::new();
    if is_http2 {
        let settings = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
        all.extend([(false, &PREFACE[..]), (false, settings), (true, settings)]);
    }
    all.extend(lines);
    let whole = said(&all, usize::MAX);
    assert_eq!(said(&all, usize::from(cut) + 1), whole);
}
