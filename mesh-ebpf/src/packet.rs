//! The first packet of a connection, or a datagram, as `cgroup_skb` shows it: from the IP header on.

use core::arch::asm;
use core::mem::{MaybeUninit, offset_of, size_of};

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use mesh_common::{Address, IPPROTO_TCP, IPPROTO_UDP, SocketKey};

use crate::ctx;

/// How many IPv6 extension headers are passed over.
const MAX_EXTENSIONS: u32 = 8;

const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// Both ends of a packet.
pub(crate) struct Packet {
    pub(crate) source: SocketKey,
    pub(crate) target: SocketKey,
    pub(crate) v4: bool,
    flags: u8,
}

impl Packet {
    /// Reads the headers; `None` if they cannot be read. Other protocols than TCP and UDP have
    /// no ports.
    #[inline(always)]
    pub(crate) fn parse(skb: *mut __sk_buff) -> Option<Self> {
        // As much as both kinds of header have.
        let header = load::<{ IPV4_HEADER as usize }>(skb, 0)?;
        match header[0] >> 4 {
            4 => {
                let [.., a, b, c, d, e, f, g, h] = header;
                let ends = (
                    Address::from_v4([a, b, c, d]),
                    Address::from_v4([e, f, g, h]),
                );
                let length = u32::from(header[0] & 0xf) * 4;
                Self::transport(skb, length, header[9], ends, true)
            }
            6 => {
                let ends = (Address(load(skb, 8)?), Address(load(skb, 24)?));
                let (offset, protocol) = skip_extensions(skb, header[6])?;
                Self::transport(skb, offset, protocol, ends, false)
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn transport(
        skb: *mut __sk_buff,
        offset: u32,
        protocol: u8,
        (source, target): (Address, Address),
        v4: bool,
    ) -> Option<Self> {
        let ([a, b, c, d], flags) = match protocol {
            IPPROTO_TCP => {
                let segment = load::<14>(skb, offset)?;
                let [a, b, c, d, .., flags] = segment;
                ([a, b, c, d], flags)
            }
            IPPROTO_UDP => (load::<4>(skb, offset)?, 0),
            _ => ([0; 4], 0),
        };
        Some(Self {
            source: SocketKey::new(source, u16::from_be_bytes([a, b]), protocol),
            target: SocketKey::new(target, u16::from_be_bytes([c, d]), protocol),
            v4,
            flags,
        })
    }

    /// Whether its protocol is one that services are called by: sockets of others see packets too.
    #[inline(always)]
    pub(crate) fn calls(&self) -> bool {
        let protocol = self.target.protocol;
        protocol == IPPROTO_TCP || protocol == IPPROTO_UDP
    }

    /// Whether it asks for a connection.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        self.flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }
}

/// Where the transport header of an IPv6 packet begins, and its protocol.
#[inline(always)]
pub(crate) fn skip_extensions(skb: *mut __sk_buff, mut next: u8) -> Option<(u32, u8)> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION_OPTIONS: u8 = 60;
    let mut offset = IPV6_HEADER;
    for _ in 0..MAX_EXTENSIONS {
        // Anything else is the transport's, or nothing that the kernel looks behind.
        if !matches!(
            next,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
        ) {
            return Some((offset, next));
        }
        let [following, length] = load::<2>(skb, offset)?;
        let length = u32::from(length);
        offset += match next {
            FRAGMENT => 8,
            AUTHENTICATION => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        next = following;
    }
    None
}

#[inline(always)]
pub(crate) fn load<const N: usize>(skb: *mut __sk_buff, offset: u32) -> Option<[u8; N]> {
    load_as(skb, offset)
}

/// The words at `offsets` of a packet, each in its order, if all up to `end` can be read in place.
#[inline(always)]
pub(crate) fn words_at<const N: usize>(
    skb: *mut __sk_buff,
    offsets: [usize; N],
    end: usize,
) -> Option<[u64; N]> {
    let data: u32 = ctx::field(skb, offset_of!(__sk_buff, data));
    let data_end: u32 = ctx::field(skb, offset_of!(__sk_buff, data_end));
    if data as usize + end > data_end as usize {
        return None;
    }
    Some(offsets.map(|offset| word_at(data as usize + offset)))
}

/// Reads a word of a packet in place, where it need not be aligned. The compiler would read it
/// byte by byte.
#[inline(always)]
fn word_at(address: usize) -> u64 {
    let word: u64;
    // SAFETY: the caller has compared the address with the end of the packet, which the verifier
    // checks.
    unsafe {
        asm!(
            "{word} = *(u64 *)({address} + 0)",
            address = in(reg) address,
            word = out(reg) word,
            options(readonly, nostack),
        );
    }
    word
}

/// Types that any bytes are a value of.
trait AnyBytes {}
impl<const N: usize> AnyBytes for [u8; N] {}

#[inline(always)]
fn load_as<T: AnyBytes>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let length = size_of::<T>() as u32;
    // SAFETY: the context as the kernel handed it over, and room for as many bytes as are asked
    // for.
    let failed =
        unsafe { bpf_skb_load_bytes(skb.cast(), offset, value.as_mut_ptr().cast(), length) };
    if failed != 0 {
        return None;
    }
    // SAFETY: the helper has written all of it, and any bytes will do.
    Some(unsafe { value.assume_init() })
}
