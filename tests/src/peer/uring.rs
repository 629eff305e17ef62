//! Calls made through io_uring: the one place with unsafe code.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::thread;

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};
use nix::libc;
use nix::sys::socket::{SockaddrLike as _, SockaddrStorage};

/// Who takes the request in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The calling process, in its system call.
    Inline,
    /// A worker thread of the kernel.
    Async,
    /// A polling thread of the kernel.
    Polled,
}

/// `IORING_OP_CONNECT`.
pub(super) fn connect(socket: BorrowedFd<'_>, to: SocketAddr, mode: Mode) -> io::Result<()> {
    let address = SockaddrStorage::from(to);
    let fd = types::Fd(socket.as_raw_fd());
    let entry = opcode::Connect::new(fd, address.as_ptr(), address.len()).build();
    // SAFETY: the address outlives the request, whose completion is awaited.
    unsafe { complete(entry, mode) }.map(drop)
}

/// `IORING_OP_SENDMSG` with an address.
pub(super) fn send_to(socket: BorrowedFd<'_>, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let address = SockaddrStorage::from(to);
    let mut part = libc::iovec {
        iov_base: payload.as_ptr().cast_mut().cast(),
        iov_len: payload.len(),
    };
    // SAFETY: a struct of integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.len();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    let entry = opcode::SendMsg::new(types::Fd(socket.as_raw_fd()), &raw const message).build();
    // SAFETY: message, address and payload outlive the request, whose completion is awaited; a
    // send does not write to them.
    unsafe { complete(entry, Mode::Inline) }.map(drop)
}

/// Makes one of these calls on a thread of its own: a ring that is closed interrupts what the
/// thread that used it does next.
pub(super) fn apart(call: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    thread::scope(|scope| scope.spawn(call).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread has panicked")))
}

/// Submits a request to a ring of its own and waits for its result.
///
/// # Safety
///
/// Whatever the entry points to must be valid until this returns.
unsafe fn complete(entry: Entry, mode: Mode) -> io::Result<i32> {
    let mut ring: IoUring = match mode {
        Mode::Polled => IoUring::builder().setup_sqpoll(50).build(2)?,
        Mode::Inline | Mode::Async => IoUring::new(2)?,
    };
    let entry = match mode {
        Mode::Async => entry.flags(Flags::ASYNC),
        Mode::Inline | Mode::Polled => entry,
    };
    // SAFETY: the caller's promise; the wait below is only left with the request's result.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    let result = loop {
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if let Some(completion) = ring.completion().next() {
            break completion.result();
        }
    };
    if result < 0 {
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(result)
    }
}
