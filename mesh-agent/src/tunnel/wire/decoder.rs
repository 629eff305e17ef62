//! Frames out of a stream that is cut anywhere.

use std::ops::Range;

use super::frame::{DATA, read_header};
use super::{Frame, HEADER, Preamble, WireError};

/// Reads one side of a connection from its first byte on.
#[derive(Debug)]
pub struct Decoder {
    state: State,
}

/// What the stream holds next.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer's first bytes; always the first event, and only once.
    Preamble(Preamble),
    /// Bytes of the flow, as a range of what was passed in.
    Data(Range<usize>),
    /// Any other frame.
    Frame(Frame),
}

#[derive(Debug)]
enum State {
    /// The first `.1` bytes of a preamble.
    Preamble([u8; Preamble::LENGTH], u8),
    /// The first `.1` bytes of a header.
    Header([u8; HEADER], u8),
    /// Within DATA: how much of it is to come.
    Data(u32),
    /// Within another frame; the payload so far.
    Body {
        kind: u8,
        length: u16,
        body: Vec<u8>,
    },
}

const BETWEEN: State = State::Header([0; HEADER], 0);

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// At the first byte of a connection.
    pub fn new() -> Self {
        Self {
            state: State::Preamble([0; Preamble::LENGTH], 0),
        }
    }

    /// The next event in `input` from `at` on, which moves past it; `None` once `at` is the end.
    ///
    /// # Errors
    ///
    /// See [`WireError`]; the stream cannot be read further.
    pub fn next(&mut self, input: &[u8], at: &mut usize) -> Result<Option<Event>, WireError> {
        while *at < input.len() {
            if let Some(event) = self.step(input, at)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn step(&mut self, input: &[u8], at: &mut usize) -> Result<Option<Event>, WireError> {
        let rest = &input[*at..];
        match &mut self.state {
            State::Preamble(bytes, have) => {
                *at += fill(bytes, have, rest);
                if usize::from(*have) < bytes.len() {
                    return Ok(None);
                }
                let preamble = Preamble::decode(*bytes)?;
                self.state = BETWEEN;
                Ok(Some(Event::Preamble(preamble)))
            }
            State::Header(bytes, have) => {
                *at += fill(bytes, have, rest);
                if usize::from(*have) < bytes.len() {
                    return Ok(None);
                }
                let (kind, length) = read_header(*bytes)?;
                self.begin(kind, length)
            }
            State::Data(left) => {
                let length = rest.len().min(*left as usize);
                *left -= length as u32;
                if *left == 0 {
                    self.state = BETWEEN;
                }
                let start = *at;
                *at += length;
                Ok(Some(Event::Data(start..*at)))
            }
            State::Body { kind, length, body } => {
                let missing = usize::from(*length) - body.len();
                let part = &rest[..rest.len().min(missing)];
                *at += part.len();
                // Whole, as nearly always: no copy.
                let whole = match body.is_empty() {
                    true if part.len() == missing => Some(part),
                    _ => {
                        body.extend_from_slice(part);
                        (body.len() == usize::from(*length)).then_some(&body[..])
                    }
                };
                let Some(whole) = whole else {
                    return Ok(None);
                };
                let frame = Frame::decode(*kind, whole)?;
                self.state = BETWEEN;
                Ok(frame.map(Event::Frame))
            }
        }
    }

    fn begin(&mut self, kind: u8, length: u32) -> Result<Option<Event>, WireError> {
        self.state = match (kind, length) {
            (DATA, length) => State::Data(length),
            (kind, 0) => {
                self.state = BETWEEN;
                return Ok(Frame::decode(kind, &[])?.map(Event::Frame));
            }
            (kind, length) => State::Body {
                kind,
                length: length as u16,
                body: Vec::new(),
            },
        };
        Ok(None)
    }

    /// Whether the stream is between two frames.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Header(_, 0))
    }

    /// Whether the peer has not said anything yet.
    pub fn is_fresh(&self) -> bool {
        matches!(self.state, State::Preamble(_, 0))
    }
}

/// Moves bytes into `bytes` after the first `have`; how many.
fn fill(bytes: &mut [u8], have: &mut u8, input: &[u8]) -> usize {
    let room = &mut bytes[usize::from(*have)..];
    let length = room.len().min(input.len());
    room[..length].copy_from_slice(&input[..length]);
    *have += length as u8;
    length
}
