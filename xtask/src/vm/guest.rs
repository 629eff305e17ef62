//! A guest from the outside: an emulator, two serial lines and a time limit.
//!
//! The kernel's messages go to a file, the report of the tests comes in as JSON, one event per
//! line. Whatever does not arrive did not happen.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::image::Image;
use super::kernel::Kernel;
use super::programs::{CPUS, Plan};
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
        image: &Image,
        plan: &Plan,
        deadline: Instant,
        disk: Option<&Path>,
    ) -> Result<Report> {
        let console = place.join("console.log");
        let mut command = emulator(kernel, variant, image, &console);
        if let Some(disk) = disk {
            let drive = format!("file={},format=raw,if=virtio", disk.display());
            command.args(["-drive", &drive]);
        }
        let started = Instant::now();
        let mut emulator = command.spawn().context("cannot run qemu-system-x86_64")?;
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

/// KVM is not used even where it is there: results shall not depend on where this runs.
fn emulator(kernel: &Kernel, variant: &Variant, image: &Image, console: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-smp", &CPUS.to_string(), "-m", MEMORY])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .arg("-no-reboot")
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(image.path())
        .args([
            "-append",
            &format!("{COMMAND_LINE} {}", variant.command_line),
        ])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
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

const MEMORY: &str = "2048M";
/// A panic ends the emulator. Without the mitigations, which slow emulation down by a third,
/// the verifier and the programs are the same; the watchdogs would bark at a busy host.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 mitigations=off nowatchdog nosoftlockup \
                            rcupdate.rcu_cpu_stall_suppress=1";
