use mesh_common::http::Method;

use super::*;

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, HpackError> {
    let mut fields = Vec::new();
    decoder.decode(block, |field| fields.push(field))?;
    Ok(fields)
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16);
    digits.chunks(2).map(|two| byte(two).unwrap()).collect()
}

/// RFC 7541, appendix C.3 and C.4: the same requests, plain and coded.
#[test]
fn the_standards_requests() {
    let blocks = [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ];
    for requests in blocks {
        let mut decoder = Decoder::default();
        for (request, size) in requests.into_iter().zip([57, 110, 164]) {
            let fields = decoded(&mut decoder, &bytes(request));
            assert_eq!(fields, Ok(vec![Field::Method(Method::Get)]));
            assert_eq!(decoder.table.size(), size);
        }
    }
}

/// RFC 7541, appendix C.5 and C.6: in a table of 256 bytes, so that entries are dropped.
#[test]
fn the_standards_responses() {
    let blocks = [
        [
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 \
             2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 \
             6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d \
             54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 \
             5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e \
             3d31",
        ],
        [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
             2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
             77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f \
             9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ],
    ];
    for responses in blocks {
        let mut decoder = Decoder::default();
        decoder.table.resize(256).unwrap();
        for (response, (status, size)) in
            responses
                .into_iter()
                .zip([(302, 222), (307, 222), (200, 215)])
        {
            let fields = decoded(&mut decoder, &bytes(response));
            assert_eq!(fields, Ok(vec![Field::Status(status)]));
            assert_eq!(decoder.table.size(), size);
        }
    }
}

#[test]
fn what_is_kept_in_the_table_means_the_same_later() {
    let mut decoder = Decoder::default();
    // grpc-status: 7, kept; then by index; then its name with another value, not kept.
    let mut block = vec![0x40, 11];
    block.extend(b"grpc-status\x017");
    assert_eq!(
        decoded(&mut decoder, &block),
        Ok(vec![Field::Grpc(Some(7))])
    );
    assert_eq!(
        decoded(&mut decoder, &[0x80 | 62]),
        Ok(vec![Field::Grpc(Some(7))])
    );
    for (value, expected) in [
        ("0", Some(0)),
        ("16", Some(16)),
        ("17", None),
        ("", None),
        ("+1", None),
        ("x", None),
        ("00000000000000000000000000", None),
    ] {
        let mut block = vec![0x0f, 62 - 15, value.len() as u8];
        block.extend(value.as_bytes());
        let fields = decoded(&mut decoder, &block);
        assert_eq!(fields, Ok(vec![Field::Grpc(expected)]), "{value}");
    }
}

#[test]
fn what_is_no_block() {
    let wrong: [&[u8]; 10] = [
        // Index 0, and one that nothing has.
        &[0x80],
        &[0xbe],
        // An integer that ends early, and one that does not end.
        &[0xff],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        // A name that is cut off, and a value that is missing.
        &[0x40, 5, b'a'],
        &[0x40, 1, b'a'],
        // A status that is none.
        &[0x08, 3, b'x', b'0', b'0'],
        &[0x08, 3, b'6', b'0', b'0'],
        &[0x08, 2, b'2', b'0'],
        // A string that ends with END.
        &[0x08, 0x84, 0xff, 0xff, 0xff, 0xfc],
    ];
    for block in wrong {
        let fields = decoded(&mut Decoder::default(), block);
        assert_eq!(fields, Err(HpackError::Malformed), "{block:?}");
    }
    let too_large = [0x3f, 0xe2, 0xff, 0x03];
    let fields = decoded(&mut Decoder::default(), &too_large);
    assert_eq!(fields, Err(HpackError::TableSize));
}

#[test]
fn a_table_takes_no_more_than_its_share() {
    let mut decoder = Decoder::default();
    // 65536
    decoder.decode(&[0x3f, 0xe1, 0xff, 0x03], drop).unwrap();
    for _ in 0..10_000 {
        decoder.decode(&[0x40, 0, 0], drop).unwrap();
    }
    assert_eq!(decoder.table.size(), MOST_TABLE);
    assert!(decoder.held() <= 12 * 4096, "{}", decoder.held());
    // What does not fit empties it.
    decoder.decode(&[0x20 | 31, 1], drop).unwrap();
    decoder.decode(&[0x40, 0, 1, b'x'], drop).unwrap();
    assert_eq!(decoder.table.size(), 0);
}
