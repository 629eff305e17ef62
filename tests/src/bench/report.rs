//! The table, and what of it misses a target.

use super::rounds::{Results, Spread};

/// What was measured so far; lines are printed as they come.
#[derive(Debug, Default)]
pub(super) struct Report {
    missed: Vec<String>,
    met: usize,
}

/// Nanoseconds, seconds, bytes: how a value is shown.
pub(super) type Show = fn(f64) -> String;

impl Report {
    /// Begins a section.
    pub(super) fn section(&self, title: &str) {
        println!("\n{title}");
    }

    /// Says something that is not a measurement.
    pub(super) fn note(&self, text: &str) {
        println!("  {text}");
    }

    /// Results of variants that took turns: the first is what the others are compared with.
    /// `at_most` is the target for the ratio of the second.
    pub(super) fn compared(
        &mut self,
        names: &[&str],
        results: &Results,
        show: Show,
        at_most: Option<f64>,
    ) {
        for (which, name) in names.iter().enumerate() {
            let value = show(results.of(which).median);
            if which == 0 {
                println!("  {name:<34} {value:>12}");
                continue;
            }
            let ratio = results.ratio(which, 0);
            let verdict = match at_most.filter(|_| which == 1) {
                Some(most) => self.judge(name, ratio.median <= most, &format!("<= {most:.2}")),
                None => String::new(),
            };
            println!("  {name:<34} {value:>12}   {} {verdict}", show_ratio(ratio));
        }
        if results.dropped > 0 {
            println!(
                "  ({} rounds were not counted: others used the CPUs)",
                results.dropped
            );
        }
    }

    /// One value.
    pub(super) fn value(&mut self, name: &str, value: &str, target: Option<(&str, bool)>) {
        let verdict = target.map(|(target, met)| self.judge(name, met, target));
        println!("  {name:<34} {value:>12}   {}", verdict.unwrap_or_default());
    }

    fn judge(&mut self, name: &str, met: bool, target: &str) -> String {
        if met {
            self.met += 1;
            return format!("PASS ({target})");
        }
        self.missed.push(format!("{name}: {target}"));
        format!("MISS ({target})")
    }

    /// How many targets were missed.
    pub(super) fn misses(&self) -> usize {
        self.missed.len()
    }

    /// The end of it all.
    pub(super) fn verdict(&self) -> String {
        let mut text = format!("\n{} targets met, {} missed\n", self.met, self.missed.len());
        for missed in &self.missed {
            text += &format!("  MISS  {missed}\n");
        }
        text
    }
}

fn show_ratio(ratio: Spread) -> String {
    let Spread { low, median, high } = ratio;
    format!("x {median:.3} [{low:.3}..{high:.3}]")
}

/// Nanoseconds.
pub(super) fn micros(ns: f64) -> String {
    format!("{:.2} us", ns / 1e3)
}

/// Nanoseconds for one byte, as a rate.
pub(super) fn rate(ns_per_byte: f64) -> String {
    format!("{:.1} Gbit/s", 8.0 / ns_per_byte)
}

/// Bytes.
pub(super) fn mebibytes(bytes: f64) -> String {
    format!("{:.2} MiB", bytes / f64::from(1 << 20))
}

/// Seconds.
pub(super) fn millis(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}
