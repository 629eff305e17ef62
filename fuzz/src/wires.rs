//! The tunnel's protocol, decoded from any bytes cut anywhere.

// Its tests are not where rustfmt looks for them from here.
#[rustfmt::skip]
#[path = "../../mesh-agent/src/tunnel/wire/mod.rs"]
pub mod wire;

use self::wire::{Decoder, Event, Frame, WireError};

/// What a stream said: its frames, its data, and what was wrong in the end.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    frames: Vec<Frame>,
    data: Vec<u8>,
    error: Option<WireError>,
}

fn said<'b>(chunks: impl Iterator<Item = &'b [u8]>) -> Said {
    let mut decoder = Decoder::new();
    let (mut frames, mut data, mut has_preamble) = (Vec::new(), Vec::new(), false);
    for chunk in chunks {
        let mut at = 0;
        loop {
            let before = at;
            match decoder.next(chunk, &mut at) {
                Ok(None) => {
                    assert_eq!(at, chunk.len());
                    break;
                }
                Ok(Some(event)) => {
                    assert!(at > before && at <= chunk.len());
                    assert_eq!(has_preamble, !matches!(event, Event::Preamble(_)));
                    has_preamble = true;
                    match event {
                        Event::Preamble(_) => {}
                        Event::Data(range) => data.extend_from_slice(&chunk[range]),
                        Event::Frame(frame) => frames.push(frame),
                    }
                }
                Err(error) => {
                    return Said {
                        frames,
                        data,
                        error: Some(error),
                    };
                }
            }
        }
    }
    Said {
        frames,
        data,
        error: None,
    }
}

/// However a stream is cut it says the same, and what was understood can be said again.
pub fn assert_reads(cut: u8, stream: &[u8]) {
    let whole = said(std::iter::once(stream));
    assert_eq!(said(stream.chunks(usize::from(cut) + 1)), whole);
    assert!(whole.data.len() <= stream.len());
    let mut again = wire::Preamble::default().encode().to_vec();
    let mut expected = whole.frames;
    for frame in &mut expected {
        frame
            .encode(&mut again)
            .expect("what was read can be written");
        if let Frame::Open(open) = frame {
            // Extensions are not repeated.
            open.unknown = None;
        }
    }
    let repeated = said(std::iter::once(&again[..]));
    assert_eq!((repeated.frames, repeated.error), (expected, None));
}
