//! The documents about services: computed at most once in a while, whoever asks, and sampled
//! only while somebody does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use tokio::time::sleep;

use super::Source;
use super::scrape::Kept;
use super::single::Single;
use crate::telemetry::observer::Observer;

/// How often it is sampled while somebody is interested but asks seldom.
const SAMPLE: Duration = Duration::from_secs(5);
/// For how long somebody who has asked is interested.
const INTEREST: Duration = Duration::from_secs(60);
/// Most documents of one sample that are kept.
const MOST_KEPT: usize = 8;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paper {
    Services,
    Graph,
}

/// Makes documents of what a source has; keeps them while they are fresh.
pub(super) struct Observatory {
    source: Arc<dyn Source>,
    observer: Observer,
    kept: Kept<Vec<((Paper, Duration), Bytes)>>,
    sampled: Instant,
    asked: Instant,
    /// Whether somebody calls [`Self::sample`].
    watched: bool,
}

impl Observatory {
    pub(super) fn new(source: Arc<dyn Source>, series: usize) -> Self {
        Self {
            source,
            observer: Observer::new(series),
            kept: Kept::default(),
            sampled: Instant::now(),
            asked: Instant::now(),
            watched: false,
        }
    }

    /// A document, and whether the caller has to see to it that samples are taken from now on.
    pub(super) fn answer(&mut self, paper: Paper, window: Duration) -> (Bytes, bool) {
        self.asked = Instant::now();
        let begins = !std::mem::replace(&mut self.watched, true);
        (self.document(paper, window), begins)
    }

    fn document(&mut self, paper: Paper, window: Duration) -> Bytes {
        let Self {
            source,
            observer,
            kept,
            sampled,
            ..
        } = self;
        let documents = kept.get_or(|| {
            observer.take(source.snapshot(), source.declared());
            *sampled = Instant::now();
            Vec::new()
        });
        let wanted = (paper, window);
        if let Some((_, document)) = documents.iter().find(|(is, _)| *is == wanted) {
            return document.clone();
        }
        let document = Bytes::from(match paper {
            Paper::Services => to_json(&observer.services(window)),
            Paper::Graph => to_json(&observer.graph(window)),
        });
        if documents.len() < MOST_KEPT {
            documents.push((wanted, document.clone()));
        }
        document
    }

    /// Takes a sample if it is time; `false` once nobody is interested any more.
    fn sample(&mut self) -> bool {
        self.kept.expire();
        if self.asked.elapsed() > INTEREST {
            self.observer.forget();
            self.watched = false;
        } else if self.sampled.elapsed() >= SAMPLE {
            self.observer
                .take(self.source.snapshot(), self.source.declared());
            self.sampled = Instant::now();
        }
        self.watched
    }
}

/// Samples while somebody is interested.
pub(super) async fn watch(observatory: Single<Observatory>) {
    loop {
        sleep(SAMPLE).await;
        // Where it fails, it is tried again.
        if observatory.run(Observatory::sample).await == Ok(false) {
            return;
        }
    }
}

fn to_json(document: &impl serde::Serialize) -> Vec<u8> {
    // Numbers, strings and lists always can be written.
    let mut body = serde_json::to_vec(document).unwrap_or_default();
    body.push(b'\n');
    body
}
