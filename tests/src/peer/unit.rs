//! What a unit of systemd runs, which nobody asks anything once it has started: a server, or a caller
//! that counts what comes of its calls.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::protocol::Dial;
use super::{dial, serve};

/// In place of an address: the listening socket that systemd passes as standard input.
const ACTIVATED: &str = "stdin";
/// Between two calls.
const PAUSE: Duration = Duration::from_millis(2);

/// Serves TCP under `label` at `address` and never ends.
pub(super) fn serve(address: &str, label: &str) -> Result<()> {
    let tally = Arc::default();
    if address == ACTIVATED {
        let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
        serve::tcp_at(listener, label.to_owned(), tally)?;
    } else {
        serve::tcp(address.parse()?, label.to_owned(), tally)?;
    }
    if let Some(manager) = env::var_os("NOTIFY_SOCKET") {
        UnixDatagram::unbound()?.send_to(b"READY=1", manager)?;
    }
    loop {
        thread::park();
    }
}

/// Calls again and again; `path` has how often what came of it.
pub(super) fn probe(request: &str, path: &Path) -> Result<()> {
    let request: Dial = serde_json::from_str(request)?;
    let next = path.with_extension("next");
    let mut seen = BTreeMap::<String, u64>::new();
    loop {
        let outcome = dial::once(&request).outcome;
        *seen.entry(outcome.word().to_owned()).or_default() += 1;
        fs::write(&next, serde_json::to_vec(&seen)?)?;
        fs::rename(&next, path).with_context(|| path.display().to_string())?;
        thread::sleep(PAUSE);
    }
}
