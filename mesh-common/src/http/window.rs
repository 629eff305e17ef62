//! The piece of a stream that is looked at, read a word at a time.

/// Most bytes that are put into a window at once.
pub const PIECE: usize = 480;

/// Bytes a window has room for: those kept from the piece before, and a piece.
const SIZE: u32 = 512;
/// Room to read a word at any place, and for the kernel's verifier, which takes any length with
/// any place.
const WORDS: usize = SIZE as usize / 8 + 4;

/// A piece of a stream.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its bytes, in little-endian order.
    pub words: [u64; WORDS],
    /// Which byte is next.
    pub at: u32,
    /// How many bytes there are.
    pub end: u32,
}
const _: () = assert!(size_of::<Window>() == 552);

impl Default for Window {
    fn default() -> Self {
        Self {
            words: [0; WORDS],
            at: 0,
            end: 0,
        }
    }
}

impl Window {
    /// Eight bytes from `at` on; those past the end are anything.
    #[inline(always)]
    pub(super) const fn word(&self, at: u32) -> u64 {
        let index = (at / 8 % (SIZE / 8)) as usize;
        let (low, high) = (
            u64::from_le(self.words[index]),
            u64::from_le(self.words[index + 1]),
        );
        let shift = at % 8 * 8;
        // A shift by 64 has no meaning, so it is made of two.
        low >> shift | (high << 1) << (63 - shift)
    }

    /// The word at `index` words from the start.
    #[inline(always)]
    pub(super) const fn aligned(&self, index: u32) -> u64 {
        u64::from_le(self.words[(index % (SIZE / 8)) as usize])
    }

    /// The byte at `at`.
    #[inline(always)]
    pub(super) const fn byte(&self, at: u32) -> u8 {
        let word = u64::from_le(self.words[(at / 8 % (SIZE / 8)) as usize]);
        (word >> (at % 8 * 8)) as u8
    }

    /// Bytes that are left.
    #[inline(always)]
    pub(super) const fn left(&self) -> u32 {
        self.end.saturating_sub(self.at)
    }

    /// Passes over what is left.
    #[inline(always)]
    pub(super) const fn skip_rest(&mut self) {
        self.at = self.end;
    }

    /// Starts a piece with the bytes that were kept from the one before; `length` is at most 24.
    #[inline(always)]
    pub(super) const fn restart(&mut self, kept: &[u64; 3], length: u32) {
        self.words[0] = kept[0];
        self.words[1] = kept[1];
        self.words[2] = kept[2];
        self.at = 0;
        self.end = length;
    }

    /// Adds bytes behind those that are there; how many found room.
    pub fn extend(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(PIECE);
        for chunk in bytes[..count].chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.put(u64::from_le_bytes(word));
            self.end += chunk.len() as u32;
        }
        count
    }

    /// Writes a word at the end, whatever was there.
    fn put(&mut self, word: u64) {
        let (index, shift) = (self.end as usize / 8, self.end % 8 * 8);
        let below = u64::from_le(self.words[index]) & !(u64::MAX << shift);
        self.words[index] = (below | word << shift).to_le();
        self.words[index + 1] = ((word >> 1) >> (63 - shift)).to_le();
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// Marks the first line feed among eight bytes, and maybe bytes behind it; 0 if there is none.
#[inline(always)]
pub(super) const fn line_feed(word: u64) -> u64 {
    let zero = word ^ (ONES * b'\n' as u64);
    zero.wrapping_sub(ONES) & !zero & (ONES << 7)
}

/// Which byte the lowest of `marks` is at. BPF has no instruction that counts zeros.
#[inline(always)]
pub(super) const fn first(marks: u64) -> u32 {
    let lowest = (marks & marks.wrapping_neg()) >> 7;
    // One bit at the start of byte n moves byte 7 - n of this number, which is n, to the top.
    (lowest.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32
}
