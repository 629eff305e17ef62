//! What the agent asks the usher, as datagrams: one question, one answer.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Most bytes of a datagram: what names as many namespaces as are looked at.
pub(super) const LARGEST: usize = 64 << 10;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Network namespaces that a process below this cgroup is in.
    OfProcesses(String),
    /// Network namespaces that a process is in or that are mounted.
    All,
    /// A TCP socket in the namespace with this inode.
    Stream { netns: u64, ipv6: bool },
    /// A socket that lists sockets of the namespace with this inode.
    Diag(u64),
    /// The path of the cgroup with this id.
    Cgroup(u64),
    /// A BPF file system where the agent's pins are to be.
    MountBpf,
    /// How much memory the usher takes.
    Memory,
    /// The tracepoint of cgroups with this name, for programs.
    Tracepoint(String),
}

const OF_PROCESSES: u8 = 1;
const ALL: u8 = 2;
const STREAM4: u8 = 3;
const STREAM6: u8 = 4;
const DIAG: u8 = 5;
const CGROUP: u8 = 6;
const MOUNT_BPF: u8 = 7;
const MEMORY: u8 = 8;
const TRACEPOINT: u8 = 9;

impl Question {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let numbered = |code: u8, number: u64| [&[code][..], &number.to_ne_bytes()].concat();
        match self {
            Self::OfProcesses(below) => [&[OF_PROCESSES], below.as_bytes()].concat(),
            Self::All => vec![ALL],
            Self::Stream { netns, ipv6: false } => numbered(STREAM4, *netns),
            Self::Stream { netns, ipv6: true } => numbered(STREAM6, *netns),
            Self::Diag(netns) => numbered(DIAG, *netns),
            Self::Cgroup(id) => numbered(CGROUP, *id),
            Self::MountBpf => vec![MOUNT_BPF],
            Self::Memory => vec![MEMORY],
            Self::Tracepoint(name) => [&[TRACEPOINT], name.as_bytes()].concat(),
        }
    }

    /// `None` for what no agent of this version asks.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (code, rest) = bytes.split_first()?;
        let number = || rest.try_into().ok().map(u64::from_ne_bytes);
        Some(match *code {
            OF_PROCESSES => Self::OfProcesses(String::from_utf8(rest.into()).ok()?),
            ALL if rest.is_empty() => Self::All,
            STREAM4 | STREAM6 => Self::Stream {
                netns: number()?,
                ipv6: *code == STREAM6,
            },
            DIAG => Self::Diag(number()?),
            CGROUP => Self::Cgroup(number()?),
            MOUNT_BPF if rest.is_empty() => Self::MountBpf,
            MEMORY if rest.is_empty() => Self::Memory,
            TRACEPOINT => Self::Tracepoint(String::from_utf8(rest.into()).ok()?),
            _ => return None,
        })
    }
}

/// What comes back: bytes and a descriptor, as the question has it.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    pub(super) fd: Option<OwnedFd>,
}

/// Sends an answer: the number of the error, 0 if there is none, and the rest.
pub(super) fn send_answer(to: impl AsFd, answer: io::Result<Answer>) -> io::Result<()> {
    let number = match &answer {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    };
    let Answer { bytes, fd } = answer.unwrap_or_default();
    let bytes = [&number.to_ne_bytes()[..], &bytes].concat();
    send(to, &bytes, fd.as_ref().map(AsFd::as_fd))
}

/// Reads what was received as an answer.
pub(super) fn read_answer((mut bytes, fd): (Vec<u8>, Option<OwnedFd>)) -> io::Result<Answer> {
    let number = bytes.first_chunk().copied().map(i32::from_ne_bytes);
    match number {
        Some(0) => {
            bytes.drain(..size_of::<i32>());
            Ok(Answer { bytes, fd })
        }
        Some(number) => Err(io::Error::from_raw_os_error(number)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Sends a datagram.
pub(super) fn send(to: impl AsFd, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let passed = fd.map(|fd| [fd]);
    if let Some(passed) = &passed {
        control.push(SendAncillaryMessage::ScmRights(passed));
    }
    rustix::io::retry_on_intr(|| {
        sendmsg(
            &to,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })?;
    Ok(())
}

/// Receives a datagram; an empty one is the end.
pub(super) fn receive(from: impl AsFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0; LARGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = rustix::io::retry_on_intr(|| {
        let into = &mut [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&from, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        Ok(received.bytes)
    })?;
    bytes.truncate(length);
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((bytes, fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_as_they_are_written_and_nothing_else_is() {
        for question in [
            Question::OfProcesses("/a b".into()),
            Question::OfProcesses(String::new()),
            Question::All,
            Question::Stream {
                netns: 7,
                ipv6: true,
            },
            Question::Stream {
                netns: u64::MAX,
                ipv6: false,
            },
            Question::Diag(1),
            Question::Cgroup(2),
            Question::MountBpf,
            Question::Memory,
            Question::Tracepoint("cgroup_mkdir".into()),
        ] {
            let bytes = question.to_bytes();
            assert_eq!(Question::from_bytes(&bytes), Some(question));
        }
        let strange: [&[u8]; 8] = [
            &[],
            &[0],
            &[10],
            &[ALL, 0],
            &[DIAG, 1, 2],
            &[OF_PROCESSES, 0xff],
            &[MOUNT_BPF, b'/'],
            &[MEMORY, 0],
        ];
        for bytes in strange {
            assert_eq!(Question::from_bytes(bytes), None, "{bytes:?}");
        }
    }
}
