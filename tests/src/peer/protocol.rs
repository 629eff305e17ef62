//! What a test asks of a peer and what it answers: one JSON document per line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::script::Step;
use crate::patience::scaled;

/// Longest time a socket call of a peer waits.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A socket that a peer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Socket(pub u32);

/// What a peer can be asked for. The type of the answer is in brackets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Serve TCP: each line that arrives is answered with the label, a space and the line.
    /// \[[`SocketAddr`]: where\]
    ServeTcp {
        /// Where to listen; port 0 for any.
        address: SocketAddr,
        /// Who answers.
        label: String,
    },
    /// Serve UDP: each datagram is answered with the label, a space and the datagram.
    /// \[[`SocketAddr`]: where\]
    ServeUdp {
        /// Where to listen; port 0 for any.
        address: SocketAddr,
        /// Who answers.
        label: String,
    },
    /// How many connections or datagrams its servers have taken in, all together. \[[`u64`]\]
    Served,
    /// How many connections to its servers have ended in an error. \[[`u64`]\]
    Aborted,
    /// Connect, one or many times. \[[`Vec<Outcome>`]\]
    Dial(Dial),
    /// The same by a new process. \[[`Vec<Outcome>`]\]
    DialFromChild(Dial),
    /// Make a socket and keep it. \[[`Socket`]\]
    Open(Kind),
    /// Make an IP socket of any kind and close it. \[[`Option<String>`]: the error's name\]
    Make {
        /// `AF_INET6`.
        ipv6: bool,
        /// `SOCK_*`.
        kind: u32,
        /// The protocol number.
        protocol: u32,
    },
    /// Ask 127.0.0.1 for an echo (ICMP), by a raw socket or a ping socket. \[`bool`: it came\]
    Echo {
        /// `SOCK_RAW` instead of `SOCK_DGRAM`.
        raw: bool,
    },
    /// Bind a socket to an address. \[[`Option<String>`]: the error's name\]
    Bind {
        /// Which.
        socket: Socket,
        /// To what.
        address: SocketAddr,
    },
    /// Listen on a socket. \[()\]
    Listen(Socket),
    /// Connect a socket that was made before, exchange `payload` and keep it. \[[`Outcome`]\]
    Connect {
        /// Which.
        socket: Socket,
        /// To what.
        to: SocketAddr,
        /// What to say; nothing if empty.
        payload: String,
    },
    /// Connect a socket to `AF_UNSPEC`, which disconnects it. \[()\]
    Disconnect(Socket),
    /// Say something on connected sockets, one after the other. \[[`Vec<Outcome>`]\]
    Exchange {
        /// Which.
        sockets: Vec<Socket>,
        /// What to say.
        payload: String,
    },
    /// Send one datagram to an address. \[[`Outcome`], whose answer is not awaited\]
    SendTo {
        /// From which socket.
        socket: Socket,
        /// To what.
        to: SocketAddr,
        /// What to say.
        payload: String,
    },
    /// Take one datagram in. \[[`Outcome`]: what and from whom\]
    Receive(Socket),
    /// The peer of a socket. \[[`Option<SocketAddr>`]\]
    PeerName(Socket),
    /// Close sockets. \[()\]
    Close(Vec<Socket>),
    /// Make a unix socket that sockets can be passed to. \[()\]
    Inbox(PathBuf),
    /// Pass a socket to the process that has this inbox. \[()\]
    Pass {
        /// Which.
        socket: Socket,
        /// To whom.
        inbox: PathBuf,
    },
    /// Take a socket out of the inbox. \[[`Socket`]\]
    Take,
    /// Move to a cgroup. \[()\]
    Join(PathBuf),
    /// Become another user. \[()\]
    Become {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// Connect and play a script. \[[`Played`](super::Played)\]
    Play {
        /// To what.
        to: SocketAddr,
        /// What to do.
        steps: Vec<Step>,
    },
    /// Listen, and play a script on the first connection. \[[`SocketAddr`]: where\]
    PlayServer {
        /// Where to listen; port 0 for any.
        address: SocketAddr,
        /// What to do.
        steps: Vec<Step>,
    },
    /// End.
    Exit,
}

/// A kind of socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// `AF_INET6`.
    pub ipv6: bool,
    /// `SOCK_DGRAM`.
    pub udp: bool,
    /// `IPV6_V6ONLY`.
    pub v6_only: bool,
    /// `SO_REUSEADDR` and `SO_REUSEPORT`.
    pub reuse: bool,
}

impl Kind {
    /// What one would use for `address` over TCP.
    pub fn tcp(address: SocketAddr) -> Self {
        Self {
            ipv6: address.is_ipv6(),
            ..Self::default()
        }
    }

    /// What one would use for `address` over UDP.
    pub fn udp(address: SocketAddr) -> Self {
        Self {
            udp: true,
            ..Self::tcp(address)
        }
    }
}

/// By which system call a connection is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// `connect()`.
    #[default]
    Connect,
    /// `connect()` of a non-blocking socket, and waiting until it is writable.
    NonBlocking,
    /// `sendto()` without `connect()`; the answer's sender is awaited.
    SendTo,
    /// `sendto()` with `MSG_FASTOPEN`.
    FastOpen,
    /// `connect()` with `TCP_FASTOPEN_CONNECT`, and the payload by `send()`.
    FastOpenConnect,
    /// `IORING_OP_CONNECT`.
    Uring,
    /// `IORING_OP_CONNECT` with `IOSQE_ASYNC`: by a worker thread of the kernel.
    UringAsync,
    /// `IORING_OP_CONNECT` taken in by a polling thread of the kernel.
    UringPolled,
    /// `IORING_OP_SENDMSG` with an address.
    UringSendTo,
}

/// What becomes of a connection once its payload is exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum After {
    /// It is closed.
    #[default]
    Close,
    /// It is aborted, which leaves no port in `TIME_WAIT`.
    Abort,
    /// It is kept; [`Outcome::socket`] is its name.
    Keep,
}

/// How to connect.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dial {
    /// To what.
    pub to: SocketAddr,
    /// From which kind of socket.
    pub kind: Kind,
    /// How.
    pub way: Way,
    /// How often, one after the other, each from a new socket.
    pub count: u32,
    /// What to say; nothing if empty.
    pub payload: String,
    /// What then.
    pub after: After,
    /// How long each of its calls may wait.
    pub patience: Duration,
}

impl Dial {
    /// Connects once over TCP, says `x` and closes.
    pub fn tcp(to: SocketAddr) -> Self {
        Self {
            to,
            kind: Kind::tcp(to),
            way: Way::Connect,
            count: 1,
            payload: "x".into(),
            after: After::Close,
            patience: scaled(PATIENCE),
        }
    }

    /// Connects a UDP socket, says `x` and closes.
    pub fn udp(to: SocketAddr) -> Self {
        Self {
            kind: Kind::udp(to),
            ..Self::tcp(to)
        }
    }

    /// Makes it many.
    pub fn times(self, count: u32) -> Self {
        Self { count, ..self }
    }

    /// Makes it by another system call.
    pub fn by(self, way: Way) -> Self {
        Self { way, ..self }
    }

    /// Uses an IPv6 socket.
    pub fn from_ipv6(mut self) -> Self {
        self.kind.ipv6 = true;
        self
    }

    /// Says something else.
    pub fn saying(self, payload: &str) -> Self {
        Self {
            payload: payload.into(),
            ..self
        }
    }

    /// Gives up earlier: what is dropped is not answered.
    pub fn impatiently(self) -> Self {
        Self {
            patience: Duration::from_millis(500),
            ..self
        }
    }

    /// Does something else afterwards.
    pub fn then(self, after: After) -> Self {
        Self { after, ..self }
    }
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The call, such as `connect`.
    pub call: String,
    /// The error, such as `EPERM`.
    pub errno: String,
}

/// What came of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The call that failed; what follows is then what was known before.
    pub failure: Option<Failure>,
    /// Who answered: the label that was put before the payload.
    pub label: Option<String>,
    /// `getpeername()` after connecting; otherwise the sender of the datagram that answered.
    pub peer: Option<SocketAddr>,
    /// How long the call that connects (or sends) took.
    pub micros: u64,
    /// The socket, if it is kept.
    pub socket: Option<Socket>,
}

impl Outcome {
    /// Name of the error, such as `EPERM`.
    pub fn errno(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.errno.as_str())
    }

    /// The error's name, else who answered; empty if neither.
    pub fn word(&self) -> &str {
        self.errno().unwrap_or_else(|| self.answered())
    }

    /// Who answered; empty if nobody did.
    pub fn answered(&self) -> &str {
        self.label.as_deref().unwrap_or_default()
    }
}
