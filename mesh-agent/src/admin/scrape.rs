//! Scrapes: computed at most once in a while, whoever asks.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::Bytes;
use mesh_sys::memory;

use super::Source;
use super::limits::FRESH;
use crate::telemetry::exposition::{Format, Packer};
use crate::telemetry::registry::{Exporter, View};

/// Bodies from which on the memory that they took is given back to the kernel, bytes.
const LARGE: usize = 1 << 20;

/// Something computed a moment ago.
#[derive(Debug)]
pub(super) struct Kept<T>(Option<(Instant, T)>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Kept<T> {
    /// What is kept if it is fresh, else what `compute` gives.
    pub(super) fn get_or(&mut self, compute: impl FnOnce() -> T) -> &mut T {
        self.expire();
        &mut self.0.get_or_insert_with(|| (Instant::now(), compute())).1
    }

    /// Forgets what is not fresh, and says what it was.
    pub(super) fn expire(&mut self) -> Option<T> {
        let stale = self.0.take_if(|(at, _)| at.elapsed() >= FRESH);
        stale.map(|(_, stale)| stale)
    }
}

/// Renders what a source has; keeps the result while it is fresh.
pub(super) struct Scraper {
    source: Arc<dyn Source>,
    exporter: Exporter,
    kept: Kept<Rendered>,
    /// Length of the last body that was not packed: the next one need not be moved as it grows.
    length: usize,
}

struct Rendered {
    view: View,
    bodies: Vec<((Format, bool), Bytes)>,
}

impl Scraper {
    pub(super) fn new(source: Arc<dyn Source>, exporter: Exporter) -> Self {
        Self {
            source,
            exporter,
            kept: Kept::default(),
            length: 0,
        }
    }

    /// Frees what is not fresh: bodies can be larger than the rest of the agent.
    pub(super) fn expire(&mut self) {
        let Some(stale) = self.kept.expire() else {
            return;
        };
        let length: usize = stale.bodies.iter().map(|(_, body)| body.len()).sum();
        drop(stale);
        if length >= LARGE {
            // Freed memory stays with the process otherwise.
            memory::give_back();
        }
    }

    /// Whether nothing is kept, so that the next body is a new snapshot's.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.0.is_none()
    }

    /// The body in a format, compressed if `packed`.
    pub(super) fn body(&mut self, format: Format, packed: bool) -> Bytes {
        let Self {
            source,
            exporter,
            kept,
            length,
        } = self;
        let rendered = kept.get_or(|| Rendered {
            view: exporter.view(source.snapshot()),
            bodies: Vec::new(),
        });
        let wanted = (format, packed);
        if let Some((_, body)) = rendered.bodies.iter().find(|(is, _)| *is == wanted) {
            return body.clone();
        }
        let body = match packed {
            true => pack(exporter, &rendered.view, format),
            false => {
                let body = exporter.render(&rendered.view, format, *length + *length / 16);
                *length = body.len();
                body.into_bytes()
            }
        };
        let body = Bytes::from(body);
        rendered.bodies.push((wanted, body.clone()));
        body
    }
}

fn pack(exporter: &Exporter, view: &View, format: Format) -> Vec<u8> {
    let mut packer = Packer::default();
    let written = exporter.write(&mut packer, view, format);
    let body = written.and_then(|()| packer.finish().ok().ok_or(fmt::Error));
    // Writing to memory does not fail; an empty body would be noticed as a failed scrape.
    body.unwrap_or_default()
}
