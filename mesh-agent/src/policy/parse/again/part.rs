//! Which part of a file of rules has to be parsed after a change.

use std::sync::Arc;

use crate::policy::model::Rule;

/// Whole lines of a file, and the old rules that stand around them.
#[derive(Debug)]
pub(super) struct Part<'s> {
    /// What has to be parsed.
    pub(super) text: &'s str,
    /// Lines of the file before `text`.
    pub(super) lines_before: u32,
    /// Unchanged rules before `text`.
    pub(super) before: &'s [Arc<Rule>],
    /// Unchanged rules after `text`.
    pub(super) after: &'s [Arc<Rule>],
    /// How many lines further down those after `text` stand now.
    pub(super) moved: i64,
}

impl<'s> Part<'s> {
    /// All of a file.
    pub(super) fn whole(text: &'s str) -> Self {
        Self {
            text,
            lines_before: 0,
            before: &[],
            after: &[],
            moved: 0,
        }
    }

    /// What of `new` can mean something else than in `old`, whose rules are `rules`; `None` if
    /// that cannot be told.
    pub(super) fn difference(old: &str, new: &'s str, rules: &'s [Arc<Rule>]) -> Option<Self> {
        let starts = sections(old, 0, rules)?;
        let (prefix, suffix) = common(old.as_bytes(), new.as_bytes());
        // The first line must be the same to its end, and what follows from the end of the
        // line before it.
        let begins_alike = |start: &usize| {
            let line = old.get(*start..prefix);
            line.is_some_and(|line| line.contains('\n'))
        };
        let before = starts.partition_point(begins_alike).saturating_sub(1);
        let begin = starts.get(before).copied().filter(begins_alike);
        let after = starts.partition_point(|start| *start <= old.len() - suffix);
        let end = starts.get(after).copied().unwrap_or(old.len());
        let (begin, new_end) = (begin.unwrap_or(0), new.len() - (old.len() - end));
        let text = new.get(begin..new_end)?;
        Some(Self {
            text,
            lines_before: lines(new.get(..begin)?) as u32,
            before: rules.get(..before)?,
            after: rules.get(after..)?,
            moved: lines(text) as i64 - lines(old.get(begin..end)?) as i64,
        })
    }

    /// Whether the rules around `text`, which is `rules`, mean what they meant.
    pub(super) fn stands_alone(&self, rules: &[Arc<Rule>]) -> bool {
        let whole = self.before.is_empty() && self.after.is_empty();
        whole || sections(self.text, self.lines_before, rules).is_some()
    }
}

/// Where the lines begin that a rule begins on; `None` if anything stands before the first, or
/// another line begins with `[` too.
///
/// If not, what stands from one of these lines up to another means the same whatever is around
/// it: no string or list goes on over such a line, which would be no rule's, and no table adds
/// to a rule further up.
fn sections(text: &str, lines_before: u32, rules: &[Arc<Rule>]) -> Option<Vec<usize>> {
    let mut starts = Vec::with_capacity(rules.len());
    let mut offset = 0;
    for (number, line) in (lines_before + 1..).zip(text.split_inclusive('\n')) {
        let content = line.trim_start_matches([' ', '\t']);
        if content.starts_with('[') {
            let rule = rules.get(starts.len())?;
            if rule.place.line != number {
                return None;
            }
            starts.push(offset);
        } else if starts.is_empty() && !is_blank(content) {
            return None;
        }
        offset += line.len();
    }
    (starts.len() == rules.len()).then_some(starts)
}

fn is_blank(content: &str) -> bool {
    matches!(
        content.as_bytes(),
        [] | [b'#', ..] | [b'\n'] | [b'\r', b'\n']
    )
}

/// How many bytes two texts have in common at the beginning, and of the rest at the end.
fn common(a: &[u8], b: &[u8]) -> (usize, usize) {
    /// Bytes that are compared at once.
    const BLOCK: usize = 4096;
    let blocks = a.chunks_exact(BLOCK).zip(b.chunks_exact(BLOCK));
    let same = BLOCK * blocks.take_while(|(a, b)| a == b).count();
    let bytes = a[same..].iter().zip(&b[same..]);
    let prefix = same + bytes.take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[prefix..], &b[prefix..]);
    let blocks = a.rchunks_exact(BLOCK).zip(b.rchunks_exact(BLOCK));
    let same = BLOCK * blocks.take_while(|(a, b)| a == b).count();
    let bytes = a.iter().rev().zip(b.iter().rev()).skip(same);
    (prefix, same + bytes.take_while(|(a, b)| a == b).count())
}

fn lines(text: &str) -> usize {
    text.as_bytes()
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_beginnings_and_ends_do_not_overlap() {
        let long = "x".repeat(10_000);
        for (a, b, expected) in [
            ("", "", (0, 0)),
            ("abc", "abc", (3, 0)),
            ("abc", "abbc", (2, 1)),
            ("aa", "aaa", (2, 0)),
            ("xay", "xby", (1, 1)),
            ("ab", "cd", (0, 0)),
            (
                &format!("{long}a{long}"),
                &format!("{long}b{long}"),
                (10_000, 10_000),
            ),
            (&long, &format!("{long}{long}"), (10_000, 0)),
        ] {
            assert_eq!(common(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
        }
    }
}
