//! What a denial record says, in words. Pure, so that it can be held against any bytes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use mesh_common::{DenialRecord, Hook, SocketKey};

/// What was dialled or bound. A refused socket has no address yet, but a kind.
pub fn dialled(record: &DenialRecord) -> String {
    if record.hook != Hook::SockCreate.0 {
        return socket_address(&record.dialled).to_string();
    }
    match record.dialled.protocol {
        1 => "stream socket".into(),
        2 => "datagram socket".into(),
        3 => "raw socket".into(),
        other => format!("socket of type {other}"),
    }
}

/// Where a packet came from; `None` where a process of this host was refused.
pub fn peer(record: &DenialRecord) -> Option<String> {
    (record.peer != SocketKey::default()).then(|| socket_address(&record.peer).to_string())
}

/// An address and port, IPv4 as such.
pub fn socket_address(key: &SocketKey) -> SocketAddr {
    let ip = IpAddr::V6(Ipv6Addr::from(key.address.0)).to_canonical();
    SocketAddr::new(ip, key.port)
}

/// The protocol's name. A refused socket's number stands where ports do: it may exceed 255.
pub fn protocol(record: &DenialRecord) -> String {
    let number = if record.hook == Hook::SockCreate.0 {
        record.dialled.port
    } else {
        u16::from(record.dialled.protocol)
    };
    let name = match number {
        1 => "icmp",
        6 => "tcp",
        17 => "udp",
        58 => "icmpv6",
        132 => "sctp",
        136 => "udplite",
        256 => "smc",
        262 => "mptcp",
        other => return other.to_string(),
    };
    name.into()
}

/// A thread's name. It is free text of the caller's choice: control characters are replaced.
pub fn comm(record: &DenialRecord) -> String {
    let name = record.comm.split(|byte| *byte == 0).next();
    String::from_utf8_lossy(name.unwrap_or_default()).replace(|c: char| c.is_control(), "?")
}
