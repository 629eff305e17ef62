//! A glob matcher too plain to be wrong.

/// Whether `pattern` matches all of `text`: `*` is any run of bytes but `/`, `?` is one.
///
/// Row by row: which prefixes of the text the pattern so far matches.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    for element in pattern {
        let mut next = vec![false; text.len() + 1];
        next[0] = *element == b'*' && row[0];
        for (at, byte) in text.iter().enumerate() {
            next[at + 1] = match element {
                b'*' => row[at + 1] || (next[at] && *byte != b'/'),
                b'?' => row[at] && *byte != b'/',
                other => row[at] && other == byte,
            };
        }
        row = next;
    }
    row[text.len()]
}

/// The first component of a path that is not a slice, and where it ends.
pub fn unit(path: &[u8]) -> Option<(usize, usize)> {
    let mut start = 0;
    for component in path.split(|byte| *byte == b'/') {
        let end = start + component.len();
        if !component.is_empty() && !component.ends_with(b".slice") {
            return Some((start, end));
        }
        start = end + 1;
    }
    None
}
