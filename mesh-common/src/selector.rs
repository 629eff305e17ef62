//! Which cgroups are a service: a list of patterns, walked once when a cgroup is created.
//!
//! The matching is written as single steps over bytes, so that the kernel program (inside
//! `bpf_loop`) and the agent run the same code.

/// Longest cgroup path that can be attributed, bytes; longer ones stay unknown callers.
pub const MAX_PATH: usize = 512;
/// Longest pattern, bytes.
pub const MAX_PATTERN: usize = 184;

/// What a [`Selector`]'s pattern is held against.
pub mod selector_kind {
    /// The system unit of the path: its first component that is not a slice.
    pub const UNIT: u8 = 0;
    /// The path from the root, whole components from the first on.
    pub const PATH: u8 = 1;
}

/// One pattern and whom it stands for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selector {
    /// Subject id of the service.
    pub subject: u32,
    /// [`selector_kind`].
    pub kind: u8,
    /// Length of the pattern.
    pub length: u8,
    /// Zero.
    pub _pad: [u8; 2],
    /// The pattern: `*` is any run of characters but `/`, `?` is one of them.
    pub pattern: [u8; MAX_PATTERN],
}
const _: () = assert!(size_of::<Selector>() == 192);

/// Stands for "past the end" where a byte is expected.
pub const END: u16 = 256;

/// A match in progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct Glob {
    /// Position in the pattern.
    pub pattern: u32,
    /// Position in the text.
    pub text: u32,
    /// Position after the last `*` seen, plus one; 0 before there is one.
    pub star_pattern: u32,
    /// Up to where that `*` has eaten the text.
    pub star_text: u32,
}

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Go on.
    More,
    /// The pattern matched up to [`Glob::text`], a component's end.
    Match,
    /// It does not match.
    NoMatch,
}

/// Advances a match by one step. The bytes are those at the positions in `glob`, 256 where a
/// position is past the end.
#[inline(always)]
pub fn glob_step(glob: &mut Glob, pattern: u16, text: u16, star_text: u16) -> Step {
    const SLASH: u16 = b'/' as u16;
    if pattern == b'*' as u16 {
        glob.pattern += 1;
        glob.star_pattern = glob.pattern + 1;
        glob.star_text = glob.text;
        return Step::More;
    }
    if pattern == END {
        if text == END || text == SLASH {
            return Step::Match;
        }
    } else if text != END && (pattern == text || (pattern == b'?' as u16 && text != SLASH)) {
        glob.pattern += 1;
        glob.text += 1;
        return Step::More;
    }
    if glob.star_pattern == 0 || star_text == END || star_text == SLASH {
        return Step::NoMatch;
    }
    glob.star_text += 1;
    glob.text = glob.star_text;
    glob.pattern = glob.star_pattern - 1;
    Step::More
}

/// The search for the system unit of a path: its first component that does not end in
/// `.slice`. systemd nests slices only in slices, so a unit of that name below somebody's
/// delegated service or session is a later component and not it.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnitScan {
    /// Position in the path.
    pub at: u32,
    /// Where the component began.
    pub start: u32,
    /// Its last six bytes.
    pub tail: u64,
}

impl UnitScan {
    /// A search from position `from` on.
    #[inline(always)]
    pub const fn from(from: u32) -> Self {
        Self {
            at: from,
            start: from,
            tail: 0,
        }
    }

    /// Takes in the byte at [`Self::at`], 256 past the end. When it is a [`Step::Match`] the
    /// unit is `start..at`.
    #[inline(always)]
    pub fn step(&mut self, byte: u16) -> Step {
        const SUFFIX: u64 = u64::from_be_bytes(*b"\0\0.slice");
        if byte == END || byte == b'/' as u16 {
            if self.at > self.start && self.tail != SUFFIX {
                return Step::Match;
            }
            if byte == END {
                return Step::NoMatch;
            }
            self.start = self.at + 1;
            self.tail = 0;
        } else {
            self.tail = ((self.tail << 8) | byte as u64) & 0xffff_ffff_ffff;
        }
        self.at += 1;
        Step::More
    }
}

/// Span of the system unit in `path` from `from` on; `None` where all components are slices.
pub fn unit_span(path: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut scan = UnitScan::from(from as u32);
    loop {
        match scan.step(byte_at(path, scan.at)) {
            Step::More => {}
            Step::Match => return Some((scan.start as usize, scan.at as usize)),
            Step::NoMatch => return None,
        }
    }
}

fn byte_at(text: &[u8], at: u32) -> u16 {
    text.get(at as usize).map_or(END, |byte| u16::from(*byte))
}

impl Selector {
    /// A selector of `pattern`; `None` if that is longer than [`MAX_PATTERN`].
    pub fn new(subject: u32, kind: u8, pattern: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_PATTERN];
        bytes.get_mut(..pattern.len())?.copy_from_slice(pattern);
        let length = pattern.len() as u8;
        Some(Self {
            subject,
            kind,
            length,
            _pad: [0; 2],
            pattern: bytes,
        })
    }

    /// The pattern's bytes.
    pub fn pattern(&self) -> &[u8] {
        self.pattern
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }

    /// How much of `path` the selector matches: up to the end of the cgroup it names, of which
    /// `path` is the path or that of a descendant. `root` is how much of the path precedes the
    /// part selectors are about.
    pub fn matches(&self, path: &[u8], root: usize) -> Option<usize> {
        let (start, end) = if self.kind == selector_kind::UNIT {
            unit_span(path, root)?
        } else {
            (root, path.len())
        };
        let (pattern, text) = (self.pattern(), path.get(start..end)?);
        let mut glob = Glob::default();
        loop {
            let here = byte_at(pattern, glob.pattern);
            let (there, star) = (byte_at(text, glob.text), byte_at(text, glob.star_text));
            let step = glob_step(&mut glob, here, there, star);
            match step {
                Step::More => {}
                Step::Match => return Some(start + glob.text as usize),
                Step::NoMatch => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    fn unit(pattern: &str, path: &str) -> bool {
        let selector = Selector::new(1, selector_kind::UNIT, pattern.as_bytes()).expect("short");
        selector.matches(path.as_bytes(), 0).is_some()
    }

    fn path(pattern: &str, path: &str) -> Option<usize> {
        let selector = Selector::new(1, selector_kind::PATH, pattern.as_bytes()).expect("short");
        selector.matches(path.as_bytes(), 0)
    }

    #[test]
    fn units_are_found_where_systemd_puts_them() {
        for (pattern, text, expected) in [
            ("a.service", "/system.slice/a.service", true),
            ("a.service", "/a.service", true),
            ("a.service", "/system.slice/a.service/child", true),
            ("a.service", "/system.slice/b.service", false),
            ("a.service", "/system.slice/a.service2", false),
            ("a.service", "/system.slice/xa.service", false),
            (
                "a@*.service",
                "/system.slice/system-a.slice/a@1.service",
                true,
            ),
            ("a-*.service", "/system.slice/a-v1.service", true),
            ("a-*.service", "/system.slice/a-.service", true),
            ("a-*.service", "/system.slice/a-v1.service.d", false),
            ("*a*b*", "/system.slice/xxaxxbxx", true),
            ("*a*b*", "/system.slice/xxbxxaxx", false),
            ("a?c.service", "/system.slice/abc.service", true),
            ("a?c.service", "/system.slice/ac.service", false),
            (
                "a.service",
                "/user.slice/user-1.slice/user@1.service/app.slice/a.service",
                false,
            ),
            ("a.service", "/system.slice/evil.service/a.service", false),
            (
                "a.service",
                "/system.slice/evil.service/system.slice/a.service",
                false,
            ),
            ("a.service", "/system.slice", false),
            ("a.service", "/", false),
            ("*", "/system.slice", false),
        ] {
            assert_eq!(unit(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn paths_match_whole_components_from_the_root() {
        for (pattern, text, expected) in [
            ("/m.slice/a-*.scope", "/m.slice/a-1.scope", Some(18)),
            ("/m.slice/a-*.scope", "/m.slice/a-1.scope/x", Some(18)),
            ("/m.slice/a-*.scope", "/m.slice/a-1/x.scope", None),
            ("/m.slice/a-*.scope", "/x/m.slice/a-1.scope", None),
            ("/k/*/*/c-*", "/k/a/b/c-1", Some(10)),
            ("/k/*/*/c-*", "/k/a/c-1", None),
            ("/k", "/kk", None),
            ("/k", "/k", Some(2)),
        ] {
            assert_eq!(path(pattern, text), expected, "{pattern} on {text}");
        }
    }

    /// A matcher too plain to be wrong: recursion over what `*` may eat.
    fn plain(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                plain(rest, text)
                    || text
                        .split_first()
                        .is_some_and(|(c, t)| *c != b'/' && plain(pattern, t))
            }
            (Some((b'?', p)), Some((c, t))) => *c != b'/' && plain(p, t),
            (Some((a, p)), Some((b, t))) => a == b && plain(p, t),
            _ => false,
        }
    }

    proptest::proptest! {
        #[test]
        fn steps_agree_with_the_plain_matcher(pattern in "/[ab*?/]{0,8}", text in "/[ab/]{0,10}") {
            let ends = (1..=text.len()).filter(|end| {
                text.as_bytes().get(*end).is_none_or(|c| *c == b'/')
            });
            let expected = ends.into_iter().any(|end| {
                plain(pattern.as_bytes(), &text.as_bytes()[..end])
            });
            proptest::prop_assert_eq!(path(&pattern, &text).is_some(), expected);
        }
    }
}
