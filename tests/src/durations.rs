//! How long requests took, as the agent tells it.

use std::io;
use std::time::Duration;

use crate::agent::series;
use crate::sandbox::Sandbox;

/// A histogram as it is scraped: upper bounds in seconds, and how many kept to each.
#[derive(Debug)]
pub struct Durations(Vec<(f64, f64)>);

impl Durations {
    /// Those of all requests that the agent has counted.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn scrape(sandbox: &Sandbox) -> io::Result<Self> {
        let mut sums: Vec<(f64, f64)> = Vec::new();
        for (labels, count) in series(sandbox, "mesh_http_request_duration_seconds_bucket")? {
            let bound = labels.get("le").and_then(|bound| bound.parse().ok());
            let bound: f64 = bound.unwrap_or(f64::INFINITY);
            match sums.iter_mut().find(|(other, _)| *other == bound) {
                Some((_, sum)) => *sum += count,
                None => sums.push((bound, count)),
            }
        }
        sums.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        Ok(Self(sums))
    }

    /// What came after `before` was scraped.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        for (bound, count) in &mut self.0 {
            let earlier = before.0.iter().find(|(other, _)| other == bound);
            *count -= earlier.map_or(0.0, |(_, count)| *count);
        }
        self
    }

    /// The bucket that holds a quantile.
    pub fn quantile(&self, quantile: f64) -> usize {
        let total = self.0.last().map_or(0.0, |(_, count)| *count);
        let mut counts = self.0.iter().map(|(_, count)| *count);
        let found = counts.position(|count| count >= quantile * total);
        found.unwrap_or_default()
    }

    /// Whether a time is in the bucket or in one beside it.
    pub fn is_near(&self, bucket: usize, seconds: f64) -> bool {
        let its = self.0.iter().position(|(bound, _)| seconds <= *bound);
        its.is_some_and(|its| its.abs_diff(bucket) <= 1)
    }

    /// Such as `100µs to 250µs`.
    pub fn describe(&self, bucket: usize) -> String {
        let bound = |index: usize| self.0.get(index).map_or(0.0, |(bound, _)| *bound);
        let low = bucket.checked_sub(1).map_or(0.0, bound);
        let high = bound(bucket);
        let time = |seconds: f64| match seconds.is_finite() {
            true => format!("{:?}", Duration::from_secs_f64(seconds)),
            false => "more".into(),
        };
        format!("{} to {}", time(low), time(high))
    }
}
