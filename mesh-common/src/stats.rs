//! What is counted, per CPU.

/// Number of buckets of the connect time histogram, the last one unbounded.
pub const CONNECT_BUCKETS: usize = 10;

/// Upper bound of the first bucket, nanoseconds.
pub const FIRST_BUCKET_NS: u64 = 1 << 14;

/// Labels of a flow series.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Calling subject.
    pub source: u32,
    /// Called service.
    pub service: u32,
    /// Version chosen.
    pub version: u32,
    /// IP protocol number, and [`flow_bit`] bits.
    pub protocol: u32,
}
const _: () = assert!(size_of::<FlowKey>() == 16);

/// Bits of [`FlowKey::protocol`] above the protocol number.
pub mod flow_bit {
    /// The protocol number.
    pub const PROTOCOL: u32 = 0xff;
    /// The bytes cross the network by mTLS.
    pub const MUTUAL_TLS: u32 = 1 << 8;
    /// Counted on the host of the endpoint; otherwise on the host of the caller.
    pub const DESTINATION: u32 = 1 << 9;
}

/// Counters of a flow series; bytes as the client sees them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStats {
    /// TCP connections established, or UDP flows begun.
    pub opened: u64,
    /// TCP connections closed after they were established.
    pub closed: u64,
    /// TCP connections that were allowed but never established.
    pub failed: u64,
    /// Payload bytes the peer acknowledged, counted at close; UDP: datagrams sent.
    pub sent_bytes: u64,
    /// Payload bytes received, counted at close.
    pub received_bytes: u64,
    /// Segments sent again, counted at close.
    pub retransmits: u64,
    /// Sum of connect times, nanoseconds.
    pub connect_ns: u64,
    /// Connect times by bucket, see [`bucket_of`].
    pub connect_buckets: [u64; CONNECT_BUCKETS],
}
const _: () = assert!(size_of::<FlowStats>() == 136);

/// Bucket of a connect time: upper bounds 2^14 ns (16 µs) times powers of 4, last one unbounded.
///
/// Powers of four keep the histogram small; from 16 µs (loopback) to 1.07 s (a lost SYN).
#[inline(always)]
pub const fn bucket_of(nanoseconds: u64) -> usize {
    let mut bucket = 0;
    let mut bound = FIRST_BUCKET_NS;
    while bucket < CONNECT_BUCKETS - 1 {
        if nanoseconds <= bound {
            return bucket;
        }
        bound <<= 2;
        bucket += 1;
    }
    CONNECT_BUCKETS - 1
}

/// Upper bounds of the buckets of request durations, nanoseconds. The last bucket has none.
pub const REQUEST_BOUNDS_NS: [u64; REQUEST_BUCKETS - 1] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    5_000_000_000,
];

/// Number of buckets of request durations.
pub const REQUEST_BUCKETS: usize = 14;

/// Labels of an authorization series.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DecisionKey {
    /// Calling subject.
    pub source: u32,
    /// Called service; 0 outside the mesh.
    pub service: u32,
    /// The rule, 0 where the reason is not policy.
    pub rule: u32,
    /// [`Verdict`](crate::Verdict) code.
    pub verdict: u8,
    /// [`Reason`](crate::Reason) code.
    pub reason: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub _pad: u8,
}
const _: () = assert!(size_of::<DecisionKey>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_grow_by_four() {
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(1 << 14), 0);
        assert_eq!(bucket_of((1 << 14) + 1), 1);
        assert_eq!(bucket_of(1 << 16), 1);
        assert_eq!(bucket_of(1 << 30), 8);
        assert_eq!(bucket_of(u64::MAX), 9);
    }
}
