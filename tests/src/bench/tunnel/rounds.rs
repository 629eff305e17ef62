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
    for (contestant, samples) in contestants.iter().zip(&samples) {
        rows.push(Row {
            name: contestant.name().to_owned(),
            values: samples.medians(contest.rounds, load.columns().len()),
            kind: contestant.kind(),
        });
    }
    println!("{}", render(&load.columns(), &rows));
    for contestant in contestants {
        if let Some(remark) = contestant.remark()? {
            println!("  {}: {remark}", contestant.name());
        }
    }
    println!("{}", noise(&samples, contest.rounds));
    Ok(())
}

/// How much others used the machine, and what became of it.
fn noise(samples: &[Samples], rounds: usize) -> String {
    let dropped: usize = samples.iter().map(|samples| samples.dropped(rounds)).sum();
    let counted = || samples.iter().flat_map(|samples| samples.counted(rounds));
    let noisy = counted().filter(|sample| sample.foreign > FOREIGN).count();
    let foreign = Spread::of(counted().map(|sample| sample.foreign).collect());
    let mut text = format!(
        "  (others used {:.2} CPUs in the median sample",
        foreign.median
    );
    if dropped > 0 {
        text += &format!("; {dropped} noisy samples do not count");
    }
    if noisy > 0 {
        text += &format!("; {noisy} noisy ones had to do, for want of quiet ones");
    }
    text + ")"
}

/// Waits until others leave the machine alone, as long as there is patience left.
fn await_lull(contest: &Contest<'_>, patience: &mut Duration) -> Result<()> {
    loop {
        let ((), foreign) = sample::foreign_during(contest.site, &[], || contest.wait(LULL))?;
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
    /// The least noisy first.
    noisy: Vec<Sample>,
}

impl Samples {
    fn push(&mut self, sample: Sample) {
        if sample.foreign <= FOREIGN {
            self.quiet.push(sample);
            return;
        }
        let less = |other: &Sample| other.foreign <= sample.foreign;
        self.noisy.insert(self.noisy.partition_point(less), sample);
    }

    /// So many samples: the least noisy fill up the quiet ones.
    fn counted(&self, count: usize) -> impl Iterator<Item = &Sample> {
        self.quiet.iter().chain(&self.noisy).take(count)
    }

    fn dropped(&self, count: usize) -> usize {
        (self.quiet.len() + self.noisy.len()).saturating_sub(count)
    }

    /// The median of each column of the samples that count.
    fn medians(&self, count: usize, columns: usize) -> Vec<f64> {
        let median = |column: usize| {
            let values = self.counted(count).map(|sample| sample.values[column]);
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
        for (value, foreign) in [(50.0, 0.9), (1.0, 0.0), (3.0, 0.3)] {
            let values = vec![value];
            samples.push(Sample { values, foreign });
        }
        assert_eq!(samples.medians(2, 1), [2.0]);
        assert_eq!(samples.dropped(2), 1);
    }
}
