use proptest::prelude::*;

use super::*;

const TCP4: Kind = Kind {
    family: AF_INET,
    protocol: 6,
};

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_u16s(&mut bytes, [(ATTRIBUTE + value.len()) as u16, kind]);
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    push_u16s(&mut bytes, [kind, 2]);
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn state() -> Vec<u8> {
    let mut value = vec![0; size_of::<SocketState>()];
    let mut put = |at: usize, bytes: &[u8]| value[at..at + bytes.len()].copy_from_slice(bytes);
    put(offset_of!(SocketState, creator_cgroup), &7u64.to_ne_bytes());
    put(offset_of!(SocketState, dialled), &[1; 16]);
    put(offset_of!(SocketState, endpoint), &[2; 16]);
    for (at, number) in [
        (offset_of!(SocketState, creator_uid), 3u32),
        (offset_of!(SocketState, source), 4),
        (offset_of!(SocketState, service), 5),
        (offset_of!(SocketState, version), 6),
        (offset_of!(SocketState, flags), 1),
        (offset_of!(SocketState, frontend), 8),
        (offset_of!(SocketState, revision), 9),
        (offset_of!(SocketState, epoch), 10),
    ] {
        put(at, &number.to_ne_bytes());
    }
    put(offset_of!(SocketState, dialled_port), &80u16.to_ne_bytes());
    put(
        offset_of!(SocketState, endpoint_port),
        &8081u16.to_ne_bytes(),
    );
    value
}

/// A socket from 127.0.0.1:40000 to 127.0.0.1:8081 as the kernel tells of it.
fn answer(storage: &[u8]) -> Vec<u8> {
    let mut body = vec![AF_INET, 1, 0, 0];
    body.extend_from_slice(&40_000u16.to_be_bytes());
    body.extend_from_slice(&8081u16.to_be_bytes());
    for _ in 0..2 {
        body.extend_from_slice(&[127, 0, 0, 1]);
        body.extend_from_slice(&[0; 12]);
    }
    body.extend_from_slice(&[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    for number in [0u32, 0, 0, 1000, 77] {
        body.extend_from_slice(&number.to_ne_bytes());
    }
    body.extend(attribute(8, &[0]));
    let mut info = vec![0; 232];
    info[68..72].copy_from_slice(&250u32.to_ne_bytes());
    info[100..104].copy_from_slice(&3u32.to_ne_bytes());
    info[120..128].copy_from_slice(&7001u64.to_ne_bytes());
    info[128..136].copy_from_slice(&9000u64.to_ne_bytes());
    body.extend(attribute(INFO, &info));
    body.extend(attribute(CGROUP_ID, &99u64.to_ne_bytes()));
    let parts = [
        attribute(2, &5u32.to_ne_bytes()),
        attribute(STORAGE_MAP_VALUE, storage),
    ];
    let one = attribute(STORAGE | NLA_F_NESTED, &parts.concat());
    body.extend(attribute(SK_BPF_STORAGES | NLA_F_NESTED, &one));
    message(SOCK_DIAG_BY_FAMILY, &body)
}

fn only(datagram: &[u8]) -> Socket {
    let found: Vec<_> = messages(datagram, 6).collect();
    match found.as_slice() {
        [Message::Socket(socket)] => *socket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_socket_is_understood() {
    let socket = only(&answer(&state()));
    let loopback = Address::from_v4([127, 0, 0, 1]);
    assert_eq!(socket.kind, TCP4);
    assert_eq!((socket.state, socket.uid, socket.inode), (1, 1000, 77));
    assert_eq!(socket.local, SocketKey::new(loopback, 40_000, 6));
    assert_eq!(socket.remote, SocketKey::new(loopback, 8081, 6));
    assert_eq!(socket.cgroup, Some(99));
    assert_eq!(socket.id.cookie(), 0x0202_0202_0101_0101);
    let info = TcpInfo {
        rtt_us: 250,
        retransmits: 3,
        acked: 7001,
        received: 9000,
    };
    assert_eq!(socket.info, Some(info));
    let expected = SocketState {
        creator_cgroup: 7,
        dialled: Address([1; 16]),
        endpoint: Address([2; 16]),
        dialled_port: 80,
        endpoint_port: 8081,
        creator_uid: 3,
        source: 4,
        service: 5,
        version: 6,
        flags: 1,
        frontend: 8,
        revision: 9,
        epoch: 10,
        ..SocketState::default()
    };
    assert_eq!(socket.mesh, Some(expected));
}

#[test]
fn state_of_another_length_is_none() {
    let mut long = state();
    long.push(0);
    assert_eq!(only(&answer(&long)).mesh, None);
    assert_eq!(only(&answer(&state()[1..])).mesh, None);
    assert_eq!(only(&answer(&[])).mesh, None);
}

#[test]
fn ends_and_errors_are_told_apart() {
    let refused = (-95i32).to_ne_bytes();
    let datagram = [
        answer(&state()),
        message(NLMSG_ERROR, &refused),
        message(NLMSG_ERROR, &[0; 4]),
        message(NLMSG_DONE, &refused),
        message(NLMSG_DONE, &[0; 4]),
        message(NLMSG_DONE, &[]),
    ];
    let found: Vec<_> = messages(&datagram.concat(), 6).skip(1).collect();
    let expected = [
        Message::Error(95),
        Message::Error(0),
        Message::Error(95),
        Message::Done,
        Message::Done,
    ];
    assert_eq!(found, expected);
}

#[test]
fn requests_have_the_kernels_form() {
    let request = dump(TCP4, 0x12, Some(9), true);
    assert_eq!(request.len(), HEADER + 56 + 12);
    assert_eq!(u32_at(&request, 0), Some(84));
    assert_eq!(u16_at(&request, 4), Some(SOCK_DIAG_BY_FAMILY));
    assert_eq!(&request[16..24], [2, 6, 2, 0, 0x12, 0, 0, 0]);
    let nested = attributes(&request[72..]).next().expect("an attribute");
    assert_eq!(attribute_kind(nested), Some(REQ_SK_BPF_STORAGES));
    assert_eq!(u32_at(nested, 8), Some(9));
    let socket = only(&answer(&state()));
    let request = destroy(TCP4, &socket.id);
    assert_eq!(request.len(), HEADER + 56);
    assert_eq!(request[24..72], socket.id.0);
}

proptest! {
    #[test]
    fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        messages(&bytes, 17).count();
    }

    #[test]
    fn damaged_answers_end(cut in 0usize..400, at in 0usize..400, byte in any::<u8>()) {
        let mut bytes = answer(&state()).repeat(2);
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(length - cut % length);
        let found = messages(&bytes, 6).count();
        prop_assert!(found <= bytes.len() / HEADER);
    }
}
