//! A real web server and a real client of it: nginx and wrk.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::in_cgroup;
use crate::patience::scaled;

/// How long a server may take to start.
const START: Duration = Duration::from_secs(10);
/// How long wrk may take at most, seconds.
const WRK_LIMIT: u64 = 900;
/// How finely times are told apart: neighbours differ by a sixteenth.
const STEPS: f64 = 16.0;

/// Why this cannot run here.
pub fn missing() -> Option<&'static str> {
    for (program, flag) in [("nginx", "-v"), ("wrk", "-v")] {
        let found = Command::new(program)
            .arg(flag)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err() {
            return Some("needs nginx and wrk (Debian packages nginx and wrk)");
        }
    }
    None
}

/// Runs `start` without blocked signals, which what it starts would inherit.
fn open_to_signals<T: Send>(start: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let started = thread::scope(|scope| {
        let unblocked = || {
            SigSet::empty().thread_set_mask()?;
            start()
        };
        scope.spawn(unblocked).join()
    });
    started.unwrap_or_else(|panic| resume_unwind(panic))
}

/// A running nginx; dropping it ends it.
#[derive(Debug)]
pub struct Nginx {
    child: Child,
}

impl Nginx {
    /// Starts one in the cgroup at `cgroup`, with its files in `directory`, and waits until it
    /// listens at all of `listen`, which are addresses with what else its `listen` takes. `locations` are those of its one server.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn start(
        cgroup: &Path,
        directory: &Path,
        listen: &[impl Display],
        locations: &str,
    ) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let configuration = directory.join("nginx.conf");
        fs::write(&configuration, text(listen, locations))?;
        let child = in_cgroup(cgroup, "nginx")
            .arg("-p")
            .arg(directory)
            .arg("-c")
            .arg(&configuration)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let nginx = Self { child };
        let deadline = Instant::now() + scaled(START);
        let written = || fs::read_to_string(directory.join("nginx.pid"));
        while !written().is_ok_and(|pid| !pid.is_empty()) {
            if Instant::now() > deadline {
                let log = fs::read_to_string(directory.join("error.log"));
                return Err(io::Error::other(log.unwrap_or_default()));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        // It ends its workers with it; it may have ended already.
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn text(listen: &[impl Display], locations: &str) -> String {
    let listen: String = listen
        .iter()
        .map(|address| format!("    listen {address};\n"))
        .collect();
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid nginx.pid;\nerror_log error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 100000000;\n  client_body_temp_path body;\n  \
         proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n  uwsgi_temp_path uwsgi;\n  \
         scgi_temp_path scgi;\n  client_max_body_size 0;\n  server {{\n{listen}{locations}\n  }}\n}}\n"
    )
}

/// What wrk is asked for.
#[derive(Clone, Debug)]
pub struct Load {
    /// What is called.
    pub to: SocketAddr,
    /// The path.
    pub path: String,
    /// Connections, each with a thread of its own.
    pub connections: u64,
    /// Requests on each of them.
    pub requests: u64,
    /// One of so many on each connection is for `/fail`; 0 for none.
    pub fail_every: u64,
}

/// What wrk has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Requests that were answered.
    pub requests: u64,
    /// Of those, answered with 400 or above.
    pub errors: u64,
    /// Connections that failed, and what could not be read.
    pub failures: u64,
    /// Bytes of all requests.
    pub sent_bytes: u64,
    /// Bytes of all answers.
    pub received_bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// Latencies that 50, 90 and 99 of 100 requests kept to.
    pub quantiles: [Duration; 3],
}

impl Load {
    /// Runs wrk in the cgroup at `cgroup` until every connection has had its requests answered,
    /// and none is under way. Its files go to `directory`.
    ///
    /// # Errors
    ///
    /// It does not run, or what it says makes no sense.
    pub fn run(&self, cgroup: &Path, directory: &Path) -> io::Result<Seen> {
        let done = directory.join("done");
        // What an earlier run has left.
        let _ = fs::remove_dir_all(&done);
        fs::create_dir_all(&done)?;
        let script = directory.join("load.lua");
        fs::write(&script, self.script(&done))?;
        let connections = self.connections.to_string();
        let mut wrk = in_cgroup(cgroup, "wrk");
        wrk.args(["-t", &connections, "-c", &connections])
            .args(["-d", &format!("{WRK_LIMIT}s"), "--timeout", "60s", "-s"])
            .arg(&script)
            .arg(format!("http://{}{}", self.to, self.path))
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = open_to_signals(|| wrk.spawn())?;
        let begun = Instant::now();
        while count(&done) < self.connections && child.try_wait()?.is_none() {
            if begun.elapsed() > Duration::from_secs(WRK_LIMIT) {
                break;
            }
            sleep(Duration::from_millis(2));
        }
        let took = begun.elapsed();
        // Its main thread sleeps until its time is over, or a signal.
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGINT);
        let mut output = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut output)?;
        }
        child.wait()?;
        read(&output, took).ok_or_else(|| io::Error::other(output))
    }

    fn script(&self, done: &Path) -> String {
        let Self {
            path,
            requests,
            fail_every,
            ..
        } = self;
        let done = done.display();
        format!(
            "-- wrk adds latencies that it thinks others would have had; these are those that were.
local ffi = require('ffi')
ffi.cdef[[typedef struct {{ long s; long ns; }} moment; int clock_gettime(int, moment *);]]
local moment = ffi.new('moment')
local function now()
  ffi.C.clock_gettime(1, moment)
  return tonumber(moment.s) * 1e6 + tonumber(moment.ns) / 1e3
end
local number, all = 0, {{}}
function setup(thread)
  number = number + 1
  thread:set('id', number)
  all[number] = thread
end
function init(args)
  good, bad = wrk.format('GET', '{path}'), wrk.format('GET', '/fail')
  sent, asked = 0, 0
end
function request()
  asked = asked + 1
  local is_bad = {fail_every} > 0 and asked % {fail_every} == 0
  local text = is_bad and bad or good
  sent = sent + #text
  begun = now()
  return text
end
local left, times = {requests}, {{}}
function response(status)
  local step = math.floor(math.log(math.max(now() - begun, 1)) * {STEPS})
  times[step] = (times[step] or 0) + 1
  left = left - 1
  if left == 0 then
    local text = {{}}
    for step, count in pairs(times) do text[#text + 1] = step .. '=' .. count end
    seen = table.concat(text, ' ')
    wrk.thread:stop()
    io.open('{done}/' .. id, 'w'):close()
  end
end
function done(summary, latency, requests)
  -- One request was made only to be looked at.
  local e, bytes = summary.errors, -#all[1]:get('good')
  for _, thread in ipairs(all) do
    bytes = bytes + thread:get('sent')
    io.write('times ' .. thread:get('seen') .. '\\n')
  end
  io.write(string.format('seen %d %d %d %d %d\\n', summary.requests, e.status,
    e.connect + e.read + e.write + e.timeout, bytes, summary.bytes))
end
"
        )
    }
}

fn count(directory: &PathBuf) -> u64 {
    fs::read_dir(directory).map_or(0, |entries| entries.count() as u64)
}

/// Of the times of all connections.
fn quantiles(output: &str) -> [Duration; 3] {
    let mut times = BTreeMap::<u32, u64>::new();
    let lines = output
        .lines()
        .filter_map(|line| line.strip_prefix("times "));
    let pairs = lines.flat_map(str::split_whitespace);
    for (step, count) in pairs.filter_map(|pair| pair.split_once('=')) {
        if let (Ok(step), Ok(count)) = (step.parse(), count.parse::<u64>()) {
            *times.entry(step).or_default() += count;
        }
    }
    let total: u64 = times.values().sum();
    [0.5, 0.9, 0.99].map(|share| {
        let mut left = (share * total as f64).ceil() as u64;
        let holds = |count: u64| {
            let is_it = left <= count;
            left = left.saturating_sub(count);
            is_it
        };
        let step = times.values().copied().map(holds).position(|is_it| is_it);
        let step = step.and_then(|at| times.keys().nth(at));
        let micros = (f64::from(step.copied().unwrap_or_default()) / STEPS).exp();
        Duration::from_secs_f64(micros / 1e6)
    })
}

fn read(output: &str, took: Duration) -> Option<Seen> {
    let line = output.lines().find_map(|line| line.strip_prefix("seen "))?;
    let numbers: Vec<u64> = line.split(' ').filter_map(|n| n.parse().ok()).collect();
    let [requests, errors, failures, sent_bytes, received_bytes] = numbers[..] else {
        return None;
    };
    Some(Seen {
        requests,
        errors,
        failures,
        sent_bytes,
        received_bytes,
        took,
        quantiles: quantiles(output),
    })
}

/// Says `request` at once on a new connection, and everything that comes back.
///
/// # Errors
///
/// The connection fails.
pub fn ask(to: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(scaled(Duration::from_secs(5))))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
