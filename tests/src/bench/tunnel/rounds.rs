//! Contestants that take turns under a load, until each has been measured often enough while
//! nobody else used the machine.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Contest;
use super::contestant::Contestant;
use super::load::{Load, Sample};
use super::sample;
use super::table::{Row, render};
use crate::bench::rounds::Spread;

/// CPUs that others may use, on average, in a sample that counts.
const FOREIGN: f64 = 0.2;
/// Rounds that are tried for each that is to count.
const PATIENCE: usize = 3;
/// How long a load waits in all for others to leave the machine alone.
const WAIT: Duration = Duration::from_secs(60);
/// How long they must have done so.
const LULL: Duration = Duration::from_millis(300);

/// Puts `load` on each in turn and prints the table.
pub(super) fn compare(
    contest: &Contest<'_>,
    contestants: &[Box<dyn Contestant>],
    load: Load,
) -> Result<()> {
    println!("\n{}", load.title());
    let mut samples = vec![Samples::default(); contestants.len()];
    let mut patience = WAIT;
    for round in 0..contest.rounds * PATIENCE {
        for turn in 0..contestants.len() {
            let which = (round + turn) % contestants.len();
            if samples[which].quiet.len() == contest.rounds {
                continue;
            }
            await_lull(contest, &mut patience)?;
            let contestant = contestants[which].as_ref();
            let sample = load.run(contest.site, contestant, contest.seconds);
            samples[which].push(sample.with_context(|| contestant.name().to_owned())?);
        }
    }
    let mut rows = Vec::new();
    for (contestant, samples) in contestants.iter().zip(&mut samples) {
        let is_pair = !contestant.proxies().is_empty();
        rows.push(Row {
            name: contestant.name().to_owned(),
            values: samples.medians(contest.rounds, load.columns().len()),
            is_pair,
        });
    }
    println!("{}", render(&load.columns(), &rows));
    let noisy: usize = samples.iter().map(|samples| samples.noisy.len()).sum();
    let used: usize = samples.iter().map(|samples| samples.filled).sum();
    if noisy > 0 {
        println!(
            "  ({noisy} samples were noisy: others used the CPUs; {used} of them count here, for want of quiet ones)"
        );
    }
    Ok(())
}

/// Waits until others leave the machine alone, as long as there is patience left.
fn await_lull(contest: &Contest<'_>, patience: &mut Duration) -> Result<()> {
    loop {
        let ((), foreign) = sample::foreign_during(contest.site, || contest.wait(LULL))?;
        if foreign <= FOREIGN || patience.is_zero() {
            return Ok(());
        }
        *patience = patience.saturating_sub(LULL);
    }
}

/// What a contestant gave.
#[derive(Clone, Debug, Default)]
struct Samples {
    quiet: Vec<Sample>,
    noisy: Vec<Sample>,
    /// How many noisy ones had to do.
    filled: usize,
}

impl Samples {
    fn push(&mut self, sample: Sample) {
        if sample.foreign > FOREIGN {
            self.noisy.push(sample);
        } else {
            self.quiet.push(sample);
        }
    }

    /// The median of each column, of so many samples: the least noisy fill up the quiet ones.
    fn medians(&mut self, count: usize, columns: usize) -> Vec<f64> {
        self.noisy.sort_by(|a, b| a.foreign.total_cmp(&b.foreign));
        self.filled = count.saturating_sub(self.quiet.len()).min(self.noisy.len());
        let counted: Vec<&Sample> = self.quiet.iter().chain(&self.noisy).take(count).collect();
        let median = |column: usize| {
            let values = counted.iter().map(|sample| sample.values[column]);
            Spread::of(values.collect()).median
        };
        (0..columns).map(median).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_noisy_samples_fill_up() {
        let mut samples = Samples::default();
        for (value, foreign) in [(1.0, 0.0), (50.0, 0.9), (3.0, 0.3)] {
            let values = vec![value];
            samples.push(Sample { values, foreign });
        }
        assert_eq!(samples.medians(2, 1), [2.0]);
        assert_eq!((samples.quiet.len(), samples.filled), (1, 1));
    }
}
