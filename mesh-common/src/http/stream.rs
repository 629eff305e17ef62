//! One direction of a connection: where in which message it is.

use super::window::{Window, first, line_feed};
use super::{Method, Unparsed};

/// State of one direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// Bytes of a body that come before the next byte that matters.
    pub skip: u64,
    /// When the first byte of the message arrived, nanoseconds.
    pub(super) begun_ns: u64,
    /// `Content-Length`, if [`flag::LENGTH`].
    pub(super) length: u64,
    /// The number that is being read; of a request's first line, where in the window what is left
    /// of it begins.
    number: u64,
    /// The end of what was looked at, where it takes more to tell what it is.
    kept: [u64; 3],
    /// Length of `kept`, bytes.
    kept_length: u8,
    /// [`phase`].
    pub(super) phase: u8,
    /// [`flag`] bits.
    pub(super) flags: u8,
    /// How many bytes of a word have been seen.
    matched: u8,
    /// The status code.
    pub(super) code: u16,
    /// [`Method`] code: what is asked, or what was.
    pub(super) method: u8,
    /// [`Unparsed`] code, once the phase says so.
    reason: u8,
}
const _: () = assert!(size_of::<Stream>() == 64);

/// What one step has come to.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress(u32);

impl Progress {
    /// Take the next step.
    pub const MORE: Self = Self(0);
    /// The window is used up.
    pub const FILL: Self = Self(1);
    /// A request has begun: its method is known.
    pub const REQUEST: Self = Self(2);
    /// A response has begun: its status is known. What it answers must be told before the next
    /// step.
    pub const RESPONSE: Self = Self(3);
    /// The stream cannot be followed.
    pub const UNPARSED: Self = Self(4);
}

/// What comes next, after the bytes to be passed over.
pub(super) mod phase {
    /// A message, or the end of a line that belongs to none.
    pub(in crate::http) const START: u8 = 0;
    /// The first line, from its start.
    pub(in crate::http) const FIRST: u8 = 1;
    /// A method that is none of the known ones.
    pub(in crate::http) const METHOD: u8 = 2;
    /// The rest of a request's first line.
    pub(in crate::http) const TARGET: u8 = 3;
    /// A header line, from its start.
    pub(in crate::http) const LINE: u8 = 4;
    /// The rest of a line of a head.
    pub(in crate::http) const REST: u8 = 5;
    /// The value of `Content-Length`, up to its first digit.
    pub(in crate::http) const LENGTH: u8 = 6;
    /// Its digits.
    pub(in crate::http) const LENGTH_DIGITS: u8 = 7;
    /// The value of `Transfer-Encoding`, up to its first letter.
    pub(in crate::http) const CODING: u8 = 8;
    /// Its letters.
    pub(in crate::http) const CODING_LETTERS: u8 = 9;
    /// What may be behind such a value.
    pub(in crate::http) const VALUE_END: u8 = 10;
    /// The line feed behind such a value.
    pub(in crate::http) const VALUE_FEED: u8 = 11;
    /// A chunk's size, its first digit.
    pub(in crate::http) const CHUNK: u8 = 12;
    /// Its other digits.
    pub(in crate::http) const CHUNK_DIGITS: u8 = 13;
    /// A chunk extension.
    pub(in crate::http) const EXTENSION: u8 = 14;
    /// The line feed behind a chunk's size.
    pub(in crate::http) const SIZE_FEED: u8 = 15;
    /// The carriage return behind a chunk.
    pub(in crate::http) const CHUNK_END: u8 = 16;
    /// The line feed behind a chunk.
    pub(in crate::http) const CHUNK_FEED: u8 = 17;
    /// A trailer line, from its start.
    pub(in crate::http) const TRAILER: u8 = 18;
    /// The rest of a trailer line.
    pub(in crate::http) const TRAILER_REST: u8 = 19;
    /// The line feed that ends the trailers.
    pub(in crate::http) const TRAILER_FEED: u8 = 20;
    /// Nothing: the stream is not followed any further.
    pub(in crate::http) const OVER: u8 = 21;
    /// The empty line behind a head that was read at once and has not been told of.
    pub(in crate::http) const READ: u8 = 22;
}

pub(super) mod flag {
    /// The stream is of responses.
    pub(in crate::http) const RESPONSES: u8 = 1;
    /// The message has a `Content-Length`.
    pub(in crate::http) const LENGTH: u8 = 1 << 1;
    /// The message is chunked.
    pub(in crate::http) const CHUNKED: u8 = 1 << 2;
    /// The message is of HTTP/1.0.
    pub(in crate::http) const OLD: u8 = 1 << 3;
}

/// A body that ends with the connection.
const UNTIL_CLOSE: u64 = u64::MAX;
/// Longest method that is read.
const LONGEST_METHOD: u8 = 32;
/// What a request's first line ends with, and a carriage return.
const VERSION_LENGTH: u32 = 10;
/// How many lines are looked at in one step.
const LINES_A_STEP: u32 = 3;
/// How many words are searched for the end of a line in one step.
const WORDS_A_STEP: u32 = 4;
/// Bits that tell upper from lower case, for `content-`, which ends in no letter.
const CASE_CONTENT: u64 = 0x0020_2020_2020_2020;
const CASE: u64 = 0x2020_2020_2020_2020;
/// The same for six letters and a colon.
const CASE_LENGTH: u64 = 0x0000_2020_2020_2020;

impl Stream {
    /// A stream of requests, from its first byte on.
    #[inline(always)]
    pub const fn requests() -> Self {
        Self::new(0)
    }

    /// A stream of responses, from its first byte on.
    #[inline(always)]
    pub const fn responses() -> Self {
        Self::new(flag::RESPONSES)
    }

    #[inline(always)]
    const fn new(flags: u8) -> Self {
        Self {
            skip: 0,
            begun_ns: 0,
            length: 0,
            number: 0,
            kept: [0; 3],
            kept_length: 0,
            phase: phase::START,
            flags,
            matched: 0,
            code: 0,
            method: 0,
            reason: 0,
        }
    }

    /// What is asked, or what the response answers.
    #[inline(always)]
    pub const fn method(&self) -> Method {
        Method(self.method)
    }

    /// The status code of the response.
    #[inline(always)]
    pub const fn status(&self) -> u16 {
        self.code
    }

    /// When the message's first byte arrived, nanoseconds.
    #[inline(always)]
    pub const fn begun_ns(&self) -> u64 {
        self.begun_ns
    }

    /// Why it cannot be followed.
    #[inline(always)]
    pub const fn reason(&self) -> Unparsed {
        Unparsed(self.reason)
    }

    /// Tells what the response is to.
    #[inline(always)]
    pub const fn answers(&mut self, method: Method) {
        self.method = method.0;
    }

    /// Passes over what belongs to a body of the next `available` bytes; how many that were.
    #[inline(always)]
    pub const fn pass_over(&mut self, available: u64) -> u64 {
        let count = if self.skip < available {
            self.skip
        } else {
            available
        };
        self.skip -= count;
        count
    }

    /// Begins a new piece with what was kept of the one before.
    #[inline(always)]
    pub const fn open(&mut self, window: &mut Window) {
        window.restart(&self.kept, self.kept_length as u32);
        self.kept_length = 0;
    }

    /// Looks at the next bytes of the window, which arrived at `now` (nanoseconds).
    ///
    /// Every step has a bound, so that the kernel's verifier follows it once for all of them.
    #[inline(always)]
    pub fn step(&mut self, window: &mut Window, now: u64) -> Progress {
        if window.at >= window.end {
            return self.cut(window);
        }
        if self.skip != 0 {
            let skipped = self.pass_over(window.left() as u64);
            window.at += skipped as u32;
            return Progress::MORE;
        }
        match self.phase {
            phase::READ => self.tell(),
            phase::TARGET | phase::LINE | phase::REST | phase::TRAILER_REST => self.lines(window),
            phase::START => self.start(window, now),
            phase::FIRST if self.flags & flag::RESPONSES != 0 => self.status_line(window),
            phase::FIRST => self.request_line(window),
            phase::OVER => Progress::UNPARSED,
            _ => self.byte(window),
        }
    }

    /// Tells of a head that was read at once; the line behind it is next.
    #[inline(always)]
    const fn tell(&mut self) -> Progress {
        self.phase = phase::LINE;
        if self.flags & flag::RESPONSES != 0 {
            Progress::RESPONSE
        } else {
            Progress::REQUEST
        }
    }

    /// Looks at some lines of a head.
    #[inline(always)]
    const fn lines(&mut self, window: &mut Window) -> Progress {
        let mut lines = 0;
        while lines < LINES_A_STEP {
            if self.phase == phase::LINE {
                let progress = self.line(window);
                if self.phase != phase::REST {
                    return progress;
                }
            }
            let progress = self.rest(window);
            if progress.0 != Progress::MORE.0
                || self.phase != phase::LINE
                || window.at >= window.end
            {
                return progress;
            }
            lines += 1;
        }
        Progress::MORE
    }

    #[inline(always)]
    const fn unparsed(&mut self, reason: Unparsed) -> Progress {
        self.phase = phase::OVER;
        self.reason = reason.0;
        Progress::UNPARSED
    }

    /// Keeps what is left of the window: it takes more to tell what it is. At most 24 bytes are.
    #[inline(always)]
    const fn keep(&mut self, window: &mut Window) -> Progress {
        self.kept_length = window.left() as u8;
        self.kept[0] = window.word(window.at);
        self.kept[1] = window.word(window.at + 8);
        self.kept[2] = window.word(window.at + 16);
        window.skip_rest();
        Progress::FILL
    }

    /// Passes over empty lines before a message, and notes when it begins.
    #[inline(always)]
    const fn start(&mut self, window: &mut Window, now: u64) -> Progress {
        let byte = window.byte(window.at);
        if byte == b'\r' || byte == b'\n' {
            window.at += 1;
        } else {
            self.begun_ns = now;
            self.flags &= flag::RESPONSES;
            self.phase = phase::FIRST;
        }
        Progress::MORE
    }

    #[inline(always)]
    const fn request_line(&mut self, window: &mut Window) -> Progress {
        if window.left() < 8 {
            return self.keep(window);
        }
        let word = window.word(window.at);
        if word == u64::from_le_bytes(*b"PRI * HT") {
            return self.unparsed(Unparsed::Http2);
        }
        let (method, length) = Method::at_start(word);
        if length == 0 {
            self.matched = 0;
            self.phase = phase::METHOD;
            return Progress::MORE;
        }
        window.at += length;
        self.asks(method, window)
    }

    #[inline(always)]
    const fn asks(&mut self, method: Method, window: &Window) -> Progress {
        self.method = method.0;
        self.number = window.at as u64 - 1;
        self.phase = phase::TARGET;
        Progress::REQUEST
    }

    /// `HTTP/1.1 200 ..`: 13 bytes tell.
    #[inline(always)]
    const fn status_line(&mut self, window: &mut Window) -> Progress {
        if window.left() < 13 {
            return self.keep(window);
        }
        let code = status(window.word(window.at + 8));
        if !self.is_version(window.word(window.at)) || code == 0 {
            return self.unparsed(Unparsed::NotHttp);
        }
        self.code = code;
        window.at += 12;
        self.phase = phase::REST;
        if self.is_interim() {
            Progress::MORE
        } else {
            Progress::RESPONSE
        }
    }

    /// Whether `word` is `HTTP/1.` and a digit; notes which.
    #[inline(always)]
    const fn is_version(&mut self, word: u64) -> bool {
        let Some(old) = version(word) else {
            return false;
        };
        self.flags |= old;
        true
    }

    /// Whether the response is followed by another one to the same request.
    #[inline(always)]
    const fn is_interim(&self) -> bool {
        self.code < 200 && self.code != 101
    }

    /// A header line, by how it begins.
    #[inline(always)]
    const fn line(&mut self, window: &mut Window) -> Progress {
        let byte = window.byte(window.at);
        match byte {
            b'C' | b'c' => self.maybe_length(window),
            b'T' | b't' => self.maybe_coding(window),
            b'\n' => {
                window.at += 1;
                self.head_end()
            }
            b'\r' => {
                if window.left() < 2 {
                    return self.keep(window);
                }
                if window.byte(window.at + 1) != b'\n' {
                    return self.unparsed(Unparsed::Header);
                }
                window.at += 2;
                self.head_end()
            }
            b' ' | b'\t' => self.unparsed(Unparsed::Header),
            _ => {
                self.phase = phase::REST;
                Progress::MORE
            }
        }
    }

    /// Whether the rest of the window is a part of a line that has not ended yet.
    #[inline(always)]
    const fn is_cut(window: &Window) -> bool {
        let left = window.left();
        let mut at = 0;
        while at < 24 {
            let marks = line_feed(window.word(window.at + at));
            if marks != 0 {
                return at + first(marks) >= left;
            }
            at += 8;
        }
        true
    }

    /// `Content-Length:`, or else any line.
    #[inline(always)]
    const fn maybe_length(&mut self, window: &mut Window) -> Progress {
        const NAME: u64 = u64::from_le_bytes(*b"content-");
        const REST: u64 = u64::from_le_bytes(*b"length:\0");
        let left = window.left();
        let start = window.word(window.at) | CASE_CONTENT;
        if left < 15 && Self::is_cut(window) {
            return self.keep(window);
        }
        self.phase = phase::REST;
        if left < 15 || start != NAME {
            return Progress::MORE;
        }
        let rest = window.word(window.at + 8) | CASE_LENGTH;
        if (rest ^ REST) << 16 != 0 {
            return Progress::MORE;
        }
        let progress = self.named(window, 15, (rest >> 48) as u8, phase::LENGTH);
        if self.phase == phase::LENGTH {
            self.short_length(window);
        }
        progress
    }

    /// Reads a length of few digits at once, where nothing about it is unusual; otherwise it is
    /// read byte by byte.
    #[inline(always)]
    const fn short_length(&mut self, window: &mut Window) {
        let (number, digits) = short_number(window.word(window.at));
        if digits > 0 && window.left() >= digits + 3 && self.flags & flag::LENGTH == 0 {
            self.flags |= flag::LENGTH;
            self.length = number;
            self.phase = phase::LINE;
            window.at += digits + 3;
        }
    }

    /// `Transfer-Encoding:`, or else any line.
    #[inline(always)]
    const fn maybe_coding(&mut self, window: &mut Window) -> Progress {
        const NAME: u64 = u64::from_le_bytes(*b"transfer");
        const REST: u64 = u64::from_le_bytes(*b"-encodin");
        let left = window.left();
        if left < 18 && Self::is_cut(window) {
            return self.keep(window);
        }
        self.phase = phase::REST;
        let start = window.word(window.at) | CASE;
        let rest = window.word(window.at + 8) | (CASE << 8);
        if left < 18 || start != NAME || rest != REST {
            return Progress::MORE;
        }
        let [letter, colon, ..] = window.word(window.at + 16).to_le_bytes();
        if letter | 0x20 != b'g' {
            return Progress::MORE;
        }
        self.named(window, 18, colon, phase::CODING)
    }

    /// The name of a line is one that matters, of `length` bytes with what follows it.
    #[inline(always)]
    const fn named(&mut self, window: &mut Window, length: u32, next: u8, value: u8) -> Progress {
        match next {
            b':' => {
                window.at += length;
                self.phase = value;
                Progress::MORE
            }
            // Some readers take the name without the space, which others refuse.
            b' ' | b'\t' => self.unparsed(Unparsed::Header),
            _ => Progress::MORE,
        }
    }

    /// Passes over the rest of a line.
    #[inline(always)]
    const fn rest(&mut self, window: &mut Window) -> Progress {
        let mut words = 0;
        while words < WORDS_A_STEP {
            let marks = line_feed(window.word(window.at));
            if marks != 0 {
                let feed = window.at + first(marks);
                if feed < window.end {
                    window.at = feed + 1;
                    return self.line_end(window, feed);
                }
                return self.cut(window);
            }
            window.at += 8;
            if window.at >= window.end {
                return self.cut(window);
            }
            words += 1;
        }
        Progress::MORE
    }

    /// The window ends within a line; of a request's first one, the end is looked at later.
    #[inline(always)]
    const fn cut(&mut self, window: &mut Window) -> Progress {
        window.skip_rest();
        if self.phase == phase::TARGET {
            let line = self.number as u32;
            let end = window.end.saturating_sub(VERSION_LENGTH);
            window.at = if end > line { end } else { line };
            self.number = 0;
            return self.keep(window);
        }
        Progress::FILL
    }

    /// A line has ended, with the line feed at `feed`.
    #[inline(always)]
    const fn line_end(&mut self, window: &Window, feed: u32) -> Progress {
        match self.phase {
            phase::TRAILER_REST => self.phase = phase::TRAILER,
            phase::TARGET => {
                let mut end = feed;
                if end > 0 && window.byte(end - 1) == b'\r' {
                    end -= 1;
                }
                if end < 9 || window.byte(end - 9) != b' ' || !self.is_version(window.word(end - 8))
                {
                    return self.unparsed(Unparsed::NotHttp);
                }
                self.phase = phase::LINE;
            }
            _ => self.phase = phase::LINE,
        }
        Progress::MORE
    }

    /// The head has ended: what follows?
    #[inline(always)]
    const fn head_end(&mut self) -> Progress {
        self.phase = phase::START;
        if self.flags & flag::RESPONSES != 0 {
            if self.is_interim() {
                return Progress::MORE;
            }
            let connected = self.method == Method::Connect.0 && self.code < 300;
            if self.code == 101 || connected {
                return self.unparsed(Unparsed::Upgraded);
            }
            if self.method == Method::Head.0 || self.code == 204 || self.code == 304 {
                return Progress::MORE;
            }
        }
        match self.flags & (flag::CHUNKED | flag::LENGTH | flag::OLD) {
            0 | flag::OLD => {
                if self.flags & flag::RESPONSES != 0 {
                    self.skip = UNTIL_CLOSE;
                }
            }
            flag::CHUNKED => self.phase = phase::CHUNK,
            flags if flags & flag::CHUNKED != 0 => {
                return self.unparsed(Unparsed::TransferEncoding);
            }
            _ => self.skip = self.length,
        }
        Progress::MORE
    }

    /// Phases that look at one byte.
    #[inline(always)]
    const fn byte(&mut self, window: &mut Window) -> Progress {
        let byte = window.byte(window.at);
        window.at += 1;
        match self.phase {
            phase::METHOD => self.method_byte(byte, window),
            phase::LENGTH | phase::LENGTH_DIGITS => self.length_byte(byte),
            phase::CODING | phase::CODING_LETTERS => self.coding_byte(byte),
            phase::VALUE_END | phase::VALUE_FEED => self.value_end(byte),
            phase::TRAILER | phase::TRAILER_FEED => self.trailer_byte(byte),
            _ => self.chunk_byte(byte),
        }
    }

    #[inline(always)]
    const fn method_byte(&mut self, byte: u8, window: &Window) -> Progress {
        if byte == b' ' && self.matched > 0 {
            return self.asks(Method::Other, window);
        }
        if !is_token(byte) || self.matched >= LONGEST_METHOD {
            return self.unparsed(Unparsed::NotHttp);
        }
        self.matched += 1;
        Progress::MORE
    }

    #[inline(always)]
    const fn length_byte(&mut self, byte: u8) -> Progress {
        let first = self.phase == phase::LENGTH;
        if byte.is_ascii_digit() {
            if first {
                self.number = 0;
                self.phase = phase::LENGTH_DIGITS;
            }
            // Ten times as much, and all bytes of the sequence, still fit.
            if self.number > u64::MAX / 32 {
                return self.unparsed(Unparsed::ContentLength);
            }
            self.number = self.number * 10 + (byte - b'0') as u64;
            return Progress::MORE;
        }
        if first {
            if byte == b' ' || byte == b'\t' {
                return Progress::MORE;
            }
            return self.unparsed(Unparsed::ContentLength);
        }
        if self.flags & flag::LENGTH != 0 && self.length != self.number {
            return self.unparsed(Unparsed::ContentLength);
        }
        self.flags |= flag::LENGTH;
        self.length = self.number;
        self.reason = Unparsed::ContentLength.0;
        self.value_end(byte)
    }

    #[inline(always)]
    const fn coding_byte(&mut self, byte: u8) -> Progress {
        const CHUNKED: u64 = u64::from_le_bytes(*b"chunked\0");
        self.reason = Unparsed::TransferEncoding.0;
        if self.phase == phase::CODING {
            if byte == b' ' || byte == b'\t' {
                return Progress::MORE;
            }
            self.matched = 0;
            self.phase = phase::CODING_LETTERS;
        }
        if self.matched >= 7 {
            if self.flags & flag::CHUNKED != 0 {
                return self.unparsed(Unparsed::TransferEncoding);
            }
            self.flags |= flag::CHUNKED;
            return self.value_end(byte);
        }
        if byte | 0x20 != (CHUNKED >> (8 * (self.matched as u32 & 7))) as u8 {
            return self.unparsed(Unparsed::TransferEncoding);
        }
        self.matched += 1;
        Progress::MORE
    }

    /// Only spaces may follow a value up to the end of its line.
    #[inline(always)]
    const fn value_end(&mut self, byte: u8) -> Progress {
        let feeds = self.phase == phase::VALUE_FEED;
        match byte {
            b'\n' => self.phase = phase::LINE,
            b'\r' if !feeds => self.phase = phase::VALUE_FEED,
            b' ' | b'\t' if !feeds => self.phase = phase::VALUE_END,
            _ => return self.unparsed(Unparsed(self.reason)),
        }
        Progress::MORE
    }

    #[inline(always)]
    const fn chunk_byte(&mut self, byte: u8) -> Progress {
        match self.phase {
            phase::CHUNK | phase::CHUNK_DIGITS => return self.size_byte(byte),
            phase::EXTENSION if byte == b'\r' => self.phase = phase::SIZE_FEED,
            // Readers do not agree on whether this ends the line.
            phase::EXTENSION if byte != b'\n' => {}
            phase::SIZE_FEED if byte == b'\n' => {
                self.skip = self.number;
                self.phase = if self.number == 0 {
                    phase::TRAILER
                } else {
                    phase::CHUNK_END
                };
            }
            phase::CHUNK_END if byte == b'\r' => self.phase = phase::CHUNK_FEED,
            phase::CHUNK_FEED if byte == b'\n' => self.phase = phase::CHUNK,
            _ => return self.unparsed(Unparsed::Chunk),
        }
        Progress::MORE
    }

    #[inline(always)]
    const fn size_byte(&mut self, byte: u8) -> Progress {
        let first = self.phase == phase::CHUNK;
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ if first => return self.unparsed(Unparsed::Chunk),
            b'\r' => {
                self.phase = phase::SIZE_FEED;
                return Progress::MORE;
            }
            b';' | b' ' | b'\t' => {
                self.phase = phase::EXTENSION;
                return Progress::MORE;
            }
            _ => return self.unparsed(Unparsed::Chunk),
        };
        if first {
            self.number = 0;
            self.phase = phase::CHUNK_DIGITS;
        }
        if self.number > u64::MAX / 32 {
            return self.unparsed(Unparsed::Chunk);
        }
        self.number = self.number * 16 + digit as u64;
        Progress::MORE
    }

    #[inline(always)]
    const fn trailer_byte(&mut self, byte: u8) -> Progress {
        match byte {
            b'\n' => self.phase = phase::START,
            _ if self.phase == phase::TRAILER_FEED => return self.unparsed(Unparsed::Chunk),
            b'\r' => self.phase = phase::TRAILER_FEED,
            b' ' | b'\t' => return self.unparsed(Unparsed::Header),
            _ => self.phase = phase::TRAILER_REST,
        }
        Progress::MORE
    }
}

/// [`flag`] bits of the version that `word` is: `HTTP/1.` and a digit.
#[inline(always)]
pub(super) const fn version(word: u64) -> Option<u8> {
    let minor = (word >> 56) as u8;
    if word << 8 != u64::from_le_bytes(*b"HTTP/1.\0") << 8 || !minor.is_ascii_digit() {
        return None;
    }
    Some(if minor == b'0' { flag::OLD } else { 0 })
}

/// The status code that follows a version, or 0 if none does.
#[inline(always)]
pub(super) const fn status(word: u64) -> u16 {
    let [space, hundreds, tens, ones, end, ..] = word.to_le_bytes();
    let digits = hundreds.is_ascii_digit() && tens.is_ascii_digit() && ones.is_ascii_digit();
    let ends = end == b' ' || end == b'\r' || end == b'\n';
    if space != b' ' || !digits || !ends || hundreds == b'0' {
        return 0;
    }
    (hundreds - b'0') as u16 * 100 + (tens - b'0') as u16 * 10 + (ones - b'0') as u16
}

/// The number of at most five digits that is all of a line but a space before it, and how many
/// digits it has; none if the line is anything else.
#[inline(always)]
pub(super) const fn short_number(word: u64) -> (u64, u32) {
    const LINE_END: u16 = u16::from_le_bytes(*b"\r\n");
    let mut rest = word >> 8;
    let mut number = 0;
    let mut digits = 0;
    while digits < 5 {
        let digit = (rest as u8).wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        number = number * 10 + digit as u64;
        rest >>= 8;
        digits += 1;
    }
    if word as u8 == b' ' && rest as u16 == LINE_END {
        (number, digits)
    } else {
        (0, 0)
    }
}

/// Whether a byte can be part of a method (`tchar` of RFC 9110).
#[inline(always)]
const fn is_token(byte: u8) -> bool {
    const LOW: u64 = set(b"!#$%&'*+-.0123456789", 0);
    const HIGH: u64 = set(
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`abcdefghijklmnopqrstuvwxyz|~",
        64,
    );
    let half = if byte < 64 { LOW } else { HIGH };
    byte < 128 && half >> (byte & 63) & 1 != 0
}

/// The set of `bytes`, which are from `start` on, as bits.
const fn set(bytes: &[u8], start: u8) -> u64 {
    let mut bits = 0;
    let mut at = 0;
    while at < bytes.len() {
        bits |= 1 << (bytes[at] - start);
        at += 1;
    }
    bits
}
