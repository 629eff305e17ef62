//! Ratios of weights: how long their schedule is, and shorter ones that are near.

/// Sum of the weights in lowest terms: the length of their schedule.
pub(super) fn period(weights: &[u32]) -> u64 {
    let divisor = u64::from(weights.iter().copied().fold(0, gcd)).max(1);
    weights.iter().map(|weight| u64::from(*weight)).sum::<u64>() / divisor
}

/// About the same ratio with a sum of about 1000; no share is lost.
pub(super) fn smaller(weights: &[u32]) -> Vec<u32> {
    let sum = weights
        .iter()
        .map(|weight| u64::from(*weight))
        .sum::<u64>()
        .max(1);
    let scaled = |weight: &u32| {
        let share = (u64::from(*weight) * GOAL + sum / 2) / sum;
        share.max(u64::from(*weight > 0)) as u32
    };
    let scaled: Vec<u32> = weights.iter().map(scaled).collect();
    let divisor = scaled.iter().copied().fold(0, gcd).max(1);
    scaled.iter().map(|weight| weight / divisor).collect()
}

/// `99 : 1`
pub(super) fn listed(weights: &[u32]) -> String {
    let mut shown: Vec<String> = weights.iter().take(8).map(ToString::to_string).collect();
    if weights.len() > shown.len() {
        shown.push("...".to_owned());
    }
    shown.join(" : ")
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

const GOAL: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_in_lowest_terms() {
        assert_eq!(period(&[99, 1]), 100);
        assert_eq!(period(&[50, 50]), 2);
        assert_eq!(period(&[0, 7]), 1);
        assert_eq!(period(&[u32::MAX, 1]), 1 << 32);
        assert_eq!(period(&[]), 0);
    }

    #[test]
    fn smaller_ratios_keep_every_share() {
        assert_eq!(smaller(&[99_999, 1]), [1000, 1]);
        assert_eq!(smaller(&[30_000, 10_001]), [3, 1]);
        assert_eq!(smaller(&[0, u32::MAX]), [0, 1]);
    }
}
