//! The kernel's answers about sockets (netlink), decoded from any bytes.

use mesh_common::{IPPROTO_TCP, SocketState};

use self::wire::{AF_INET, AF_INET6, Message, messages, socket_state};

#[expect(dead_code, reason = "requests are not decoded")]
// Its tests are not where rustfmt looks for them from here.
#[rustfmt::skip]
#[path = "../../mesh-agent/src/dataplane/diag/wire.rs"]
mod wire;

/// Every message has a header of its own, and what is a socket is of a family that is asked for.
pub fn assert_decodes(bytes: &[u8]) {
    let mut count = 0;
    for message in messages(bytes, IPPROTO_TCP) {
        count += 1;
        match message {
            Message::Socket(socket) => {
                assert!([AF_INET, AF_INET6].contains(&socket.kind.family));
                assert_eq!(socket.local.protocol, IPPROTO_TCP);
                assert_eq!(socket.remote.protocol, IPPROTO_TCP);
            }
            Message::Done | Message::Error(_) => {}
        }
    }
    assert!(count <= bytes.len() / 16);
    let state = socket_state(bytes);
    assert_eq!(state.is_some(), bytes.len() == size_of::<SocketState>());
}
