//! Heads that are whole and have nothing unusual about them: most.
//!
//! They are read some words at a time, which costs a fraction of what the steps of [`Stream`] do.
//! Whatever is unusual is left to those, which read every head.

use super::stream::{flag, phase, short_number, status, version};
use super::window::{PIECE, Window, first, line_feed};
use super::{Method, Stream};

/// How many words are looked at in one turn.
const WORDS_A_TURN: u32 = 4;

/// What a head says, as far as it has been read.
///
/// The kernel programs keep it in a map: what is in memory the verifier does not follow from turn
/// to turn.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    /// `Content-Length`, if [`flag::LENGTH`].
    pub(super) length: u64,
    /// Where in the window the empty line behind the head begins; 0 while it is not known.
    pub(super) end: u32,
    /// The status code.
    pub(super) code: u16,
    /// [`Method`] code.
    pub(super) method: u8,
    /// [`flag`] bits.
    pub(super) flags: u8,
    /// Whether the first line has ended.
    begun: u8,
    _pad: [u8; 7],
}

/// What a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    /// One that does not matter, or has been read.
    Read,
    /// The empty one behind the head.
    End,
    /// One that takes more to read.
    Unusual,
}

impl Head {
    /// Turns that are enough for a whole window.
    pub const TURNS: u32 = (PIECE as u32).div_ceil(WORDS_A_TURN * 8);

    /// Begins with the head at the start of the window; whether it may be an ordinary one.
    #[inline(always)]
    pub const fn begin(&mut self, stream: &Stream, window: &Window) -> bool {
        self.end = 0;
        if !stream.is_between() || window.at != 0 {
            return false;
        }
        self.length = 0;
        self.flags = stream.flags & flag::RESPONSES;
        self.begun = self.flags;
        if self.flags == 0 {
            return self.asks(window);
        }
        self.answers(window)
    }

    #[inline(always)]
    const fn asks(&mut self, window: &Window) -> bool {
        let (method, length) = Method::at_start(window.aligned(0));
        self.method = method.0;
        length != 0
    }

    #[inline(always)]
    const fn answers(&mut self, window: &Window) -> bool {
        self.code = status(window.aligned(1));
        match version(window.aligned(0)) {
            Some(old) => self.flags |= old,
            None => return false,
        }
        self.code >= 200
    }

    /// Looks at the next words, of turn `index`; whether that was the last turn.
    #[inline(always)]
    pub const fn turn(&mut self, window: &Window, index: u32) -> bool {
        let mut word = 0;
        while word < WORDS_A_TURN {
            let at = index * WORDS_A_TURN + word;
            let marks = line_feed(window.aligned(at));
            if marks != 0 {
                match self.line_end(window, at * 8 + first(marks)) {
                    // Two ends of lines in one word: a line of a few bytes.
                    Line::Read if marks & marks.wrapping_sub(1) == 0 => {}
                    _ => return true,
                }
            }
            word += 1;
        }
        (index + 1) * WORDS_A_TURN * 8 >= window.end
    }

    /// A line ends at `feed`, and the next begins.
    #[inline(always)]
    const fn line_end(&mut self, window: &Window, feed: u32) -> Line {
        if self.begun == 0 {
            self.begun = 1;
            if !self.ends_as_it_must(window, feed) {
                return Line::Unusual;
            }
        }
        let line = self.line(window, feed + 1);
        if matches!(line, Line::End) && feed + 3 <= window.end {
            self.end = feed + 1;
        }
        line
    }

    /// Whether a request's first line, which ends at `feed`, ends with a version.
    #[inline(always)]
    const fn ends_as_it_must(&mut self, window: &Window, feed: u32) -> bool {
        if feed < 10 || window.byte(feed - 1) != b'\r' || window.byte(feed - 10) != b' ' {
            return false;
        }
        match version(window.word(feed - 9)) {
            Some(old) => {
                self.flags |= old;
                true
            }
            None => false,
        }
    }

    /// The line that begins at `at`. Whether the window holds all of it is known once the head's
    /// end has been found.
    #[inline(always)]
    const fn line(&mut self, window: &Window, at: u32) -> Line {
        const CASE: u64 = 0x0020_2020_2020_2020;
        const ALL_CASE: u64 = 0x2020_2020_2020_2020;
        const END: u16 = u16::from_le_bytes(*b"\r\n");
        let word = window.word(at);
        match word as u8 {
            b'\r' if word as u16 == END => Line::End,
            b'\r' | b'\n' | b' ' | b'\t' => Line::Unusual,
            b'T' | b't' if word | ALL_CASE == u64::from_le_bytes(*b"transfer") => Line::Unusual,
            b'C' | b'c' if word | CASE == u64::from_le_bytes(*b"content-") => {
                self.content(window, at + 8)
            }
            _ => Line::Read,
        }
    }

    /// A line that begins with `Content-`.
    #[inline(always)]
    const fn content(&mut self, window: &Window, at: u32) -> Line {
        const CASE: u64 = 0x0000_2020_2020_2020;
        const LENGTH: u64 = u64::from_le_bytes(*b"length:\0");
        let word = window.word(at) | CASE;
        if (word ^ LENGTH) << 16 != 0 {
            return Line::Read;
        }
        let (number, digits) = short_number(window.word(at + 7));
        if (word ^ LENGTH) << 8 != 0 || digits == 0 || self.flags & flag::LENGTH != 0 {
            return Line::Unusual;
        }
        self.flags |= flag::LENGTH;
        self.length = number;
        Line::Read
    }
}

impl Stream {
    /// Whether the next byte begins a message.
    #[inline(always)]
    const fn is_between(&self) -> bool {
        self.phase == phase::START && self.skip == 0
    }

    /// Goes to the end of the head that the window begins with, if all of it has been read; it
    /// arrived at `now` (nanoseconds).
    #[inline(always)]
    pub const fn take(&mut self, head: &Head, window: &mut Window, now: u64) {
        if head.end == 0 {
            return;
        }
        window.at = head.end;
        self.begun_ns = now;
        self.length = head.length;
        self.flags = head.flags;
        if head.flags & flag::RESPONSES != 0 {
            self.code = head.code;
        } else {
            self.method = head.method;
        }
        self.phase = phase::READ;
    }
}
