//! Peers: processes in cgroups of a test's choice that connect and serve as they are told.
//!
//! ```no_run
//! # use mesh_tests::{Sandbox, peer::{Dial, Peer}};
//! # fn main() -> std::io::Result<()> {
//! # let sandbox = Sandbox::new("doc")?;
//! let mut server = Peer::spawn(&sandbox.cgroup, "system.slice/payments.service")?;
//! server.serve_tcp("127.0.0.1:8081", "v1")?;
//! let mut client = Peer::spawn(&sandbox.cgroup, "system.slice/checkout.service")?;
//! let outcome = client.dial_once(Dial::tcp("10.96.0.10:80".parse().unwrap()))?;
//! assert_eq!(outcome.answered(), "v1");
//! # Ok(())
//! # }
//! ```

mod dial;
mod protocol;
mod run;
mod script;
mod serve;
mod unit;
mod uring;

use std::env;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;

pub use self::protocol::{After, Dial, Failure, Kind, Outcome, PATIENCE, Request, Socket, Way};
pub use self::run::run;
pub use self::script::{Played, Step, play};
use crate::cgroup::Cgroup;
use crate::patience::scaled;

/// How long a peer may take for one request.
const LIMIT: Duration = Duration::from_secs(60);

/// A peer; dropping it kills it.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<io::Result<String>>,
}

/// How a peer is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// User and group it becomes after it has joined its cgroup.
    pub user: Option<(u32, u32)>,
    /// Whether it has a network namespace of its own.
    pub own_netns: bool,
}

impl Peer {
    /// Starts one in the cgroup `name` below `root`, which is made if need be.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn spawn(root: &Cgroup, name: &str) -> io::Result<Self> {
        Self::spawn_at(&root.child(name)?, Options::default())
    }

    /// Starts one in the cgroup at `path`.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn spawn_at(path: &Path, options: Options) -> io::Result<Self> {
        let mut command = Command::new(binary());
        command.arg(path);
        if options.own_netns {
            command.arg("--netns");
        }
        if let Some((uid, gid)) = options.user {
            command.args(["--user", &format!("{uid}:{gid}")]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let missing = || io::Error::other("no pipe");
        let requests = child.stdin.take().ok_or_else(missing)?;
        let answers = lines(child.stdout.take().ok_or_else(missing)?);
        let peer = Self {
            child,
            requests,
            answers,
        };
        match peer.line()?.as_str() {
            "ready" => Ok(peer),
            other => Err(io::Error::other(format!("not ready: {other}"))),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks for something and waits for the answer.
    ///
    /// # Errors
    ///
    /// It cannot do it, has ended, or does not answer within a minute.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> io::Result<T> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        self.requests.write_all(line.as_bytes())?;
        let answer: Result<T, String> = serde_json::from_str(&self.line()?)?;
        answer.map_err(io::Error::other)
    }

    fn line(&self) -> io::Result<String> {
        match self.answers.recv_timeout(scaled(LIMIT)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the peer has ended")),
        }
    }

    /// Serves TCP under a label at `address`.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn serve_tcp(&mut self, address: &str, label: &str) -> io::Result<SocketAddr> {
        let (address, label) = (parse(address)?, label.into());
        self.ask(&Request::ServeTcp { address, label })
    }

    /// Serves UDP under a label at `address`.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn serve_udp(&mut self, address: &str, label: &str) -> io::Result<SocketAddr> {
        let (address, label) = (parse(address)?, label.into());
        self.ask(&Request::ServeUdp { address, label })
    }

    /// How many connections and datagrams its servers have taken in.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn served(&mut self) -> io::Result<u64> {
        self.ask(&Request::Served)
    }

    /// How many connections to its servers have ended in an error.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn aborted(&mut self) -> io::Result<u64> {
        self.ask(&Request::Aborted)
    }

    /// Connects as often as `dial` says.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`]; that a connection fails is no error here.
    pub fn dial(&mut self, dial: Dial) -> io::Result<Vec<Outcome>> {
        self.ask(&Request::Dial(dial))
    }

    /// Connects once.
    ///
    /// # Errors
    ///
    /// As [`Self::dial`].
    pub fn dial_once(&mut self, dial: Dial) -> io::Result<Outcome> {
        let outcomes = self.dial(dial.times(1))?;
        outcomes
            .into_iter()
            .next()
            .ok_or_else(|| io::Error::other("no outcome"))
    }

    /// Makes a socket.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn open(&mut self, kind: Kind) -> io::Result<Socket> {
        self.ask(&Request::Open(kind))
    }

    /// Connects a socket and says `payload`.
    ///
    /// # Errors
    ///
    /// As [`Self::dial`].
    pub fn connect(&mut self, socket: Socket, to: &str, payload: &str) -> io::Result<Outcome> {
        let (to, payload) = (parse(to)?, payload.into());
        self.ask(&Request::Connect {
            socket,
            to,
            payload,
        })
    }

    /// Says `payload` on connected sockets.
    ///
    /// # Errors
    ///
    /// As [`Self::dial`].
    pub fn exchange(&mut self, sockets: &[Socket], payload: &str) -> io::Result<Vec<Outcome>> {
        self.ask(&Request::Exchange {
            sockets: sockets.to_vec(),
            payload: payload.into(),
        })
    }

    /// Sends one datagram.
    ///
    /// # Errors
    ///
    /// As [`Self::dial`].
    pub fn send_to(&mut self, socket: Socket, to: &str, payload: &str) -> io::Result<Outcome> {
        let (to, payload) = (parse(to)?, payload.into());
        self.ask(&Request::SendTo {
            socket,
            to,
            payload,
        })
    }

    /// Takes one datagram in.
    ///
    /// # Errors
    ///
    /// As [`Self::dial`].
    pub fn receive(&mut self, socket: Socket) -> io::Result<Outcome> {
        self.ask(&Request::Receive(socket))
    }

    /// Connects and plays a script.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`]; an error while it plays is part of the answer.
    pub fn play(&mut self, to: &str, steps: &[Step]) -> io::Result<Played> {
        let (to, steps) = (parse(to)?, steps.to_vec());
        self.ask(&Request::Play { to, steps })
    }

    /// Listens at `address`, and plays a script on the first connection.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn play_server(&mut self, address: &str, steps: &[Step]) -> io::Result<SocketAddr> {
        let (address, steps) = (parse(address)?, steps.to_vec());
        self.ask(&Request::PlayServer { address, steps })
    }

    /// Moves to the cgroup at `path`.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub fn join(&mut self, path: &Path) -> io::Result<()> {
        self.ask(&Request::Join(path.into()))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Either may fail because it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The peer's binary, which cargo builds beside this program.
pub fn binary() -> PathBuf {
    let mut directory = env::current_exe().unwrap_or_default();
    directory.pop();
    if directory.ends_with("deps") {
        directory.pop();
    }
    directory.join("mesh-peer")
}

/// Lines as they arrive, so that waiting for one can be limited.
fn lines(output: ChildStdout) -> Receiver<io::Result<String>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn parse(address: &str) -> io::Result<SocketAddr> {
    address.parse().map_err(io::Error::other)
}
