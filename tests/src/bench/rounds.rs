//! Variants that take turns, and what their times say.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Effort;
use super::host::CpuTimes;

/// Share of one CPU that others may use in a round that counts.
const FOREIGN: f64 = 0.10;
/// Rounds that are tried for each that is to count.
const PATIENCE: usize = 4;

/// One of several ways to do the same.
pub(super) struct Variant<'a> {
    pub(super) name: &'a str,
    pub(super) run: Box<dyn FnMut() -> Result<f64> + 'a>,
}

/// What the variants gave, round by round.
#[derive(Debug)]
pub(super) struct Results {
    /// By variant, in order.
    pub(super) values: Vec<Vec<f64>>,
    /// Rounds that were not counted.
    pub(super) dropped: usize,
}

/// Lets the variants take turns until enough rounds were quiet. `own` are the processes that
/// belong to the measurement.
pub(super) fn compare(
    effort: &Effort<'_>,
    own: &[u32],
    variants: &mut [Variant<'_>],
) -> Result<Results> {
    let mut results = Results {
        values: vec![Vec::new(); variants.len()],
        dropped: 0,
    };
    let mut noisy: Vec<(f64, Vec<f64>)> = Vec::new();
    let own: Vec<u32> = own.iter().copied().chain([std::process::id()]).collect();
    for variant in variants.iter_mut() {
        // Warms up caches and makes series and counters.
        (variant.run)()?;
    }
    for round in 0..effort.rounds * PATIENCE {
        if effort.interrupt.happened() {
            bail!("interrupted");
        }
        let (before, start) = (CpuTimes::now(), Instant::now());
        let mut values = vec![0.0; variants.len()];
        for turn in 0..variants.len() {
            let which = (round + turn) % variants.len();
            values[which] = (variants[which].run)()?;
        }
        let foreign = CpuTimes::now().foreign(&before, &own);
        let share = share(foreign, start.elapsed());
        if share > FOREIGN {
            results.dropped += 1;
            noisy.push((share, values));
            continue;
        }
        results.push(&values);
        if results.values[0].len() == effort.rounds {
            return Ok(results);
        }
    }
    results.fill_up(noisy, effort.rounds);
    Ok(results)
}

fn share(part: Duration, whole: Duration) -> f64 {
    part.as_secs_f64() / whole.as_secs_f64().max(1e-9)
}

impl Results {
    fn push(&mut self, values: &[f64]) {
        for (list, value) in self.values.iter_mut().zip(values) {
            list.push(*value);
        }
    }

    /// On a machine that is never quiet the least noisy rounds have to do.
    fn fill_up(&mut self, mut noisy: Vec<(f64, Vec<f64>)>, rounds: usize) {
        noisy.sort_by(|a, b| a.0.total_cmp(&b.0));
        let missing = rounds - self.values[0].len();
        for (_, values) in noisy.iter().take(missing) {
            self.push(values);
        }
    }

    /// Values of a variant.
    pub(super) fn of(&self, variant: usize) -> Spread {
        Spread::of(self.values[variant].clone())
    }

    /// Ratio of one variant to another, round by round.
    pub(super) fn ratio(&self, variant: usize, to: usize) -> Spread {
        let pairs = self.values[variant].iter().zip(&self.values[to]);
        Spread::of(pairs.map(|(a, b)| a / b).collect())
    }
}

/// Median and quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) low: f64,
    pub(super) median: f64,
    pub(super) high: f64,
}

impl Spread {
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (values.len().saturating_sub(1)) as f64;
            let (below, above) = (place.floor() as usize, place.ceil() as usize);
            values.get(below).copied().unwrap_or(f64::NAN)
                + (values.get(above).copied().unwrap_or(f64::NAN)
                    - values.get(below).copied().unwrap_or(f64::NAN))
                    * place.fract()
        };
        Self {
            low: at(0.25),
            median: at(0.5),
            high: at(0.75),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_values() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0, 5.0]);
        let expected = Spread {
            low: 2.0,
            median: 3.0,
            high: 4.0,
        };
        assert_eq!(spread, expected);
        assert_eq!(Spread::of(vec![1.0, 2.0]).median, 1.5);
    }
}
