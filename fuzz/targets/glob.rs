//! The step function that the kernel runs against a plain matcher, for paths and units.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mesh_common::{MAX_PATTERN, Selector, selector_kind, unit_span};
use mesh_fuzz::plain;

/// A pattern and a path over few letters, so that they meet.
#[derive(Arbitrary, Debug)]
struct Case {
    pattern: Vec<u8>,
    path: Vec<u8>,
}

fn spell(bytes: &[u8], alphabet: &[&str], most: usize) -> Vec<u8> {
    let mut spelt = Vec::new();
    for byte in bytes {
        let part = alphabet[usize::from(*byte) % alphabet.len()];
        if spelt.len() + part.len() > most {
            break;
        }
        spelt.extend_from_slice(part.as_bytes());
    }
    spelt
}

fuzz_target!(|case: Case| {
    let pattern = spell(
        &case.pattern,
        &["a", "b", "*", "?", "/", ".slice", "-"],
        MAX_PATTERN,
    );
    let path = spell(&case.path, &["a", "b", "/", ".slice", "-"], 300);
    let selector = |kind| Selector::new(1, kind, &pattern).expect("short enough");

    // Ends of components; the first of them that the pattern reaches counts.
    let ends = (0..=path.len()).filter(|end| path.get(*end).is_none_or(|byte| *byte == b'/'));
    let expected: Vec<usize> = ends
        .filter(|end| plain::matches(&pattern, &path[..*end]))
        .collect();
    let found = selector(selector_kind::PATH).matches(&path, 0);
    match found {
        Some(end) => assert!(expected.contains(&end), "{end} of {expected:?}"),
        None => assert!(expected.is_empty(), "{expected:?}"),
    }

    let unit = plain::unit(&path);
    assert_eq!(unit_span(&path, 0), unit);
    let expected = unit.filter(|(start, end)| plain::matches(&pattern, &path[*start..*end]));
    let found = selector(selector_kind::UNIT).matches(&path, 0);
    assert_eq!(found, expected.map(|(_, end)| end));
});
