//! One address type for both families, and the key a destination is looked up by.

/// Protocol number of TCP, as in the IP header.
pub const IPPROTO_TCP: u8 = 6;
/// Protocol number of UDP, as in the IP header.
pub const IPPROTO_UDP: u8 = 17;

/// An IP address in 16 bytes, network order; IPv4 as `::ffff:a.b.c.d`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// Stands for "any address of this host": all of loopback, the unspecified addresses and
    /// those of its interfaces. What a local endpoint can be reached by besides its own address.
    pub const LOCAL: Self = Self([0; 16]);

    /// `127.0.0.1`.
    pub const LOOPBACK_V4: Self = Self::from_v4([127, 0, 0, 1]);
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    /// What the agent dials every few seconds to see that it is refused: the IPv4 dummy address
    /// 192.0.0.8 (RFC 7600), which no packet is sent to.
    pub const CANARY_V4: Self = Self::from_v4([192, 0, 0, 8]);
    /// The same for IPv6: an address of the discard-only prefix (RFC 6666), `100::6d65:7368`.
    pub const CANARY_V6: Self = Self([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x6d, 0x65, 0x73, 0x68]);

    /// The address of an IPv4 address given in network order.
    #[inline(always)]
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// The address of four words as the kernel's contexts hold them: network order in memory.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        let [a, b, c, d] = words;
        let (a, b, c, d) = (
            a.to_ne_bytes(),
            b.to_ne_bytes(),
            c.to_ne_bytes(),
            d.to_ne_bytes(),
        );
        Self([
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ])
    }

    /// Whether this is IPv4 (`::ffff:0:0/96`).
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [high, low] = self.halves();
        high == 0 && low >> 32 == 0xffff
    }

    /// Whether this reaches the network namespace's own loopback: `127.0.0.0/8`, `::1`, and
    /// the unspecified addresses, which Linux connects to loopback.
    #[inline(always)]
    pub const fn is_loopback_or_unspecified(&self) -> bool {
        let [high, low] = self.halves();
        if high != 0 {
            return false;
        }
        low <= 1 || (low >> 24) == 0x0000_00ff_ff7f || low == 0x0000_ffff_0000_0000
    }

    #[inline(always)]
    const fn halves(&self) -> [u64; 2] {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.0;
        [
            u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            u64::from_be_bytes([i, j, k, l, m, n, o, p]),
        ]
    }
}
const _: () = assert!(size_of::<Address>() == 16);

/// Where a program dials: address, port and protocol.
///
/// Port 0 with protocol 0 is the entry for the address as such (see
/// [`destination_flag::VIP_ADDRESS`](crate::destination_flag::VIP_ADDRESS)).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketKey {
    /// The address, or [`Address::LOCAL`].
    pub address: Address,
    /// The port, host order.
    pub port: u16,
    /// [`IPPROTO_TCP`], [`IPPROTO_UDP`] or 0.
    pub protocol: u8,
    /// Zero.
    pub _pad: u8,
}
const _: () = assert!(size_of::<SocketKey>() == 20);

impl SocketKey {
    /// The same port at any address of this host.
    #[inline(always)]
    pub const fn at_any_address(&self) -> Self {
        Self::new(Address::LOCAL, self.port, self.protocol)
    }

    /// The key of `address`, `port` (host order) and `protocol`.
    #[inline(always)]
    pub const fn new(address: Address, port: u16, protocol: u8) -> Self {
        Self {
            address,
            port,
            protocol,
            _pad: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::net::{IpAddr, Ipv6Addr};

    fn address(text: &str) -> Address {
        match text.parse().expect("an address") {
            IpAddr::V4(v4) => Address::from_v4(v4.octets()),
            IpAddr::V6(v6) => Address(Ipv6Addr::octets(&v6)),
        }
    }

    #[test]
    fn loopback_is_the_whole_of_what_linux_sends_there() {
        for (text, expected) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("0.0.0.0", true),
            ("::", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:0.0.0.0", true),
            ("::2", false),
            ("126.0.0.1", false),
            ("128.0.0.1", false),
            ("10.0.0.1", false),
            ("0.0.0.1", false),
            ("::7f00:1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(
                address(text).is_loopback_or_unspecified(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn mapped_addresses_are_v4() {
        assert!(address("10.0.0.1").is_v4());
        assert!(address("::ffff:10.0.0.1").is_v4());
        assert!(!address("::1").is_v4());
        assert!(!address("fd00::ffff:a00:1").is_v4());
    }
}
