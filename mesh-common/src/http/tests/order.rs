extern crate std;

use proptest::prelude::*;

use crate::http::{Order, Piece};

fn check(next: u32, skip: u64, packet: (u32, u32), piece: Piece, after: (u32, u64)) {
    let (mut order, mut left) = (Order { next }, skip);
    let (seq, length) = packet;
    assert_eq!(order.place(seq, length, &mut left), piece);
    assert_eq!((order.next, left), after);
}

#[test]
fn packets_find_their_place() {
    let huge = u32::MAX - 9;
    for (next, skip, packet, piece, after) in [
        (100, 0, (100, 10), Piece::From(0), (110, 0)),
        (100, 0, (90, 10), Piece::Nothing, (100, 0)),
        (100, 0, (95, 10), Piece::From(5), (105, 0)),
        (100, 0, (80, 10), Piece::Nothing, (100, 0)),
        (100, 0, (101, 10), Piece::Gap, (100, 0)),
        (100, 20, (100, 10), Piece::Nothing, (110, 10)),
        (100, 20, (110, 15), Piece::From(10), (125, 0)),
        (100, 20, (120, 5), Piece::From(0), (125, 0)),
        (100, 20, (121, 5), Piece::Gap, (100, 20)),
        (100, 3, (95, 10), Piece::From(8), (105, 0)),
        (100, 0, (100, 0), Piece::Nothing, (100, 0)),
        (huge, 0, (huge, 20), Piece::From(0), (10, 0)),
        (huge, 100, (5, 10), Piece::Nothing, (15, 75)),
        (15, 75, (huge, 15), Piece::Nothing, (15, 75)),
        (5, 0, (huge, 20), Piece::From(15), (10, 0)),
    ] {
        check(next, skip, packet, piece, after);
    }
}

proptest! {
    /// Sent again, cut otherwise or late where it does not matter: each byte that matters is
    /// looked at once, in order.
    #[test]
    fn bytes_that_matter_are_seen_once(
        start: u32,
        cuts in prop::collection::vec((0u32..60, 1u32..80), 1..60),
        bodies in prop::collection::vec((1u32..40, 0u64..60), 1..20),
    ) {
        let (mut order, mut skip) = (Order { next: start }, 0u64);
        let mut bodies = bodies.into_iter().cycle();
        let (mut seen, mut until_body) = (0u64, bodies.next().expect("some").0);
        let mut wire = 0u64;
        for (back, length) in cuts {
            let from = wire.saturating_sub(u64::from(back));
            wire = wire.max(from + u64::from(length));
            let seq = start.wrapping_add(from as u32);
            let before = seen + skip;
            match order.place(seq, length, &mut skip) {
                Piece::Gap => prop_assert!(false, "nothing is missing"),
                Piece::Nothing => {
                    prop_assert!(from + u64::from(length) <= before);
                    seen = before - skip;
                }
                Piece::From(at) => {
                    prop_assert_eq!(from + u64::from(at), before);
                    seen = before;
                    // A reader of the bytes that decides what to skip.
                    let mut left = u64::from(length - at);
                    while left > 0 {
                        let read = left.min(u64::from(until_body));
                        (seen, left) = (seen + read, left - read);
                        until_body -= read as u32;
                        if until_body == 0 {
                            let (next, body) = bodies.next().expect("some");
                            let now = body.min(left);
                            (until_body, skip) = (next, body - now);
                            (seen, left) = (seen + now, left - now);
                        }
                    }
                }
            }
        }
    }
}
