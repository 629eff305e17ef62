//! Integers and strings of a header block.

use super::HpackError;
use super::huffman;

/// The longest text that is compared with something; of a longer one only the length is known.
const KEPT: usize = 16;

/// A string, of which no more than its first bytes are kept.
#[derive(Debug, Default)]
pub(super) struct Text {
    kept: [u8; KEPT],
    length: u32,
}

impl Text {
    /// The string; empty if it is longer than anything it is compared with.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.kept.get(..self.length as usize).unwrap_or_default()
    }

    /// Its length, bytes.
    pub(super) fn length(&self) -> u32 {
        self.length
    }

    fn plain(bytes: &[u8]) -> Self {
        let mut text = Self {
            length: bytes.len() as u32,
            ..Self::default()
        };
        if let Some(kept) = text.kept.get_mut(..bytes.len()) {
            kept.copy_from_slice(bytes);
        }
        text
    }

    fn push(&mut self, byte: u8) {
        if let Some(kept) = self.kept.get_mut(self.length as usize) {
            *kept = byte;
        }
        self.length += 1;
    }
}

/// What is left of a header block.
pub(super) struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    pub(super) fn new(rest: &'b [u8]) -> Self {
        Self { rest }
    }

    /// The next byte, which stays; `None` at the end.
    pub(super) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// An integer that begins in the last `prefix` bits of the next byte.
    pub(super) fn integer(&mut self, prefix: u32) -> Result<u32, HpackError> {
        let most = (1 << prefix) - 1;
        let mut value = u32::from(self.byte()?) & most;
        if value < most {
            return Ok(value);
        }
        // Four more bytes at most: 2^28 is more than anything here can be.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::Malformed)
    }

    pub(super) fn string(&mut self) -> Result<Text, HpackError> {
        let is_coded = self.peek().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)? as usize;
        let (bytes, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(HpackError::Malformed)?;
        self.rest = rest;
        if !is_coded {
            return Ok(Text::plain(bytes));
        }
        let mut text = Text::default();
        huffman::decode(bytes, |byte| text.push(byte)).ok_or(HpackError::Malformed)?;
        Ok(text)
    }

    fn byte(&mut self) -> Result<u8, HpackError> {
        let (first, rest) = self.rest.split_first().ok_or(HpackError::Malformed)?;
        self.rest = rest;
        Ok(*first)
    }
}
