//! Where in a packet the bytes of its stream are, and where in the stream they belong.

use core::mem::offset_of;

use aya_ebpf::bindings::__sk_buff;

use crate::ctx;
use crate::packet::{load, load_words, skip_extensions};

/// The bytes of a TCP segment.
pub(super) struct Segment {
    /// Sequence number of the first one.
    pub(super) seq: u32,
    /// Where they begin in the packet.
    pub(super) at: u32,
    /// How many there are.
    pub(super) length: u32,
}

impl Segment {
    /// Reads the headers of a packet of a TCP socket; `None` if they cannot be read.
    #[inline(always)]
    pub(super) fn parse(skb: *mut __sk_buff) -> Option<Self> {
        let whole: u32 = ctx::field(skb, offset_of!(__sk_buff, len));
        // Both headers, if they are of IPv4 without options, which most are. By words: a compiler
        // copies arrays of bytes one by one.
        let [first, _, _, fourth, fifth] = load_words::<5>(skb, 0)?.map(u64::from_le);
        let (mut header, mut seq, mut offset) = (20, (fourth as u32).swap_bytes(), fifth as u8);
        if first as u8 != 0x45 {
            header = if first as u8 >> 4 == 4 {
                u32::from(first as u8 & 0xf) * 4
            } else {
                skip_extensions(skb, (first >> 48) as u8)?.0
            };
            let [_, _, _, _, a, b, c, d, _, _, _, _, last] = load::<13>(skb, header)?;
            (seq, offset) = (u32::from_be_bytes([a, b, c, d]), last);
        }
        let at = header + u32::from(offset >> 4) * 4;
        // A SYN takes a sequence number and carries no bytes that a socket sees here.
        Some(Self {
            seq,
            at,
            length: whole.saturating_sub(at),
        })
    }
}
