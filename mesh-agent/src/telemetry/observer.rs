//! From snapshots to the documents of the API: remembers for a while what was counted, and by
//! whom it was asked.

use std::time::{Duration, Instant, SystemTime};

use super::declared::Declared;
use super::graph::Graph;
use super::services::{Scene, Services};
use super::shares::Shares;
use super::snapshot::{Snapshot, SplitSeries};
use super::time::unix_seconds;
use super::window::Window;

/// How far back rates can reach.
pub const LONGEST: Duration = super::window::LONGEST;

/// See the module.
#[derive(Debug)]
pub struct Observer {
    window: Window,
    at: Instant,
    time_unix_seconds: f64,
    declared: Vec<Declared>,
    splits: Vec<SplitSeries>,
}

impl Observer {
    /// One that shows at most `series` pairs of services on their own.
    pub fn new(series: usize) -> Self {
        Self {
            window: Window::new(series),
            at: Instant::now(),
            time_unix_seconds: 0.0,
            declared: Vec::new(),
            splits: Vec::new(),
        }
    }

    /// Takes in what is counted now.
    pub fn take(&mut self, snapshot: Snapshot, declared: Vec<Declared>) {
        self.at = Instant::now();
        self.time_unix_seconds = unix_seconds(SystemTime::now());
        self.window.take(self.at, &snapshot);
        self.declared = declared;
        self.splits = snapshot.splits;
    }

    /// Forgets what rates are made of.
    pub fn forget(&mut self) {
        self.window.forget();
    }

    /// Services, with rates over about `window`.
    pub fn services(&self, window: Duration) -> Services {
        Services::new(&self.scene(window))
    }

    /// Who calls whom, with rates over about `window`.
    pub fn graph(&self, window: Duration) -> Graph {
        Graph::new(&self.scene(window))
    }

    fn scene(&self, window: Duration) -> Scene<'_> {
        Scene {
            time_unix_seconds: self.time_unix_seconds,
            declared: &self.declared,
            shares: Shares::new(&self.splits),
            measured: self.window.over(self.at, window),
        }
    }
}

#[cfg(test)]
mod tests;
