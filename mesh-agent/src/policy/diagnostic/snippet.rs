//! The part of a source line that is shown under a label.

/// A line, cut around what is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snippet {
    /// What is shown.
    pub(crate) text: String,
    /// How many characters of `text` come before what is meant.
    pub(crate) before: usize,
    /// How many characters of `text` are meant.
    pub(crate) length: usize,
}

impl Snippet {
    /// Cuts `line` around the bytes from `start` to `end`, which are character boundaries in it.
    pub(crate) fn cut(line: &str, start: usize, end: usize) -> Self {
        let (head, rest) = line.split_at_checked(start).unwrap_or((line, ""));
        let (meant, tail) = rest
            .split_at_checked(end.saturating_sub(start))
            .unwrap_or((rest, ""));
        let (head, head_cut) = last_chars(head, MOST_BEFORE);
        let (meant, meant_cut) = first_chars(meant, MOST_MEANT);
        let (tail, tail_cut) = first_chars(tail, MOST_AFTER);
        let mut text = String::new();
        text.push_str(if head_cut { ELLIPSIS } else { "" });
        text.push_str(head);
        let before = text.chars().count();
        text.push_str(meant);
        if meant_cut {
            text.push_str(ELLIPSIS);
        } else {
            text.push_str(tail);
            text.push_str(if tail_cut { ELLIPSIS } else { "" });
        }
        let length = meant.chars().count().max(1);
        Self {
            text,
            before,
            length,
        }
    }
}

fn first_chars(text: &str, most: usize) -> (&str, bool) {
    match text.char_indices().nth(most) {
        Some((at, _)) => (text.get(..at).unwrap_or_default(), true),
        None => (text, false),
    }
}

fn last_chars(text: &str, most: usize) -> (&str, bool) {
    match text.char_indices().rev().nth(most) {
        Some((at, c)) => (text.get(at + c.len_utf8()..).unwrap_or_default(), true),
        None => (text, false),
    }
}

const ELLIPSIS: &str = "...";
const MOST_BEFORE: usize = 80;
const MOST_MEANT: usize = 100;
const MOST_AFTER: usize = 60;
