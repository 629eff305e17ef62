//! Where in a packet the bytes of its stream are, and where in the stream they belong.

use core::mem::offset_of;

use aya_ebpf::bindings::__sk_buff;

use crate::ctx;
use crate::packet::{load, skip_extensions, words_at};

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
        let (header, seq, offset) = Self::plain(skb).or_else(|| Self::any(skb))?;
        let at = header + u32::from(offset >> 4) * 4;
        // A SYN takes a sequence number and carries no bytes that a socket sees here.
        Some(Self {
            seq,
            at,
            length: whole.saturating_sub(at),
        })
    }

    /// Where the TCP header begins, its sequence number, and the byte that says how long it is:
    /// behind an IPv4 header without options, in what can be read in place.
    #[inline(always)]
    fn plain(skb: *mut __sk_buff) -> Option<(u32, u32, u8)> {
        let [first, fourth, fifth] = words_at(skb, [0, 24, 32], 40)?.map(u64::from_le);
        let found = (20, (fourth as u32).swap_bytes(), fifth as u8);
        (first as u8 == 0x45).then_some(found)
    }

    /// The same behind any header.
    #[inline(always)]
    fn any(skb: *mut __sk_buff) -> Option<(u32, u32, u8)> {
        let [first, _, _, _, _, _, next] = load::<7>(skb, 0)?;
        let header = if first >> 4 == 4 {
            u32::from(first & 0xf) * 4
        } else {
            skip_extensions(skb, next)?.0
        };
        let [_, _, _, _, a, b, c, d, _, _, _, _, offset] = load::<13>(skb, header)?;
        Some((header, u32::from_be_bytes([a, b, c, d]), offset))
    }
}
