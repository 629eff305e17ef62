//! Quantiles out of histograms, by the rule of Prometheus' `histogram_quantile`.

/// The value that the share `q` of observations does not exceed, in seconds: interpolated within
/// its bucket, and the largest bound where it is beyond that. `None` without observations.
pub(super) fn quantile(q: f64, bounds_ns: &[u64], buckets: &[u64]) -> Option<f64> {
    let total: u64 = buckets.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = q * total as f64;
    let mut below = 0.0;
    let mut lower = 0;
    for (bound, count) in bounds_ns.iter().zip(buckets) {
        let count = *count as f64;
        if count > 0.0 && below + count >= rank {
            let share = (rank - below) / count;
            let width = (bound - lower) as f64;
            return Some(seconds(lower as f64 + width * share));
        }
        below += count;
        lower = *bound;
    }
    Some(seconds(lower as f64))
}

fn seconds(nanoseconds: f64) -> f64 {
    nanoseconds / 1e9
}

#[cfg(test)]
mod tests {
    use mesh_common::{CONNECT_BOUNDS_NS, bucket_of};

    use super::*;

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let bounds = [1_000_000_000, 2_000_000_000, 4_000_000_000];
        for (q, buckets, expected) in [
            (0.5, [0, 0, 0, 0], None),
            (0.5, [2, 0, 0, 0], Some(0.5)),
            (1.0, [2, 0, 0, 0], Some(1.0)),
            (0.5, [1, 1, 0, 0], Some(1.0)),
            (0.75, [1, 1, 0, 0], Some(1.5)),
            (0.5, [0, 0, 4, 0], Some(3.0)),
            (0.99, [0, 0, 0, 7], Some(4.0)),
            (0.25, [1, 0, 1, 2], Some(1.0)),
            (0.5, [1, 0, 1, 2], Some(4.0)),
        ] {
            assert_eq!(quantile(q, &bounds, &buckets), expected, "{q} {buckets:?}");
        }
    }

    #[test]
    fn the_bounds_are_those_the_kernel_counts_by() {
        for (bucket, bound) in CONNECT_BOUNDS_NS.into_iter().enumerate() {
            assert_eq!(bucket_of(bound), bucket);
            assert_eq!(bucket_of(bound + 1), bucket + 1);
        }
    }
}
