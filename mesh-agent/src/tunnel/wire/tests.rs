use proptest::prelude::*;

use super::*;

const SPECIFICATION: &str = include_str!("../../../../docs/mesh1.md");

fn open() -> Open {
    Open {
        port: 8080,
        endpoint: "10.0.0.12:9000".parse().unwrap(),
        client: "[fd00::7]:40000".parse().unwrap(),
        version: "v2".into(),
        unknown: None,
    }
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).unwrap();
    bytes
}

/// What a stream after its preamble says, data joined, when it arrives `cut` bytes at a time.
fn decoded(bytes: &[u8], cut: usize) -> Result<(Vec<Frame>, Vec<u8>), WireError> {
    let mut decoder = Decoder::new();
    let (mut frames, mut data) = (Vec::new(), Vec::new());
    let stream = [&Preamble::default().encode()[..], bytes].concat();
    for chunk in stream.chunks(cut.max(1)) {
        let mut at = 0;
        while let Some(event) = decoder.next(chunk, &mut at)? {
            match event {
                Event::Preamble(preamble) => assert_eq!(preamble, Preamble::default()),
                Event::Frame(frame) => frames.push(frame),
                Event::Data(range) => data.extend_from_slice(&chunk[range]),
            }
        }
    }
    assert!(decoder.is_between_frames());
    Ok((frames, data))
}

/// The vector of the specification called `name`.
fn vector(name: &str) -> Vec<u8> {
    let line = SPECIFICATION
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .unwrap_or_else(|| panic!("docs/mesh1.md has no vector {name:?}"));
    let digits: Vec<u8> = line.bytes().filter(|byte| *byte != b' ').collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair));
    pairs
        .map(|pair| u8::from_str_radix(pair.unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn the_specifications_vectors_are_what_is_sent() {
    assert_eq!(Preamble::default().encode(), vector("preamble")[..]);
    let frames = [
        ("open", Frame::Open(Box::new(open()))),
        ("opened", Frame::Opened),
        ("refused", Frame::Refused(Code::Denied)),
        ("end", Frame::End),
        ("reset", Frame::Reset),
        ("goaway", Frame::GoAway),
    ];
    for (name, frame) in frames {
        assert_eq!(encoded(&frame), vector(name), "{name}");
        assert_eq!(
            decoded(&vector(name), 1),
            Ok((vec![frame], vec![])),
            "{name}"
        );
    }
    let data = [&data_header(5)[..], b"hello"].concat();
    assert_eq!(data, vector("data"));
}

#[test]
fn the_specifications_extensions_are_skipped_or_refused() {
    let optional = Frame::Open(Box::new(open()));
    assert_eq!(
        decoded(&vector("open-optional-extension"), 3),
        Ok((vec![optional], vec![]))
    );
    let critical = Frame::Open(Box::new(Open {
        unknown: Some(0x8001),
        ..open()
    }));
    assert_eq!(
        decoded(&vector("open-critical-extension"), 3),
        Ok((vec![critical], vec![]))
    );
    assert_eq!(
        decoded(&vector("optional-frame"), 2),
        Ok((vec![], vec![])),
        "an optional frame is skipped"
    );
}

#[test]
fn what_is_not_the_protocol_is_refused() {
    let header = |kind, length| vec![kind, 0, 4, length];
    assert_eq!(decoded(&[0, 0, 0, 0], 9), Err(WireError::Type(0)));
    assert_eq!(decoded(&[8, 0, 0, 0], 9), Err(WireError::Type(8)));
    assert_eq!(decoded(&[4, 0, 0, 0], 9), Err(WireError::Length(4, 0)));
    assert_eq!(decoded(&header(1, 1), 9), Err(WireError::Length(1, 1025)));
    assert_eq!(
        decoded(&header(0x80, 1), 9),
        Err(WireError::Length(0x80, 1025))
    );
    assert_eq!(decoded(&[5, 0, 0, 1, 9], 9), Err(WireError::Length(5, 1)));
    assert_eq!(decoded(&[3, 0, 0, 0], 9), Err(WireError::Length(3, 0)));
    assert_eq!(decoded(&[1, 0, 0, 1, 9], 9), Err(WireError::Open));
    let critical = [2, 0, 0, 4, 0x80, 2, 0, 0];
    assert_eq!(decoded(&critical, 9), Err(WireError::Extension(0x8002)));
}

#[test]
fn a_preamble_is_of_this_protocol_and_asks_for_nothing_unknown() {
    let decode = |bytes: &[u8; 8]| Preamble::decode(*bytes);
    assert_eq!(decode(b"GET / HT"), Err(WireError::Magic));
    assert_eq!(decode(b"mesh\x02\0\0\0"), Err(WireError::Version(2)));
    assert_eq!(decode(b"mesh\x01\0\0\x01"), Err(WireError::Flags(1)));
    let later = Preamble {
        minor: 9,
        flags: 0x0100,
    };
    assert_eq!(decode(b"mesh\x01\x09\x01\0"), Ok(later));
}

#[test]
fn a_label_is_bounded_and_printable() {
    for (label, fits) in [
        ("x".repeat(MAX_VERSION), true),
        ("x".repeat(MAX_VERSION + 1), false),
        ("a\nb".into(), false),
    ] {
        let open = Open {
            version: label.into(),
            ..open()
        };
        assert_eq!(open.encode(&mut Vec::new()).is_ok(), fits);
    }
}

#[test]
fn codes_are_told_apart_and_a_later_one_is_internal() {
    for code in Code::ALL {
        let frame = Frame::Refused(code);
        assert_eq!(decoded(&encoded(&frame), 2), Ok((vec![frame], vec![])));
    }
    let later = Frame::Refused(Code::Internal);
    assert_eq!(decoded(&[3, 0, 0, 2, 200, 7], 9), Ok((vec![later], vec![])));
}

fn any_open() -> impl Strategy<Value = Open> {
    let address = any::<(std::net::IpAddr, u16)>().prop_map(|(ip, port)| {
        let canonical = ip.to_canonical();
        std::net::SocketAddr::new(canonical, port)
    });
    (any::<u16>(), address.clone(), address, "[a-z0-9é.-]{0,20}").prop_map(
        |(port, endpoint, client, version)| Open {
            port,
            endpoint,
            client,
            version: version.into(),
            unknown: None,
        },
    )
}

fn any_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        any_open().prop_map(|open| Frame::Open(Box::new(open))),
        Just(Frame::Opened),
        prop::sample::select(&Code::ALL[..]).prop_map(Frame::Refused),
        Just(Frame::End),
        Just(Frame::Reset),
        Just(Frame::GoAway),
    ]
}

proptest! {
    #[test]
    fn frames_survive_any_cut(
        items in prop::collection::vec((any_frame(), prop::collection::vec(any::<u8>(), 0..300)), 0..8),
        cut in 1usize..400,
    ) {
        let (mut stream, mut frames, mut data) = (Vec::new(), Vec::new(), Vec::new());
        for (frame, bytes) in items {
            frame.encode(&mut stream).unwrap();
            if !bytes.is_empty() {
                stream.extend_from_slice(&data_header(bytes.len()));
            }
            stream.extend_from_slice(&bytes);
            frames.push(frame);
            data.extend(bytes);
        }
        prop_assert_eq!(decoded(&stream, cut), Ok((frames, data)));
    }

    #[test]
    fn any_bytes_are_read_the_same_however_they_are_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        cut in 1usize..50,
    ) {
        let run = |cut: usize| {
            let (mut decoder, mut seen, mut data) = (Decoder::new(), Vec::new(), Vec::new());
            decoder.next(&Preamble::default().encode(), &mut 0).unwrap();
            for chunk in bytes.chunks(cut) {
                let mut at = 0;
                loop {
                    match decoder.next(chunk, &mut at) {
                        Ok(None) => break,
                        Ok(Some(Event::Data(range))) => data.extend_from_slice(&chunk[range]),
                        Ok(Some(event)) => seen.push(event),
                        Err(error) => return (seen, data, Some(error)),
                    }
                }
            }
            (seen, data, None)
        };
        prop_assert_eq!(run(cut), run(usize::MAX));
    }
}
