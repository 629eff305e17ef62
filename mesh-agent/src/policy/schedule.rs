//! Spreads weights over a period: which share each position of a split belongs to.
//!
//! This is the chairman assignment problem (Tijdeman, "The chairman assignment problem",
//! Discrete Mathematics 32, 1980): after every prefix each of k shares is within 1 - 1/(2k-2)
//! of its exact part. With two shares any window is within 1 of exact; every whole period is
//! exact.

/// The share each position belongs to, for shares of the given weights; as long as their sum
/// divided by their greatest common divisor. Empty if all weights are 0.
pub fn spread(weights: &[u32]) -> Vec<usize> {
    let divisor = weights
        .iter()
        .fold(0, |divisor, weight| gcd(divisor, *weight));
    let shares: Vec<i64> = weights
        .iter()
        .map(|weight| i64::from(weight.checked_div(divisor).unwrap_or(0)))
        .collect();
    let period: i64 = shares.iter().sum();
    let used = shares.iter().filter(|share| **share > 0).count() as i64;
    let mut given = vec![0i64; shares.len()];
    (1..=period)
        .map(|position| {
            let chosen = next(&shares, &given, position, period, used);
            given[chosen] += 1;
            chosen
        })
        .collect()
}

/// Among the shares that are due, the one that runs out of time first.
///
/// With n positions taken, w of W the weight and x what was given, share i is due when
/// n w/W - x >= 1/(2k-2), and its time runs out at (x + 1 - 1/(2k-2)) W/w. All sides are
/// multiplied by 2(k-1) W to stay in integers.
fn next(shares: &[i64], given: &[i64], position: i64, period: i64, used: i64) -> usize {
    let scale = 2 * (used - 1).max(1);
    let slack = i64::from(used > 1);
    let due = |i: usize| scale * (position * shares[i] - given[i] * period) >= slack * period;
    let deadline = |i: usize| (scale * (given[i] + 1) - slack) * period;
    let candidates = (0..shares.len()).filter(|i| shares[*i] > 0);
    let earlier = |a: &usize, b: &usize| {
        (i128::from(deadline(*a)) * i128::from(shares[*b]))
            .cmp(&(i128::from(deadline(*b)) * i128::from(shares[*a])))
    };
    let all = candidates.clone();
    candidates
        .filter(|i| due(*i))
        .min_by(earlier)
        .or_else(|| all.min_by(earlier))
        .unwrap_or(0)
}

/// Greatest common divisor; that of 0 and n is n.
pub fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(schedule: &[usize], share: usize) -> usize {
        schedule.iter().filter(|chosen| **chosen == share).count()
    }

    #[test]
    fn ninety_nine_to_one_is_one_canary_in_a_hundred() {
        let schedule = spread(&[99, 1]);
        assert_eq!((schedule.len(), count(&schedule, 1)), (100, 1));
        assert_eq!(spread(&[990, 10]), schedule, "weights are reduced");
        assert_eq!(spread(&[0, 5]), vec![1]);
        assert!(spread(&[0, 0]).is_empty());
        assert!(spread(&[]).is_empty());
    }

    #[test]
    fn any_window_of_two_shares_is_within_one_of_exact() {
        for (a, b) in [(99, 1), (90, 10), (50, 50), (37, 63), (1, 2), (7, 3)] {
            let period = spread(&[a, b]);
            let twice = [period.clone(), period.clone()].concat();
            for start in 0..period.len() {
                for length in 1..=period.len() {
                    let seen = count(&twice[start..start + length], 0) as f64;
                    let exact = length as f64 * f64::from(a) / f64::from(a + b);
                    assert!(
                        (seen - exact).abs() <= 1.0,
                        "{a}/{b} at {start}+{length}: {seen}"
                    );
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn every_prefix_is_within_one_of_exact(weights in proptest::collection::vec(0u32..40, 1..6)) {
            let schedule = spread(&weights);
            let total: u32 = weights.iter().sum();
            for length in 1..=schedule.len() {
                for (share, weight) in weights.iter().enumerate() {
                    let seen = count(&schedule[..length], share) as f64;
                    let exact = length as f64 * f64::from(*weight) / f64::from(total);
                    proptest::prop_assert!((seen - exact).abs() < 1.0, "{share} after {length}");
                }
            }
        }
    }
}
