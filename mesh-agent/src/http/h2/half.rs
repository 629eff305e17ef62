//! One direction of a connection: frames that matter, to header blocks.

use mesh_common::http::Unparsed;
use mesh_common::http2::{FrameHeader, frame_flag, frame_kind};

use super::super::hpack::Decoder;

/// The longest header block, bytes as they cross the network.
pub(super) const MOST_HEAD: usize = 64 << 10;
/// A buffer as large as this is kept for the next block, bytes.
const CALM: usize = 1024;
/// What a GOAWAY says first: the last stream that will be answered.
const LAST_STREAM: usize = 4;

/// A header block that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// HEADERS or PUSH_PROMISE.
    pub(super) frame: FrameHeader,
    /// When it began, nanoseconds.
    pub(super) at: u64,
}

/// What has become complete.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told<'b> {
    /// A header block.
    Block(Block, &'b [u8]),
    /// Streams above this will not be answered.
    GoAway(u32),
}

#[derive(Debug, Default)]
pub(super) struct Half {
    pub(super) hpack: Decoder,
    block: Option<Block>,
    /// The frame whose payload passes.
    frame: FrameHeader,
    /// Bytes of it that are still to come.
    left: usize,
    /// What is there of a block or a GOAWAY.
    bytes: Vec<u8>,
    /// Where in it the payload begins that passes.
    start: usize,
}

impl Half {
    /// A frame begins. Its payload follows, and nothing else before its end.
    pub(super) fn frame(&mut self, frame: FrameHeader, at: u64) -> Result<(), Unparsed> {
        let goes_on = frame.kind == frame_kind::CONTINUATION;
        let of_same = self
            .block
            .is_some_and(|block| block.frame.stream == frame.stream);
        if self.left > 0 || goes_on != self.block.is_some() || (goes_on && !of_same) {
            return Err(Unparsed::Malformed);
        }
        match frame.kind {
            frame_kind::HEADERS | frame_kind::PUSH_PROMISE => {
                self.block = Some(Block { frame, at })
            }
            frame_kind::CONTINUATION | frame_kind::GOAWAY => {}
            _ => return Ok(()),
        }
        self.frame = frame;
        self.left = frame.length as usize;
        self.start = self.bytes.len();
        Ok(())
    }

    /// A part of the payload of the frame that began last, or none if that is empty.
    pub(super) fn payload(
        &mut self,
        part: &[u8],
        mut told: impl FnMut(&mut Decoder, Told<'_>) -> Result<(), Unparsed>,
    ) -> Result<(), Unparsed> {
        self.left = self
            .left
            .checked_sub(part.len())
            .ok_or(Unparsed::Malformed)?;
        if self.frame.kind == frame_kind::GOAWAY {
            return self.goaway(part, told);
        }
        let is_last = self.left == 0 && self.frame.has(frame_flag::END_HEADERS);
        if is_last && self.bytes.is_empty() {
            // All in one piece, as nearly always.
            let fragment = fragment(&self.frame, part)?;
            let block = self.block.take().ok_or(Unparsed::Malformed)?;
            return told(&mut self.hpack, Told::Block(block, fragment));
        }
        if self.bytes.len() + part.len() > MOST_HEAD {
            return Err(Unparsed::Head);
        }
        self.bytes.extend_from_slice(part);
        if self.left == 0 {
            self.trim()?;
        }
        if is_last {
            let block = self.block.take().ok_or(Unparsed::Malformed)?;
            told(&mut self.hpack, Told::Block(block, &self.bytes))?;
            self.clear();
        }
        Ok(())
    }

    /// Memory, bytes.
    pub(super) fn held(&self) -> usize {
        self.hpack.held() + self.bytes.capacity()
    }

    /// Takes off what is not part of the block.
    fn trim(&mut self) -> Result<(), Unparsed> {
        let payload = self.bytes.get(self.start..).unwrap_or_default();
        let skipped = before(&self.frame);
        let length = fragment(&self.frame, payload)?.len();
        self.bytes.drain(self.start..self.start + skipped);
        self.bytes.truncate(self.start + length);
        Ok(())
    }

    fn goaway(
        &mut self,
        part: &[u8],
        mut told: impl FnMut(&mut Decoder, Told<'_>) -> Result<(), Unparsed>,
    ) -> Result<(), Unparsed> {
        let missing = LAST_STREAM.saturating_sub(self.bytes.len());
        self.bytes.extend(part.iter().take(missing));
        if self.left > 0 {
            return Ok(());
        }
        let last = self.bytes.first_chunk().ok_or(Unparsed::Malformed)?;
        // The first bit is reserved.
        let last = u32::from_be_bytes(*last) & (u32::MAX >> 1);
        self.clear();
        told(&mut self.hpack, Told::GoAway(last))
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(CALM);
    }
}

/// Bytes before a frame's part of the header block.
fn before(frame: &FrameHeader) -> usize {
    let length = |flag, length| if frame.has(flag) { length } else { 0 };
    match frame.kind {
        frame_kind::HEADERS => length(frame_flag::PADDED, 1) + length(frame_flag::PRIORITY, 5),
        frame_kind::PUSH_PROMISE => length(frame_flag::PADDED, 1) + 4,
        _ => 0,
    }
}

/// A frame's part of the header block.
fn fragment<'b>(frame: &FrameHeader, payload: &'b [u8]) -> Result<&'b [u8], Unparsed> {
    let is_padded = frame.kind != frame_kind::CONTINUATION && frame.has(frame_flag::PADDED);
    let padding = match payload.first() {
        Some(length) if is_padded => usize::from(*length),
        _ => 0,
    };
    let end = payload.len().checked_sub(padding);
    end.and_then(|end| payload.get(before(frame)..end))
        .ok_or(Unparsed::Malformed)
}
