//! The frames of one direction of an HTTP/2 connection, walked through by arithmetic.
//!
//! A frame says how long it is, so bodies are stepped over without being looked at. The kernel
//! programs walk through packets, the agent through what the tunnel carries; both copy the nine
//! bytes of a frame header and skip the rest unless [`FrameHeader::kept`] wants it.

mod head;

pub use head::{HEAD_BYTES, HEAD_RING_BYTES, Head, HeadRecord, head_flag};

use crate::http::Side;

/// What a client sends first. Nothing else can begin with it.
pub const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame header, bytes.
pub const FRAME_HEADER: usize = 9;

/// Kinds of frames.
pub mod frame_kind {
    /// A part of a body.
    pub const DATA: u8 = 0;
    /// Begins a header block.
    pub const HEADERS: u8 = 1;
    /// Says nothing any more.
    pub const PRIORITY: u8 = 2;
    /// Ends a stream early.
    pub const RST_STREAM: u8 = 3;
    /// How the sender wants the connection.
    pub const SETTINGS: u8 = 4;
    /// Begins the header block of a request that the server makes itself.
    pub const PUSH_PROMISE: u8 = 5;
    /// Measures a round trip.
    pub const PING: u8 = 6;
    /// No more streams.
    pub const GOAWAY: u8 = 7;
    /// More may be sent.
    pub const WINDOW_UPDATE: u8 = 8;
    /// Goes on with a header block.
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod frame_flag {
    /// DATA, HEADERS: the sender's part of the stream ends here.
    pub const END_STREAM: u8 = 0x1;
    /// SETTINGS, PING: an answer.
    pub const ACK: u8 = 0x1;
    /// HEADERS, PUSH_PROMISE, CONTINUATION: the header block ends here.
    pub const END_HEADERS: u8 = 0x4;
    /// DATA, HEADERS, PUSH_PROMISE: the first byte says how many at the end mean nothing.
    pub const PADDED: u8 = 0x8;
    /// HEADERS: five bytes of priority come first.
    pub const PRIORITY: u8 = 0x20;
}

/// What of a frame is needed to know how requests went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    Nothing,
    /// That it was there.
    Header,
    /// Its payload as well.
    Payload,
}

/// The first nine bytes of a frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameHeader {
    /// Length of what follows, bytes; less than 2^24.
    pub length: u32,
    /// The stream; 0 stands for the connection.
    pub stream: u32,
    /// One of [`frame_kind`], or one that is unknown and to be ignored.
    pub kind: u8,
    /// Of [`frame_flag`].
    pub flags: u8,
    /// Zero.
    pub _pad: u16,
}
const _: () = assert!(size_of::<FrameHeader>() == 12);

impl FrameHeader {
    /// Reads one.
    #[inline(always)]
    pub const fn new(bytes: &[u8; FRAME_HEADER]) -> Self {
        let [a, b, c, kind, flags, d, e, f, g] = *bytes;
        Self {
            length: u32::from_be_bytes([0, a, b, c]),
            // The first bit is reserved.
            stream: u32::from_be_bytes([d & 0x7f, e, f, g]),
            kind,
            flags,
            _pad: 0,
        }
    }

    /// Whether all of `flags` are set.
    #[inline(always)]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Whether the protocol allows such a frame. What is read at a wrong place rarely passes.
    #[inline(always)]
    pub const fn is_sound(&self) -> bool {
        let of_stream = self.stream != 0;
        match self.kind {
            frame_kind::DATA
            | frame_kind::HEADERS
            | frame_kind::PUSH_PROMISE
            | frame_kind::CONTINUATION => of_stream,
            frame_kind::PRIORITY => of_stream && self.length == 5,
            frame_kind::RST_STREAM => of_stream && self.length == 4,
            frame_kind::SETTINGS => !of_stream && self.length.is_multiple_of(6),
            frame_kind::PING => !of_stream && self.length == 8,
            frame_kind::GOAWAY => !of_stream && self.length >= 8,
            frame_kind::WINDOW_UPDATE => self.length == 4,
            _ => true,
        }
    }

    /// What of it is needed.
    #[inline(always)]
    pub const fn kept(&self, from: Side) -> Kept {
        let by_server = matches!(from, Side::Responses);
        match self.kind {
            frame_kind::HEADERS | frame_kind::CONTINUATION | frame_kind::PUSH_PROMISE => {
                Kept::Payload
            }
            frame_kind::GOAWAY if by_server => Kept::Payload,
            frame_kind::RST_STREAM | frame_kind::SETTINGS => Kept::Header,
            frame_kind::DATA if by_server && self.has(frame_flag::END_STREAM) => Kept::Header,
            _ => Kept::Nothing,
        }
    }
}

/// Where a walk is. All zero: before the first frame header.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// The frame that is passing, once its header is there.
    pub frame: FrameHeader,
    /// Bytes of its payload that are still to come.
    pub left: u32,
    /// Bytes of the next header that are there.
    pub have: u8,
    /// The header, as far as it is there.
    pub header: [u8; FRAME_HEADER],
    /// 1 once a frame has begun.
    pub begun: u8,
    /// Zero.
    pub _pad: u8,
}
const _: () = assert!(size_of::<Walk>() == 28);

impl Walk {
    /// How many bytes of the next frame header are missing; 0 while a payload passes.
    #[inline(always)]
    pub const fn missing(&self) -> usize {
        if self.left > 0 {
            0
        } else {
            FRAME_HEADER - self.have as usize
        }
    }

    /// Takes the frame header, all of which is in `header`. `None`: this is no HTTP/2.
    #[inline(always)]
    pub const fn begin(&mut self) -> Option<FrameHeader> {
        let frame = FrameHeader::new(&self.header);
        // What either side says first are its settings.
        let is_first = self.begun == 0;
        let is_settings = frame.kind == frame_kind::SETTINGS && !frame.has(frame_flag::ACK);
        if !frame.is_sound() || (is_first && !is_settings) {
            return None;
        }
        self.frame = frame;
        self.left = frame.length;
        self.have = 0;
        self.begun = 1;
        Some(frame)
    }

    /// The next piece of `bytes` that matters, of which it takes off what has passed; `None` once
    /// nothing is left.
    pub fn next<'b>(&mut self, from: Side, bytes: &mut &'b [u8]) -> Option<Piece<'b>> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let length = bytes.len().min(self.left as usize);
                let (payload, rest) = bytes.split_at(length);
                *bytes = rest;
                self.left -= length as u32;
                if self.frame.kept(from) == Kept::Payload {
                    return Some(Piece::Payload(payload));
                }
                continue;
            }
            if !self.read_header(bytes) {
                break;
            }
            match self.begin() {
                None => return Some(Piece::Unsound),
                Some(frame) if frame.kept(from) != Kept::Nothing => {
                    return Some(Piece::Frame(frame));
                }
                Some(_) => {}
            }
        }
        None
    }

    /// Copies what is there of a frame header; whether that is all.
    fn read_header(&mut self, bytes: &mut &[u8]) -> bool {
        let have = usize::from(self.have);
        let (read, rest) = bytes.split_at(bytes.len().min(self.missing()));
        *bytes = rest;
        self.header[have..have + read.len()].copy_from_slice(read);
        self.have += read.len() as u8;
        usize::from(self.have) == FRAME_HEADER
    }
}

/// Something of a frame that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'b> {
    /// A frame begins.
    Frame(FrameHeader),
    /// A part of the payload of the frame that began last.
    Payload(&'b [u8]),
    /// This is no HTTP/2.
    Unsound,
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn conversation() -> Vec<u8> {
        [
            frame(frame_kind::SETTINGS, 0, 0, &[0; 12]),
            frame(frame_kind::HEADERS, frame_flag::END_HEADERS, 1, b"block"),
            frame(frame_kind::DATA, 0, 1, &[b'x'; 700]),
            frame(frame_kind::PING, 0, 0, &[0; 8]),
            frame(0xfe, 0xff, 9, b"an extension"),
            frame(frame_kind::DATA, frame_flag::END_STREAM, 1, b""),
            frame(frame_kind::HEADERS, 0, 3, b"one"),
            frame(frame_kind::CONTINUATION, frame_flag::END_HEADERS, 3, b"two"),
            frame(frame_kind::RST_STREAM, 0, 3, &[0; 4]),
            frame(frame_kind::GOAWAY, 0, 0, &[7; 10]),
        ]
        .concat()
    }

    /// Frames with their payloads put together.
    fn walk<'b>(parts: impl IntoIterator<Item = &'b [u8]>, from: Side) -> Vec<(u8, u32, Vec<u8>)> {
        let mut walk = Walk::default();
        let mut seen: Vec<(u8, u32, Vec<u8>)> = Vec::new();
        for mut part in parts {
            while let Some(piece) = walk.next(from, &mut part) {
                match piece {
                    Piece::Frame(frame) => seen.push((frame.kind, frame.stream, Vec::new())),
                    Piece::Payload(bytes) => {
                        let last = seen.last_mut().expect("a frame began");
                        last.2.extend(bytes);
                    }
                    Piece::Unsound => panic!("it is sound"),
                }
            }
        }
        assert_eq!((walk.have, walk.left), (0, 0));
        seen
    }

    #[test]
    fn what_matters_is_the_same_wherever_it_is_cut() {
        let bytes = conversation();
        let expected = vec![
            (frame_kind::SETTINGS, 0, vec![]),
            (frame_kind::HEADERS, 1, b"block".to_vec()),
            (frame_kind::DATA, 1, vec![]),
            (frame_kind::HEADERS, 3, b"one".to_vec()),
            (frame_kind::CONTINUATION, 3, b"two".to_vec()),
            (frame_kind::RST_STREAM, 3, vec![]),
            (frame_kind::GOAWAY, 0, vec![7; 10]),
        ];
        for at in 0..=bytes.len() {
            let (first, second) = bytes.split_at(at);
            assert_eq!(walk([first, second], Side::Responses), expected, "at {at}");
        }
        for size in 1..40 {
            assert_eq!(
                walk(bytes.chunks(size), Side::Responses),
                expected,
                "{size}"
            );
        }
    }

    #[test]
    fn a_clients_bodies_do_not_matter() {
        let seen = walk([&conversation()[..]], Side::Requests);
        let kinds: Vec<u8> = seen.iter().map(|(kind, ..)| *kind).collect();
        let expected = [
            frame_kind::SETTINGS,
            frame_kind::HEADERS,
            frame_kind::HEADERS,
            frame_kind::CONTINUATION,
            frame_kind::RST_STREAM,
        ];
        assert_eq!(kinds, expected);
    }

    /// A walk on which the sender has said how it wants the connection.
    fn begun() -> Walk {
        let mut walk = Walk::default();
        let settings = frame(frame_kind::SETTINGS, 0, 0, &[]);
        let piece = walk.next(Side::Requests, &mut &settings[..]);
        assert!(matches!(piece, Some(Piece::Frame(_))));
        walk
    }

    #[test]
    fn another_protocol_is_noticed() {
        let of_frames = [
            frame(frame_kind::HEADERS, 0, 1, b"first"),
            frame(frame_kind::SETTINGS, frame_flag::ACK, 0, b""),
        ];
        let texts: [&[u8]; 3] = [
            b"HTTP/1.1 400 Bad Request\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"SSH-2.0-OpenSSH",
        ];
        for mut bytes in of_frames.iter().map(|frame| &frame[..]).chain(texts) {
            let piece = Walk::default().next(Side::Responses, &mut bytes);
            assert_eq!(piece, Some(Piece::Unsound), "{bytes:?}");
        }
        for (kind, stream, length) in [
            (frame_kind::HEADERS, 0, 1),
            (frame_kind::SETTINGS, 1, 6),
            (frame_kind::SETTINGS, 0, 5),
            (frame_kind::RST_STREAM, 1, 5),
            (frame_kind::PING, 0, 7),
            (frame_kind::GOAWAY, 0, 7),
            (frame_kind::WINDOW_UPDATE, 0, 5),
            (frame_kind::PRIORITY, 1, 4),
        ] {
            let bytes = frame(kind, 0, stream, &[0; 8][..length]);
            let piece = begun().next(Side::Requests, &mut &bytes[..]);
            assert_eq!(piece, Some(Piece::Unsound), "{kind}");
        }
    }

    #[test]
    fn the_reserved_bit_is_not_part_of_the_stream() {
        let bytes = frame(frame_kind::HEADERS, 0, 1 << 31 | 5, b"");
        let mut walk = begun();
        let Some(Piece::Frame(frame)) = walk.next(Side::Requests, &mut &bytes[..]) else {
            panic!("a frame");
        };
        assert_eq!(frame.stream, 5);
        assert_eq!(walk.left, 0);
    }
}
