//! The machine's own systemd, and units of it that tests make. Only in a guest of
//! `cargo xtask vm --systemd`: nothing here keeps to a sandbox.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::guest;
use crate::patience::scaled;
use crate::peer::{Dial, Outcome, binary};

/// What callers write, which does not outlive a boot.
const SEEN: &str = "/run/shop";

/// A unit; dropping it stops it and removes its file.
#[derive(Debug)]
pub struct Unit {
    name: String,
    /// Where its file is.
    path: PathBuf,
}

impl Unit {
    /// Makes the unit `name`, such as `a.service`, of the text of its file, until the next boot.
    ///
    /// # Panics
    ///
    /// This is no guest, or it cannot be made.
    pub fn new(name: &str, text: &str) -> Self {
        Self::at(Path::new("/run/systemd/system"), name, text)
    }

    /// Makes one that the next boot finds as well, and starts. It is not removed.
    ///
    /// # Panics
    ///
    /// As [`Self::new`].
    pub fn install(name: &str, text: &str) {
        let unit = Self::at(Path::new("/etc/systemd/system"), name, text);
        run("systemctl", &["enable", "--quiet", name]);
        std::mem::forget(unit);
    }

    fn at(directory: &Path, name: &str, text: &str) -> Self {
        guest::systemd_required().expect("a guest");
        let path = directory.join(name);
        fs::create_dir_all(SEEN).expect("a directory");
        fs::create_dir_all(directory).expect("a directory");
        fs::write(&path, text).expect("written");
        run("systemctl", &["daemon-reload"]);
        let name = name.to_owned();
        Self { name, path }
    }

    /// A service that serves TCP under `label` at `address`, not yet started.
    ///
    /// # Panics
    ///
    /// As [`Self::new`].
    pub fn server(name: &str, address: &str, label: &str) -> Self {
        let unit = Self::new(name, &server(address, label, ""));
        unit.start();
        unit
    }

    /// A service that makes a call each time it is started, as the first thing it does.
    ///
    /// # Panics
    ///
    /// As [`Self::new`].
    pub fn caller(name: &str, dial: &Dial, settings: &str) -> Self {
        let unit = Self::new(name, &caller(name, dial, settings));
        let _ = fs::remove_file(seen(name));
        unit
    }

    /// A service that calls again and again from now on.
    ///
    /// # Panics
    ///
    /// As [`Self::new`].
    pub fn prober(name: &str, dial: &Dial) -> Self {
        let unit = Self::new(name, &prober(name, dial, ""));
        let _ = fs::remove_file(seen(name));
        unit.start();
        unit
    }

    /// Starts it, and waits until systemd holds it for started.
    ///
    /// # Panics
    ///
    /// It does not start; with what it logged.
    pub fn start(&self) {
        self.systemctl("start");
    }

    /// Stops it, if it runs, and starts it.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub fn restart(&self) {
        self.systemctl("restart");
    }

    fn systemctl(&self, verb: &str) {
        let (good, said) = attempt("systemctl", &[verb, &self.name]);
        if !good {
            let log = run("journalctl", &["--no-pager", "-n30", "-u", &self.name]);
            panic!("systemctl {verb} {}: {said}\n{log}", self.name);
        }
    }

    /// What came of the calls so far, in order, of a [`Self::caller`].
    ///
    /// # Panics
    ///
    /// It wrote something else.
    pub fn outcomes(&self) -> Vec<String> {
        let text = fs::read_to_string(seen(&self.name)).unwrap_or_default();
        let parse = |line| serde_json::from_str::<Vec<Outcome>>(line).expect("outcomes");
        let outcomes = text.lines().flat_map(parse);
        outcomes.map(|outcome| outcome.word().to_owned()).collect()
    }

    /// Starts a [`Self::caller`]: what came of its call.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub fn call(&self) -> String {
        self.restart();
        self.outcomes().pop().unwrap_or_default()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // It may never have run.
        attempt("systemctl", &["stop", &self.name]);
        let _ = fs::remove_file(&self.path);
        attempt("systemctl", &["daemon-reload"]);
        attempt("systemctl", &["reset-failed", &self.name]);
    }
}

/// The file of a service that serves TCP under `label` at `address`, which is `stdin` for a socket
/// that systemd listens at; with more lines of any section.
pub fn server(address: &str, label: &str, more: &str) -> String {
    let peer = binary();
    let peer = peer.display();
    format!("[Service]\nType=notify\nExecStart={peer} serve {address} {label}\n{more}\n")
}

/// The file of a service that calls once.
pub fn caller(name: &str, dial: &Dial, more: &str) -> String {
    let command = command("dial", dial);
    let seen = seen(name);
    let seen = seen.display();
    format!("[Service]\nType=oneshot\nExecStart={command}\nStandardOutput=append:{seen}\n{more}\n")
}

/// The file of a service that calls again and again.
pub fn prober(name: &str, dial: &Dial, more: &str) -> String {
    let command = command("probe", dial);
    let seen = seen(name);
    let seen = seen.display();
    format!("[Service]\nExecStartPre=mkdir -p {SEEN}\nExecStart={command} {seen}\n{more}\n")
}

/// A command of a peer, in systemd's quotes.
fn command(word: &str, dial: &Dial) -> String {
    let peer = binary();
    let dial = serde_json::to_string(dial).unwrap_or_default();
    format!("{} {word} '{dial}'", peer.display())
}

fn seen(unit: &str) -> PathBuf {
    Path::new(SEEN).join(unit).with_extension("seen")
}

/// How often what came of the calls of a prober.
///
/// # Panics
///
/// There is no such prober.
pub fn probed(unit: &str) -> BTreeMap<String, u64> {
    let path = seen(unit);
    wait_until("the prober has called", || path.exists());
    let text = fs::read(&path).expect("a prober");
    serde_json::from_slice(&text).expect("counts")
}

/// What the mesh's units have said lately.
fn journal() -> String {
    attempt(
        "journalctl",
        &["-b", "-u", "mesh*", "-n", "60", "--no-pager"],
    )
    .1
}

/// Runs a command and returns all it printed.
///
/// # Panics
///
/// It fails; with what it printed.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> String {
    let (good, said) = attempt(program, arguments);
    assert!(good, "{program} {arguments:?}:\n{said}\n{}", journal());
    said
}

/// Runs a command: whether it succeeded, and all it printed.
///
/// # Panics
///
/// It cannot be run.
#[track_caller]
pub fn attempt(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NO_COLOR", "1")
        // Of a manager that is emulated.
        .env("SYSTEMD_BUS_TIMEOUT", "600")
        .output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    (output.status.success(), said)
}

/// A property of a unit.
///
/// # Panics
///
/// systemd does not answer.
#[track_caller]
pub fn property(unit: &str, name: &str) -> String {
    run("systemctl", &["show", "--value", "-p", name, unit])
}

/// Waits until something holds.
///
/// # Panics
///
/// It does not within 20 seconds, or as many as it is here.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = scaled(Duration::from_secs(20));
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "not within {limit:?}: {what}\n{}",
            attempt(
                "journalctl",
                &["-b", "-u", "mesh*", "-n", "60", "--no-pager"]
            )
            .1
        );
        sleep(Duration::from_millis(20));
    }
}
