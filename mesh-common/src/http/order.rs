//! Where a packet's bytes belong in the stream.

/// How far a direction of a TCP connection has been looked at.
///
/// Packets are seen before TCP puts them in order and leaves out what it has already.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Sequence number of the byte behind the last one that was seen or passed over.
    pub next: u32,
}
const _: () = assert!(size_of::<Order>() == 4);

/// What of a packet's bytes is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Nothing: it was seen before, or does not matter.
    Nothing,
    /// What follows the first so many bytes.
    From(u32),
    /// Bytes that matter are missing before it.
    Gap,
}

impl Order {
    /// Places `length` bytes at sequence number `seq`, when the next `skip` bytes of the stream
    /// do not matter. Bytes that do not matter may be missing, or come late.
    #[inline(always)]
    pub const fn place(&mut self, seq: u32, length: u32, skip: &mut u64) -> Piece {
        let end = seq.wrapping_add(length);
        let new = end.wrapping_sub(self.next);
        if new == 0 || new > i32::MAX as u32 {
            return Piece::Nothing;
        }
        if new > length {
            let missing = (new - length) as u64;
            if missing > *skip {
                return Piece::Gap;
            }
            *skip -= missing;
            self.next = seq;
        }
        let before = self.next.wrapping_sub(seq);
        let mut left = length - before;
        self.next = end;
        if *skip >= left as u64 {
            *skip -= left as u64;
            return Piece::Nothing;
        }
        left -= *skip as u32;
        *skip = 0;
        Piece::From(length - left)
    }
}
