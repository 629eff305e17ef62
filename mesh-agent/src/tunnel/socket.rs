//! What the engine asks of TCP sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// How long sent bytes may stay unacknowledged before the peer is given up.
const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// Idle time before the first keep-alive probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Time between probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered probes after which the peer is given up.
const KEEPALIVE_PROBES: u32 = 3;

/// Sets what a connection between two agents needs: small frames leave at once, and a peer that
/// vanished is noticed.
pub(super) fn prepare_tunnel(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT.as_millis() as u32)?;
    Ok(())
}

/// Sets what a connection with an application needs. Until [`release`] it ends by RST whatever
/// happens, even if this process is killed: FIN would say that all there was to say has been said.
pub(super) fn prepare_app(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    stream.set_nodelay(true)
}

/// Closes a connection with an application that has ended as it should.
pub(super) fn release(stream: TcpStream) {
    // If it fails, the application is reset after all has been said.
    let _ = sockopt::set_socket_linger(&stream, None);
}

/// Closes with RST.
pub(super) fn reset(stream: TcpStream) {
    // If it fails, the socket is closed as it is: there is nothing better to do.
    let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
}

/// Sends FIN. A peer that is gone is noticed when its socket is read.
pub(super) fn finish(stream: &TcpStream) {
    let _ = shutdown(stream, Shutdown::Write);
}

/// Whether the kernel has neither bytes nor an end nor an error for the reader.
pub(super) fn is_quiet(stream: &TcpStream) -> bool {
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    let peeked = rustix::net::recv(stream, &mut [0; 1][..], flags);
    peeked.err() == Some(rustix::io::Errno::AGAIN)
}

/// Reads without waiting, whatever the runtime knows of the socket.
pub(super) fn read_nowait(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = rustix::net::RecvFlags::DONTWAIT;
    let (length, _) = rustix::io::retry_on_intr(|| rustix::net::recv(stream, &mut *buffer, flags))?;
    Ok(length)
}

/// Reads if the socket is ready.
pub(super) fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let room = buffer.len();
    once(stream, Interest::READABLE, room, || {
        read_nowait(stream, buffer)
    })
}

/// Reads into `room` bytes of several buffers if the socket is ready.
pub(super) fn read_vectored(
    stream: &TcpStream,
    buffers: &mut [IoSliceMut<'_>],
    room: usize,
) -> io::Result<usize> {
    once(stream, Interest::READABLE, room, || {
        Ok(rustix::io::retry_on_intr(|| {
            rustix::io::readv(stream, buffers)
        })?)
    })
}

/// Writes if the socket is ready.
pub(super) fn write(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    once(stream, Interest::WRITABLE, bytes.len(), || {
        Ok(rustix::io::retry_on_intr(|| {
            rustix::io::write(stream, bytes)
        })?)
    })
}

/// Writes `length` bytes from several buffers if the socket is ready.
pub(super) fn write_vectored(
    stream: &TcpStream,
    buffers: &[IoSlice<'_>],
    length: usize,
) -> io::Result<usize> {
    once(stream, Interest::WRITABLE, length, || {
        Ok(rustix::io::retry_on_intr(|| {
            rustix::io::writev(stream, buffers)
        })?)
    })
}

/// One call. If it moves less than `whole`, the socket is empty or full, and the runtime is told
/// so: the call that would only find that out is saved (epoll(7), question 9).
fn once(
    stream: &TcpStream,
    interest: Interest,
    whole: usize,
    call: impl FnOnce() -> io::Result<usize>,
) -> io::Result<usize> {
    let mut moved = None;
    let outcome = stream.try_io(interest, || match call()? {
        part if part != 0 && part < whole => {
            moved = Some(part);
            Err(io::ErrorKind::WouldBlock.into())
        }
        whole_or_end => Ok(whole_or_end),
    });
    moved.map_or(outcome, Ok)
}
