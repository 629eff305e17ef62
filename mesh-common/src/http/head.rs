//! Heads that are whole and have nothing unusual about them: most.
//!
//! They are read in one go, a word of the window at a time and with what is known in registers.
//! Whatever is unusual is left to the steps of [`Stream`], which read every head.

use super::stream::{flag, phase, short_number, status, version};
use super::window::{PIECE, Window, first, line_feed};
use super::{Method, Progress, Stream};

/// What a head says about the message.
#[derive(Clone, Copy)]
struct Head {
    flags: u8,
    length: u64,
    /// Whether its first line has ended.
    begun: bool,
}

/// What a line is.
enum Line {
    /// One that does not matter, or has been read.
    Read,
    /// The empty one behind the head.
    End,
    /// One that takes more to read.
    Unusual,
}

impl Stream {
    /// Reads the head that the window begins with, if it is whole and ordinary, up to the empty
    /// line behind it: [`Progress::REQUEST`] or [`Progress::RESPONSE`], to be followed by
    /// [`Stream::finish`]. Otherwise nothing is changed, and there is [`Progress::MORE`] to do.
    #[inline(always)]
    pub const fn head(&mut self, window: &mut Window, now: u64) -> Progress {
        if self.phase != phase::START || self.skip != 0 || window.at != 0 {
            return Progress::MORE;
        }
        let of_response = self.flags & flag::RESPONSES != 0;
        let mut head = Head {
            flags: self.flags & flag::RESPONSES,
            length: 0,
            begun: of_response,
        };
        let (mut method, mut code) = (self.method, 0);
        if of_response {
            let Some(old) = version(window.words_at_start().0) else {
                return Progress::MORE;
            };
            code = status(window.words_at_start().1);
            if code < 200 {
                return Progress::MORE;
            }
            head.flags |= old;
        } else {
            let (asked, length) = Method::at_start(window.words_at_start().0);
            if length == 0 {
                return Progress::MORE;
            }
            method = asked.0;
        }
        let Some(end) = head.lines(window) else {
            return Progress::MORE;
        };
        window.at = end;
        self.begun_ns = now;
        self.flags = head.flags;
        self.length = head.length;
        self.method = method;
        self.code = code;
        self.phase = phase::LINE;
        if of_response {
            Progress::RESPONSE
        } else {
            Progress::REQUEST
        }
    }

    /// Passes over the empty line behind a head and what the window has of the body.
    #[inline(always)]
    pub const fn finish(&mut self, window: &mut Window) -> Progress {
        window.at += 2;
        let progress = self.head_end();
        window.at += self.pass_over(window.left() as u64) as u32;
        progress
    }
}

impl Head {
    /// Reads the lines of a head; where the empty one begins that ends it.
    #[inline(always)]
    const fn lines(&mut self, window: &Window) -> Option<u32> {
        let mut index = 0;
        while index < PIECE / 8 {
            let marks = line_feed(u64::from_le(window.words[index]));
            if marks != 0 {
                let feed = index as u32 * 8 + first(marks);
                if !self.begun && !self.begins(window, feed) {
                    return None;
                }
                self.begun = true;
                match self.line(window, feed + 1) {
                    // Two ends of lines in one word: a line of a few bytes.
                    Line::Read if marks & marks.wrapping_sub(1) != 0 => return None,
                    Line::Read => {}
                    Line::End if feed + 3 <= window.end => return Some(feed + 1),
                    _ => return None,
                }
            }
            index += 1;
        }
        None
    }

    /// Whether a request's first line, which ends at `feed`, ends as it must.
    #[inline(always)]
    const fn begins(&mut self, window: &Window, feed: u32) -> bool {
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

    /// The line that begins at `at`. Whether the window holds it is known once the head has ended.
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
