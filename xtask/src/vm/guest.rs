//! A guest from the outside: an emulator, two serial lines and a time limit.
//!
//! The kernel's messages go to a file, the report of the tests comes in as JSON, one event per
//! line. Whatever does not arrive did not happen.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::kernel::Kernel;
use super::programs::Plan;
use super::report::Report;
use super::variant::Variant;

/// See `mesh_tests::guest::Event`.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Event {
    Boot {
        kernel: String,
    },
    Begin {
        test: String,
    },
    End {
        test: String,
        outcome: Outcome,
        seconds: f64,
        said: String,
    },
    Done,
}

/// See `mesh_tests::guest::Outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Passed,
    Failed,
    Skipped,
    Optional,
}

/// A running emulator; dropping it kills it.
pub(super) struct Guest {
    emulator: Child,
}

impl Guest {
    /// Boots a guest, listens until it is done, and tells what it said.
    pub(super) fn boot(
        place: &Path,
        kernel: &Kernel,
        variant: &Variant,
        initrd: &Path,
        plan: &Plan,
        deadline: Instant,
        disks: &[&Path],
    ) -> Result<Report> {
        let console = place.join("console.log");
        let hardware = variant.hardware;
        let words = variant.command_line;
        let mut command = hardware.command(&kernel.image(), initrd, words, &console);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        for disk in disks {
            let drive = format!("file={},format=raw,if=virtio", disk.display());
            command.args(["-drive", &drive]);
        }
        let started = Instant::now();
        let emulator = command.spawn();
        let mut emulator = emulator.with_context(|| format!("cannot run {}", hardware.emulator))?;
        let line = emulator.stdout.take().context("no pipe")?;
        let mut guest = Self { emulator };
        let mut report = Report::new(variant, plan);
        guest.listen(&lines(line), deadline, &mut report);
        drop(guest);
        let messages = fs::read(&console).unwrap_or_default();
        report.end(started.elapsed(), &String::from_utf8_lossy(&messages));
        Ok(report)
    }

    /// Takes events in until there are no more: the guest is done, has died, or took too long.
    fn listen(&mut self, lines: &Receiver<String>, deadline: Instant, report: &mut Report) {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) => report.take(&line),
                Err(_) => break,
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Either may fail because it has ended already.
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

/// Lines as they arrive, so that waiting for one can be limited.
fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
