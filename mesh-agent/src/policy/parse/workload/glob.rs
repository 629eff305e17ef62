//! Whether two patterns have a name in common. `*` is any run of characters but `/`, `?` one.

use std::collections::{BTreeMap, VecDeque};

/// What comes before the first wildcard.
pub(super) fn literal_start(pattern: &str) -> &str {
    pattern.split(['*', '?']).next().unwrap_or_default()
}

fn literal_end(pattern: &str) -> &str {
    pattern.rsplit(['*', '?']).next().unwrap_or_default()
}

/// A shortest name that both patterns match.
///
/// A breadth-first walk over pairs of positions; each step either passes a `*` or consumes one
/// character in both.
pub(super) fn common(a: &str, b: &str) -> Option<String> {
    let (end_a, end_b) = (literal_end(a), literal_end(b));
    if !end_a.ends_with(end_b) && !end_b.ends_with(end_a) {
        return None;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut came_from: Visited = BTreeMap::from([((0, 0), None)]);
    let mut queue = VecDeque::from([(0, 0)]);
    while let Some(at) = queue.pop_front() {
        if at == (a.len(), b.len()) {
            return Some(spell(&came_from, at));
        }
        for (next, consumed) in steps(&a, &b, at) {
            if let std::collections::btree_map::Entry::Vacant(entry) = came_from.entry(next) {
                entry.insert(Some((at, consumed)));
                queue.push_back(next);
            }
        }
    }
    None
}

type At = (usize, usize);
type Visited = BTreeMap<At, Option<(At, Option<char>)>>;

fn steps(a: &[char], b: &[char], (i, j): At) -> Vec<(At, Option<char>)> {
    let (x, y) = (a.get(i).copied(), b.get(j).copied());
    let mut steps = Vec::new();
    if x == Some('*') {
        steps.push(((i + 1, j), None));
    }
    if y == Some('*') {
        steps.push(((i, j + 1), None));
    }
    if let (Some(x), Some(y)) = (x, y)
        && let Some(c) = both(x, y)
    {
        let after = |at: usize, element: char| if element == '*' { at } else { at + 1 };
        steps.push(((after(i, x), after(j, y)), Some(c)));
    }
    steps
}

/// A character that both pattern elements match.
fn both(x: char, y: char) -> Option<char> {
    let wild = |c: char| c == '*' || c == '?';
    match (wild(x), wild(y)) {
        (true, true) => Some('x'),
        (true, false) => (y != '/').then_some(y),
        (false, true) => (x != '/').then_some(x),
        (false, false) => (x == y).then_some(x),
    }
}

fn spell(came_from: &Visited, mut at: At) -> String {
    let mut name: Vec<char> = Vec::new();
    while let Some(Some((before, consumed))) = came_from.get(&at) {
        name.extend(consumed);
        at = *before;
    }
    name.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::common;
    use mesh_common::{Selector, selector_kind};

    #[test]
    fn names_in_common() {
        for (a, b, expected) in [
            ("a-*.service", "a-b*.service", Some("a-b.service")),
            ("a-*.service", "b-*.service", None),
            ("*-v1.service", "pay-*.service", Some("pay-v1.service")),
            ("a?.service", "a??.service", None),
            ("a?.service", "a*b.service", Some("ab.service")),
            ("a?b.service", "ab*.service", Some("abb.service")),
            ("*.service", "*.scope", None),
            ("/a/*", "/a/*/b", None),
            ("/a/*/c", "/*/b/c", Some("/a/b/c")),
            ("/a?b", "/a/b", None),
        ] {
            assert_eq!(common(a, b).as_deref(), expected, "{a} {b}");
            assert_eq!(common(b, a).is_some(), expected.is_some(), "{b} {a}");
        }
    }

    fn matches(pattern: &str, text: &str) -> bool {
        let selector = Selector::new(0, selector_kind::PATH, pattern.as_bytes()).expect("short");
        selector.matches(text.as_bytes(), 0) == Some(text.len())
    }

    proptest::proptest! {
        #[test]
        fn what_is_found_matches_both(a in "/[ab*?]{0,6}", b in "/[ab*?]{0,6}", text in "/[abx]{0,8}") {
            match common(&a, &b) {
                Some(name) => {
                    proptest::prop_assert!(matches(&a, &name), "{} on {}", a, name);
                    proptest::prop_assert!(matches(&b, &name), "{} on {}", b, name);
                }
                None => proptest::prop_assert!(!(matches(&a, &text) && matches(&b, &text)), "{}", text),
            }
        }
    }
}
