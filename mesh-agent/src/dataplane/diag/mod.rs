//! Sockets of this host as the kernel lists them, and the call that aborts one.
//!
//! Comes in: a socket in the network namespace in question. Goes out: sockets, a datagram's worth at a
//! time, so that memory does not grow with their number.

mod wire;

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use rustix::net::{RecvFlags, SendFlags, recv, send};

pub(crate) use self::wire::{Kind, Socket};
use self::wire::{Message, SocketId};

/// What is dumped: TCP and UDP, of each family.
pub(crate) const KINDS: [Kind; 4] = [
    kind(wire::AF_INET, mesh_common::IPPROTO_TCP),
    kind(wire::AF_INET6, mesh_common::IPPROTO_TCP),
    kind(wire::AF_INET, mesh_common::IPPROTO_UDP),
    kind(wire::AF_INET6, mesh_common::IPPROTO_UDP),
];

/// States of a socket, from include/net/tcp_states.h.
pub(crate) mod state {
    pub(crate) const SYN_SENT: u8 = 2;
    pub(crate) const FIN_WAIT2: u8 = 5;
    /// `ESTABLISHED`, `SYN_SENT`, `SYN_RECV`, `FIN_WAIT1`, `FIN_WAIT2`, `CLOSE_WAIT`,
    /// `LAST_ACK`, `CLOSING` and `NEW_SYN_RECV`; of UDP only the first exists.
    pub(crate) const FLOWS: u32 =
        1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 12;
    pub(crate) const LISTEN: u32 = 1 << 10;
}

const fn kind(family: u8, protocol: u8) -> Kind {
    Kind { family, protocol }
}

/// Most bytes the kernel puts in one datagram of a dump (`NLMSG_GOODSIZE` at least; 32 KiB
/// since Linux 4.9, see `netlink_recvmsg`).
const BUFFER: usize = 64 << 10;

/// Which sockets are wanted, and what of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'f> {
    /// Bits `1 << state`.
    pub(crate) states: u32,
    /// The socket storage map whose values are wanted.
    pub(crate) storage: Option<BorrowedFd<'f>>,
    /// Whether what TCP has measured is.
    pub(crate) info: bool,
}

/// A netlink socket for one network namespace.
pub(crate) struct SockDiag {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// What came of an attempt to abort a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aborted {
    Yes,
    /// It was gone, or another one stands before it.
    NotFound,
    /// The kernel lacks `CONFIG_INET_DIAG_DESTROY`.
    Unsupported,
}

impl SockDiag {
    /// For the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        Ok(Self::on(socket))
    }

    /// On a socket that the usher has made.
    pub(crate) fn on(socket: OwnedFd) -> Self {
        Self {
            socket,
            buffer: vec![0; BUFFER],
        }
    }

    /// Hands the sockets of `kind` that are `wanted` to `each`, in batches. Sockets that come or go meanwhile may be missed.
    ///
    /// # Errors
    ///
    /// The kernel's: `NotFound` if it has no such module.
    pub(crate) fn dump(
        &mut self,
        kind: Kind,
        wanted: Wanted<'_>,
        mut each: impl FnMut(&[Socket]),
    ) -> io::Result<()> {
        let storage = wanted.storage.map(|map| map.as_raw_fd());
        self.ask(&wire::dump(kind, wanted.states, storage, wanted.info))?;
        let mut batch = Vec::new();
        loop {
            let mut end = None;
            for message in wire::messages(self.receive()?, kind.protocol) {
                match message {
                    Message::Socket(socket) => batch.push(socket),
                    Message::Done => end = Some(Ok(())),
                    Message::Error(number) => end = Some(Err(io::Error::from_raw_os_error(number))),
                }
            }
            each(&batch);
            batch.clear();
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Aborts a socket: whoever uses it gets `ECONNABORTED`, and a TCP peer a reset.
    ///
    /// # Errors
    ///
    /// The kernel's, such as `EPERM` without `CAP_NET_ADMIN`.
    pub(crate) fn abort(&mut self, socket: &Socket) -> io::Result<Aborted> {
        self.abort_id(socket.kind, &socket.id)
    }

    fn abort_id(&mut self, kind: Kind, id: &SocketId) -> io::Result<Aborted> {
        self.ask(&wire::destroy(kind, id))?;
        let error = |message| match message {
            Message::Error(number) => Some(number),
            Message::Socket(_) | Message::Done => None,
        };
        let number = wire::messages(self.receive()?, kind.protocol).find_map(error);
        match number.ok_or(io::ErrorKind::InvalidData)? {
            0 => Ok(Aborted::Yes),
            libc_errno::ENOENT => Ok(Aborted::NotFound),
            libc_errno::EOPNOTSUPP => Ok(Aborted::Unsupported),
            number => Err(io::Error::from_raw_os_error(number)),
        }
    }

    fn ask(&self, request: &[u8]) -> io::Result<()> {
        send(&self.socket, request, SendFlags::empty())?;
        Ok(())
    }

    fn receive(&mut self) -> io::Result<&[u8]> {
        let received = rustix::io::retry_on_intr(|| {
            recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC)
        });
        let (_, length) = received?;
        self.buffer
            .get(..length)
            .ok_or_else(|| io::Error::other("a datagram of the kernel's is longer than expected"))
    }
}

/// Error numbers as netlink carries them.
mod libc_errno {
    use nix::errno::Errno;

    pub(super) const ENOENT: i32 = Errno::ENOENT as i32;
    pub(super) const EOPNOTSUPP: i32 = Errno::EOPNOTSUPP as i32;
}

/// Whether this kernel can abort sockets of TCP and UDP. Tried on a socket that cannot exist:
/// port 0 at both ends.
///
/// # Errors
///
/// It cannot be tried, such as for lack of `CAP_NET_ADMIN`.
pub fn can_abort() -> io::Result<bool> {
    let mut diag = SockDiag::open()?;
    let nobody = SocketId([0; 48]);
    for kind in KINDS.iter().filter(|kind| kind.family == wire::AF_INET) {
        if diag.abort_id(*kind, &nobody)? == Aborted::Unsupported {
            return Ok(false);
        }
    }
    Ok(true)
}

/// An established socket, for tests.
#[cfg(test)]
pub(crate) fn socket_between(
    local: mesh_common::SocketKey,
    remote: mesh_common::SocketKey,
) -> Socket {
    Socket {
        id: SocketId([0; 48]),
        kind: KINDS[0],
        state: 1,
        local,
        remote,
        uid: 0,
        inode: 1,
        cgroup: Some(1),
        mesh: None,
        info: None,
    }
}
