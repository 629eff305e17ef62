//! The access log: every flow as a line of JSON, or an entry of the journal.
//!
//! Comes in: records, from threads that must not wait. Goes out: what a rate lets through, written
//! by a thread of its own; what is left out is counted, and said in the log itself.

mod file;
mod journal;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use self::file::LogFile;
use self::journal::Journal;
use super::lock;
use crate::config::AccessLog as Settings;
use crate::telemetry::flows::{FlowView, SCHEMA_VERSION};
use crate::telemetry::snapshot::AccessLogCounters;
use crate::telemetry::time::unix_seconds;

/// Most records that wait to be written.
const WAITING: usize = 1024;
/// How often the log says what it left out.
const SAY: Duration = Duration::from_secs(10);
/// How often a file that cannot be opened is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct AccessLog {
    queue: Option<SyncSender<Box<FlowView>>>,
    tokens: Mutex<Tokens>,
    shared: Arc<Shared>,
    /// Until it runs.
    writer: Mutex<Option<(Writer, Receiver<Box<FlowView>>)>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    written: AtomicU64,
    suppressed: AtomicU64,
    failed: AtomicU64,
    reopen: AtomicBool,
}

impl AccessLog {
    /// Prepares it; `None` if nothing is to be written.
    pub(super) fn new(settings: &Settings) -> io::Result<Option<Self>> {
        if !settings.is_on() {
            return Ok(None);
        }
        let (queue, waiting) = sync_channel(WAITING);
        let shared = Arc::<Shared>::default();
        let writer = Writer {
            file: settings.file.clone().map(LogFile::new),
            journal: settings.journald.then(Journal::new).transpose()?,
            shared: Arc::clone(&shared),
            said: 0,
            say: Instant::now() + SAY,
            opened: Instant::now(),
        };
        Ok(Some(Self {
            queue: Some(queue),
            tokens: Mutex::new(Tokens::new(settings.rate)),
            shared,
            writer: Mutex::new(Some((writer, waiting))),
            thread: Mutex::new(None),
        }))
    }

    /// Starts the thread that writes.
    pub(super) fn start(&self) -> io::Result<()> {
        if let Some((writer, waiting)) = lock(&self.writer).take() {
            let thread = thread::Builder::new()
                .name("access-log".into())
                .stack_size(256 << 10)
                .spawn(move || writer.run(&waiting))?;
            *lock(&self.thread) = Some(thread);
        }
        Ok(())
    }

    /// Writes a record, unless there are too many. Never waits.
    pub(super) fn write(&self, flow: FlowView) {
        let queue = self
            .queue
            .as_ref()
            .filter(|_| lock(&self.tokens).take(Instant::now()));
        let queued = queue.is_some_and(|queue| queue.try_send(Box::new(flow)).is_ok());
        if !queued {
            self.shared.suppressed.fetch_add(1, Relaxed);
        }
    }

    /// Opens the file again before the next record is written.
    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Relaxed);
    }

    pub(super) fn counters(&self) -> AccessLogCounters {
        AccessLogCounters {
            written: self.shared.written.load(Relaxed),
            suppressed: self.shared.suppressed.load(Relaxed),
            failed: self.shared.failed.load(Relaxed),
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(Err(_)) = lock(&self.thread).take().map(JoinHandle::join) {
            tracing::error!("the thread that writes the access log panicked");
        }
    }
}

struct Writer {
    file: Option<LogFile>,
    journal: Option<Journal>,
    shared: Arc<Shared>,
    /// What was left out when that was last said.
    said: u64,
    say: Instant,
    opened: Instant,
}

impl Writer {
    fn run(mut self, waiting: &Receiver<Box<FlowView>>) {
        self.open();
        loop {
            match waiting.recv_timeout(SAY) {
                Ok(flow) => self.record(&flow),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.say_what_is_left_out(),
            }
            if Instant::now() >= self.say {
                self.say_what_is_left_out();
            }
        }
    }

    fn record(&mut self, flow: &FlowView) {
        let missing = self.file.as_ref().is_some_and(|file| !file.is_open());
        let again = missing && self.opened.elapsed() > RETRY;
        if self.shared.reopen.swap(false, Relaxed) || again {
            self.open();
        }
        let Ok(value) = serde_json::to_value(flow) else {
            return;
        };
        let counter = match self.write(&value) {
            Ok(()) => &self.shared.written,
            Err(_) => &self.shared.failed,
        };
        counter.fetch_add(1, Relaxed);
    }

    fn write(&mut self, record: &Value) -> io::Result<()> {
        let filed = match &mut self.file {
            Some(file) => file.write(record),
            None => Ok(()),
        };
        let journalled = match &self.journal {
            Some(journal) => journal.write(record),
            None => Ok(()),
        };
        filed.and(journalled)
    }

    fn open(&mut self) {
        self.opened = Instant::now();
        let Some(file) = &mut self.file else { return };
        if let Err(error) = file.open() {
            let path = file.path().display();
            tracing::error!(%path, %error, "the access log cannot be written");
        }
    }

    fn say_what_is_left_out(&mut self) {
        self.say = Instant::now() + SAY;
        let all = self.shared.suppressed.load(Relaxed);
        if all == self.said {
            return;
        }
        let note = json!({
            "schema_version": SCHEMA_VERSION,
            "time_unix_seconds": unix_seconds(SystemTime::now()),
            "event": "suppressed",
            "suppressed": all - self.said,
        });
        if self.write(&note).is_ok() {
            self.said = all;
        }
    }
}

/// A bucket of as many tokens as come in a second.
struct Tokens {
    rate: f64,
    left: f64,
    at: Instant,
}

impl Tokens {
    fn new(rate: u32) -> Self {
        Self {
            rate: rate.into(),
            left: rate.into(),
            at: Instant::now(),
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.left = (self.left + gained).min(self.rate);
        self.at = now;
        let some = self.left >= 1.0;
        if some {
            self.left -= 1.0;
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holds_as_many_as_the_rate_says() {
        let mut tokens = Tokens::new(10);
        let start = tokens.at;
        let taken = |tokens: &mut Tokens, at| (0..100).filter(|_| tokens.take(at)).count();
        assert_eq!(taken(&mut tokens, start), 10);
        assert_eq!(taken(&mut tokens, start + Duration::from_millis(250)), 2);
        assert_eq!(taken(&mut tokens, start + Duration::from_secs(60)), 10);
    }

    #[test]
    fn what_is_left_out_is_counted_and_said() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("access.jsonl");
        let settings = Settings {
            file: Some(path.clone()),
            journald: false,
            rate: 5,
        };
        let log = AccessLog::new(&settings).expect("prepared").expect("on");
        log.start().expect("started");
        for seq in 0..50 {
            log.write(FlowView {
                seq,
                event: "close".into(),
                ..FlowView::default()
            });
        }
        let AccessLogCounters { suppressed, .. } = log.counters();
        // Not a matter of time: what is written and what is left out is everything.
        let shared = Arc::clone(&log.shared);
        drop(log);
        let text = std::fs::read_to_string(&path).expect("a file");
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let (notes, flows): (Vec<&Value>, Vec<&Value>) =
            lines.iter().partition(|line| line["event"] == "suppressed");
        assert!(suppressed > 0);
        assert_eq!(flows.len() as u64 + suppressed, 50);
        assert_eq!(shared.written.load(Relaxed), flows.len() as u64);
        let said: u64 = notes
            .iter()
            .filter_map(|note| note["suppressed"].as_u64())
            .sum();
        assert_eq!(said, suppressed);
    }
}
