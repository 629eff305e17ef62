//! What is counted, per CPU.

/// Number of buckets of the connect time histogram, the last one unbounded.
pub const CONNECT_BUCKETS: usize = 10;

/// Upper bound of the first bucket, nanoseconds.
pub const FIRST_BUCKET_NS: u64 = 1 << 14;

/// Upper bounds of the buckets of connect times, nanoseconds. The last bucket has none.
pub const CONNECT_BOUNDS_NS: [u64; CONNECT_BUCKETS - 1] = bounds(FIRST_BUCKET_NS, CONNECT_SHIFT);

/// Upper bounds of the buckets of round-trip times, nanoseconds. The last bucket has none.
pub const RTT_BOUNDS_NS: [u64; RTT_BUCKETS - 1] = bounds(FIRST_RTT_NS, RTT_SHIFT);

/// Upper bounds of the buckets of connections' durations, nanoseconds. The last bucket has none.
pub const DURATION_BOUNDS_NS: [u64; DURATION_BUCKETS - 1] =
    bounds(FIRST_DURATION_NS, DURATION_SHIFT);

/// Each bound is 2^`shift` times the one before.
const CONNECT_SHIFT: u32 = 2;
const RTT_SHIFT: u32 = 2;
const DURATION_SHIFT: u32 = 3;

const fn bounds<const N: usize>(first: u64, shift: u32) -> [u64; N] {
    let mut bounds = [first; N];
    let mut index = 1;
    while index < N {
        bounds[index] = bounds[index - 1] << shift;
        index += 1;
    }
    bounds
}

/// Number of buckets of the round-trip time histogram, the last one unbounded.
pub const RTT_BUCKETS: usize = 9;

/// Upper bound of its first bucket, nanoseconds: 2^16 (66 µs).
pub const FIRST_RTT_NS: u64 = 1 << 16;

/// Number of buckets of the histogram of connections' durations, the last one unbounded.
pub const DURATION_BUCKETS: usize = 9;

/// Upper bound of its first bucket, nanoseconds: 2^20 (1 ms).
pub const FIRST_DURATION_NS: u64 = 1 << 20;

/// Indices of the map that says how many more series may be made; 0 or less means none.
pub mod room {
    /// Of flows.
    pub const FLOWS: u32 = 0;
    /// Of decisions.
    pub const DECISIONS: u32 = 1;
    /// Of requests.
    pub const REQUESTS: u32 = 2;
    /// Of connections whose requests could not be followed.
    pub const UNPARSED: u32 = 3;
    /// How many kinds there are.
    pub const KINDS: u32 = 4;
}

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
    /// Sum of smoothed round-trip times at close, nanoseconds.
    pub rtt_ns: u64,
    /// Round-trip times by bucket, see [`rtt_bucket`].
    pub rtt_buckets: [u64; RTT_BUCKETS],
    /// Sum of times from established to closed, nanoseconds.
    pub duration_ns: u64,
    /// These times by bucket, see [`duration_bucket`].
    pub duration_buckets: [u64; DURATION_BUCKETS],
}
const _: () = assert!(size_of::<FlowStats>() == 296);

/// Bucket of a connect time: upper bounds 2^14 ns (16 µs) times powers of 4, last one unbounded.
///
/// Powers of four keep the histogram small; from 16 µs (loopback) to 1.07 s (a lost SYN).
#[inline(always)]
pub const fn bucket_of(nanoseconds: u64) -> usize {
    bucket::<CONNECT_BUCKETS>(nanoseconds, FIRST_BUCKET_NS, CONNECT_SHIFT)
}

/// Bucket of a round-trip time: upper bounds 2^16 ns (66 µs) times powers of 4, up to 1.07 s.
#[inline(always)]
pub const fn rtt_bucket(nanoseconds: u64) -> usize {
    bucket::<RTT_BUCKETS>(nanoseconds, FIRST_RTT_NS, RTT_SHIFT)
}

/// Bucket of a connection's duration: upper bounds 2^20 ns (1 ms) times powers of 8, up to 37
/// minutes.
#[inline(always)]
pub const fn duration_bucket(nanoseconds: u64) -> usize {
    bucket::<DURATION_BUCKETS>(nanoseconds, FIRST_DURATION_NS, DURATION_SHIFT)
}

/// Which of `N` buckets: the first ends at `first`, each other 2^`shift` times higher.
#[inline(always)]
const fn bucket<const N: usize>(value: u64, first: u64, shift: u32) -> usize {
    let mut bucket = 0;
    let mut bound = first;
    while bucket < N - 1 {
        if value <= bound {
            return bucket;
        }
        bound <<= shift;
        bucket += 1;
    }
    N - 1
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

    #[test]
    fn round_trips_and_durations_have_theirs() {
        assert_eq!(rtt_bucket(65_536), 0);
        assert_eq!(rtt_bucket(65_537), 1);
        assert_eq!(rtt_bucket(1_073_741_824), 7);
        assert_eq!(rtt_bucket(u64::MAX), 8);
        assert_eq!(duration_bucket(1_048_576), 0);
        assert_eq!(duration_bucket(1_048_577), 1);
        assert_eq!(duration_bucket(2_199_023_255_552), 7);
        assert_eq!(duration_bucket(u64::MAX), 8);
    }
}
