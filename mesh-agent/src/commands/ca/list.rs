//! Lists what was issued.

use std::path::Path;

use serde::Serialize;
use time::OffsetDateTime;

use super::authority::seconds;
use super::directory::Directory;
use super::error::CaError;
use super::index::{Entry, SCHEMA_VERSION};
use crate::commands::output::{Output, table};
use crate::telemetry::time::utc;

/// The document.
#[derive(Debug, Serialize)]
struct List<'a> {
    schema_version: u32,
    trust_domain: &'a str,
    roots: Vec<RootView<'a>>,
    certificates: Vec<View<'a>>,
}

#[derive(Debug, Serialize)]
struct RootView<'a> {
    number: u32,
    subject: &'a str,
    serial: String,
    expires: String,
}

#[derive(Debug, Serialize)]
struct View<'a> {
    serial: &'a str,
    identity: &'a str,
    node: &'a str,
    root: u32,
    issued: String,
    expires: String,
    /// `valid`, `expired` or `revoked`.
    state: &'static str,
    revoked: Option<String>,
}

/// Shows it.
pub(super) fn list(path: &Path, output: Output) -> Result<String, CaError> {
    let directory = Directory::open(path)?;
    let now = seconds(OffsetDateTime::now_utc());
    let certificates = directory
        .index
        .issued
        .iter()
        .map(|entry| View::of(entry, now));
    let document = List {
        schema_version: SCHEMA_VERSION,
        trust_domain: &directory.index.trust_domain,
        roots: roots(&directory),
        certificates: certificates.collect(),
    };
    match output {
        Output::Table => Ok(document.table()),
        Output::Json => serde_json::to_string_pretty(&document)
            .map(|json| json + "\n")
            .map_err(|error| CaError::file(path, error)),
    }
}

fn roots(directory: &Directory) -> Vec<RootView<'_>> {
    let roots = directory.roots.iter().map(|root| RootView {
        number: root.number,
        subject: &root.facts.subject,
        serial: root.facts.serial.to_string(),
        expires: utc(root.facts.not_after.as_secs() as f64),
    });
    roots.collect()
}

impl<'a> View<'a> {
    fn of(entry: &'a Entry, now: u64) -> Self {
        Self {
            serial: &entry.serial,
            identity: &entry.identity,
            node: &entry.node,
            root: entry.root,
            issued: utc(entry.not_before as f64),
            expires: utc(entry.not_after as f64),
            state: entry.state(now),
            revoked: entry.revoked.map(|at| utc(at as f64)),
        }
    }
}

impl List<'_> {
    fn table(&self) -> String {
        let head = ["IDENTITY", "NODE", "STATE", "EXPIRES", "SERIAL"].map(String::from);
        let roots = self.roots.iter().map(|root| {
            let name = format!("root {}", root.number);
            [&name, "-", "root", &root.expires, &root.serial].map(String::from)
        });
        let certificates = self.certificates.iter().map(|one| {
            [one.identity, one.node, one.state, &one.expires, one.serial].map(String::from)
        });
        let rows: Vec<_> = std::iter::once(head)
            .chain(roots)
            .chain(certificates)
            .collect();
        table(&rows)
    }
}
