//! `NETLINK_SOCK_DIAG` as bytes: requests go out, sockets come in.
//!
//! Pure: no file descriptor. Decoding takes any bytes and never panics; what is cut short or
//! says lengths it does not have ends the walk. Layouts are those of linux/netlink.h,
//! linux/inet_diag.h and linux/sock_diag.h, integers in host order unless said otherwise.

use std::mem::offset_of;

use mesh_common::{Address, SocketKey, SocketState};

/// A protocol and family that is dumped on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// `AF_INET` or `AF_INET6`.
    pub(crate) family: u8,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub(crate) protocol: u8,
}

/// What names one socket to the kernel: `struct inet_diag_sockid` as it was received, ports,
/// addresses, interface and cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketId(pub(crate) [u8; SOCKID]);

/// A socket of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) id: SocketId,
    pub(crate) kind: Kind,
    /// State of a TCP socket, `TCP_ESTABLISHED` for a connected UDP socket.
    pub(crate) state: u8,
    pub(crate) local: SocketKey,
    pub(crate) remote: SocketKey,
    pub(crate) uid: u32,
    /// 0 once no process holds it.
    pub(crate) inode: u32,
    /// The cgroup it was made in; `None` for what is no full socket (yet, or any more).
    pub(crate) cgroup: Option<u64>,
    /// What the mesh remembers with it. Never told of UDP sockets: `inet_sk_diag_fill` leaves
    /// storage out where there is no connection state (net/ipv4/inet_diag.c, seen in 6.18).
    pub(crate) mesh: Option<SocketState>,
    /// What TCP has measured, if that was asked for.
    pub(crate) info: Option<TcpInfo>,
}

/// The parts of `struct tcp_info` (linux/tcp.h) that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// Smoothed round-trip time, microseconds.
    pub(crate) rtt_us: u32,
    /// Segments sent again.
    pub(crate) retransmits: u32,
    /// Sequence numbers that were acknowledged.
    pub(crate) acked: u64,
    /// Sequence numbers that were received.
    pub(crate) received: u64,
}

impl SocketId {
    /// The socket's cookie, as programs know it.
    pub(crate) fn cookie(&self) -> u64 {
        let half = |at| u64::from(u32_at(&self.0, at).unwrap_or_default());
        half(COOKIE) | half(COOKIE + 4) << 32
    }
}

/// One message of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are sockets, and one is there at a time"
)]
pub(crate) enum Message {
    Socket(Socket),
    /// The dump is complete.
    Done,
    /// An error number, positive; 0 acknowledges.
    Error(i32),
}

/// A request for all sockets of a kind in `states` (bits `1 << state`), with what the socket
/// storage map behind the descriptor `storage` holds for each, and with `struct tcp_info` if
/// `info` is wanted.
pub(crate) fn dump(kind: Kind, states: u32, storage: Option<i32>, info: bool) -> Vec<u8> {
    let mut request = request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP);
    let extensions = if info { 1 << (INFO - 1) } else { 0 };
    push_body(&mut request, kind, extensions, states, &[0; SOCKID]);
    if let Some(fd) = storage {
        let length = (2 * ATTRIBUTE + 4) as u16;
        push_u16s(&mut request, [length, REQ_SK_BPF_STORAGES | NLA_F_NESTED]);
        push_u16s(
            &mut request,
            [(ATTRIBUTE + 4) as u16, STORAGE_REQUEST_MAP_FD],
        );
        request.extend_from_slice(&fd.to_ne_bytes());
    }
    finished(request)
}

/// A request to abort a socket, which is acknowledged.
pub(crate) fn destroy(kind: Kind, id: &SocketId) -> Vec<u8> {
    let mut request = request(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK);
    push_body(&mut request, kind, 0, u32::MAX, &id.0);
    finished(request)
}

fn request(kind: u16, flags: u16) -> Vec<u8> {
    let mut request = vec![0; 4];
    push_u16s(&mut request, [kind, flags]);
    request.extend_from_slice(&[0; 8]);
    request
}

fn push_body(request: &mut Vec<u8>, kind: Kind, extensions: u8, states: u32, id: &[u8; SOCKID]) {
    request.extend_from_slice(&[kind.family, kind.protocol, extensions, 0]);
    request.extend_from_slice(&states.to_ne_bytes());
    request.extend_from_slice(id);
}

fn push_u16s<const N: usize>(request: &mut Vec<u8>, values: [u16; N]) {
    for value in values {
        request.extend_from_slice(&value.to_ne_bytes());
    }
}

fn finished(mut request: Vec<u8>) -> Vec<u8> {
    let length = (request.len() as u32).to_ne_bytes();
    request[..4].copy_from_slice(&length);
    request
}

/// The messages in one datagram of an answer to a request about `protocol`.
pub(crate) fn messages(datagram: &[u8], protocol: u8) -> impl Iterator<Item = Message> + '_ {
    let headers = Parts {
        rest: datagram,
        header: HEADER,
        length: |bytes| u32_at(bytes, 0).map(|length| length as usize),
    };
    headers.filter_map(move |message| match u16_at(message, 4)? {
        // Both carry an error number; the one of a dump that went well is 0.
        NLMSG_DONE => Some(match number(message).unwrap_or_default() {
            0 => Message::Done,
            number => Message::Error(number),
        }),
        NLMSG_ERROR => number(message).map(Message::Error),
        SOCK_DIAG_BY_FAMILY => socket(message.get(HEADER..)?, protocol).map(Message::Socket),
        _ => None,
    })
}

fn number(message: &[u8]) -> Option<i32> {
    let negative = i32::from_ne_bytes(array_at(message, HEADER)?);
    Some(negative.saturating_neg())
}

/// A `struct inet_diag_msg` and its attributes.
fn socket(body: &[u8], protocol: u8) -> Option<Socket> {
    let (family, id): (u8, [u8; SOCKID]) = (*body.first()?, array_at(body, 4)?);
    let mut socket = Socket {
        id: SocketId(id),
        kind: Kind { family, protocol },
        state: *body.get(1)?,
        local: key(&id, family, protocol, 0)?,
        remote: key(&id, family, protocol, 1)?,
        uid: u32_at(body, 64)?,
        inode: u32_at(body, 68)?,
        cgroup: None,
        mesh: None,
        info: None,
    };
    for attribute in attributes(body.get(DIAG_MESSAGE..)?) {
        let value = attribute.get(ATTRIBUTE..)?;
        match attribute_kind(attribute)? {
            CGROUP_ID => socket.cgroup = array_at(value, 0).map(u64::from_ne_bytes),
            SK_BPF_STORAGES => socket.mesh = storage(value),
            INFO => socket.info = tcp_info(value),
            _ => {}
        }
    }
    Some(socket)
}

/// Address and port of one end of an id: 0 is the local one, 1 the remote one.
fn key(id: &[u8; SOCKID], family: u8, protocol: u8, end: usize) -> Option<SocketKey> {
    let port = u16::from_be_bytes(array_at(id, 2 * end)?);
    let at = 4 + 16 * end;
    let address = match family {
        AF_INET => Address::from_v4(array_at(id, at)?),
        AF_INET6 => Address(array_at(id, at)?),
        _ => return None,
    };
    Some(SocketKey::new(address, port, protocol))
}

/// Kernels have made it longer, at its end.
fn tcp_info(value: &[u8]) -> Option<TcpInfo> {
    Some(TcpInfo {
        rtt_us: u32_at(value, 68)?,
        retransmits: u32_at(value, 100)?,
        acked: u64_at(value, 120)?,
        received: u64_at(value, 128)?,
    })
}

/// The value of the one map that was asked for.
fn storage(nested: &[u8]) -> Option<SocketState> {
    let storage = attributes(nested).find(|a| attribute_kind(a) == Some(STORAGE))?;
    let parts = storage.get(ATTRIBUTE..)?;
    let value = attributes(parts).find(|a| attribute_kind(a) == Some(STORAGE_MAP_VALUE))?;
    socket_state(value.get(ATTRIBUTE..)?)
}

/// A value of the map of sockets; `None` unless the length is exact.
pub(crate) fn socket_state(value: &[u8]) -> Option<SocketState> {
    if value.len() != size_of::<SocketState>() {
        return None;
    }
    let address = |at| array_at(value, at).map(Address);
    Some(SocketState {
        creator_cgroup: u64_at(value, offset_of!(SocketState, creator_cgroup))?,
        dialled: address(offset_of!(SocketState, dialled))?,
        endpoint: address(offset_of!(SocketState, endpoint))?,
        dialled_port: u16_at(value, offset_of!(SocketState, dialled_port))?,
        endpoint_port: u16_at(value, offset_of!(SocketState, endpoint_port))?,
        creator_uid: u32_at(value, offset_of!(SocketState, creator_uid))?,
        source: u32_at(value, offset_of!(SocketState, source))?,
        service: u32_at(value, offset_of!(SocketState, service))?,
        version: u32_at(value, offset_of!(SocketState, version))?,
        flags: u32_at(value, offset_of!(SocketState, flags))?,
        frontend: u32_at(value, offset_of!(SocketState, frontend))?,
        revision: u32_at(value, offset_of!(SocketState, revision))?,
        epoch: u32_at(value, offset_of!(SocketState, epoch))?,
        target: u32_at(value, offset_of!(SocketState, target))?,
        rule: u32_at(value, offset_of!(SocketState, rule))?,
        pid: u32_at(value, offset_of!(SocketState, pid))?,
        verdict: *value.get(offset_of!(SocketState, verdict))?,
        reason: *value.get(offset_of!(SocketState, reason))?,
        connect_ns: u64_at(value, offset_of!(SocketState, connect_ns))?,
        opened_ns: u64_at(value, offset_of!(SocketState, opened_ns))?,
        ..SocketState::default()
    })
}

/// Things with a length in front, one after the other, each padded to 4 bytes.
struct Parts<'b> {
    rest: &'b [u8],
    header: usize,
    length: fn(&[u8]) -> Option<usize>,
}

impl<'b> Iterator for Parts<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let length = (self.length)(self.rest)?;
        if length < self.header {
            return None;
        }
        let part = self.rest.get(..length)?;
        // The last one may lack its padding.
        let padded = length.checked_next_multiple_of(4)?;
        self.rest = self.rest.get(padded..).unwrap_or_default();
        Some(part)
    }
}

/// The attributes (`struct nlattr`), headers included.
fn attributes(bytes: &[u8]) -> Parts<'_> {
    Parts {
        rest: bytes,
        header: ATTRIBUTE,
        length: |bytes| u16_at(bytes, 0).map(usize::from),
    }
}

fn attribute_kind(attribute: &[u8]) -> Option<u16> {
    u16_at(attribute, 2).map(|kind| kind & !NLA_F_NESTED)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_ne_bytes)
}

pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

/// Length of `struct inet_diag_sockid`.
const SOCKID: usize = 48;
/// Where the cookie is in it.
const COOKIE: usize = 40;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct inet_diag_msg`.
const DIAG_MESSAGE: usize = 72;
/// Length of `struct nlattr`.
const ATTRIBUTE: usize = 4;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 1 << 15;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `INET_DIAG_INFO`.
const INFO: u16 = 2;
/// `INET_DIAG_REQ_SK_BPF_STORAGES`, Linux 5.7.
const REQ_SK_BPF_STORAGES: u16 = 2;
/// `SK_DIAG_BPF_STORAGE_REQ_MAP_FD`.
const STORAGE_REQUEST_MAP_FD: u16 = 1;
/// `INET_DIAG_SK_BPF_STORAGES`.
const SK_BPF_STORAGES: u16 = 20;
/// `SK_DIAG_BPF_STORAGE`.
const STORAGE: u16 = 1;
/// `SK_DIAG_BPF_STORAGE_MAP_VALUE`.
const STORAGE_MAP_VALUE: u16 = 3;
/// `INET_DIAG_CGROUP_ID`, Linux 5.9.
const CGROUP_ID: u16 = 21;

#[cfg(test)]
mod tests;
