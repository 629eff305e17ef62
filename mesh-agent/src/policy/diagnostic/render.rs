//! Diagnostics as people read them: place, source line, carets, help.

use std::fmt::Write;

use super::{Diagnostic, Label, Severity, Snippet};

pub(super) fn render(diagnostic: &Diagnostic, color: bool) -> String {
    let paint = Paint { color };
    let mut out = String::new();
    let kind = match diagnostic.severity {
        Severity::Error => RED,
        Severity::Warning => YELLOW,
    };
    let title = format!("{}[{}]", diagnostic.severity.name(), diagnostic.code);
    let message = format!(": {}", one_line(&diagnostic.message));
    line(
        &mut out,
        &[paint.with(kind, &title), paint.with(BOLD, &message)],
    );
    let widest = diagnostic.labels.iter().map(|l| l.line).max().unwrap_or(0);
    let gutter = if widest == 0 {
        1
    } else {
        widest.to_string().len()
    };
    for (index, label) in diagnostic.labels.iter().enumerate() {
        let style = if index == 0 {
            Style {
                arrow: "-->",
                caret: '^',
                color: kind,
            }
        } else {
            SECOND
        };
        render_label(&mut out, label, &style, gutter, paint);
    }
    if let Some(help) = &diagnostic.help {
        let indent = " ".repeat(gutter + 1);
        line(
            &mut out,
            &[
                indent,
                paint.with(BLUE, "= "),
                paint.with(BOLD, "help"),
                format!(": {}", one_line(help)),
            ],
        );
    }
    out
}

struct Style {
    arrow: &'static str,
    caret: char,
    color: &'static str,
}

const SECOND: Style = Style {
    arrow: ":::",
    caret: '-',
    color: BLUE,
};

fn render_label(out: &mut String, label: &Label, style: &Style, gutter: usize, paint: Paint) {
    let indent = " ".repeat(gutter);
    let bar = paint.with(BLUE, "|");
    let arrow = paint.with(BLUE, style.arrow);
    let location = label.location();
    let text = one_line(&label.text);
    let Some(snippet) = &label.snippet else {
        let text = if text.is_empty() {
            text
        } else {
            format!(": {text}")
        };
        line(out, &[indent, arrow, format!(" {location}{text}")]);
        return;
    };
    line(out, &[indent.clone(), arrow, format!(" {location}")]);
    line(out, &[format!("{indent} "), bar.clone()]);
    let number = paint.with(BLUE, &format!("{:>gutter$}", label.line));
    let shown = Shown::new(snippet);
    line(
        out,
        &[number, " ".into(), bar.clone(), format!(" {}", shown.text)],
    );
    let carets = style.caret.to_string().repeat(shown.width);
    let marks = paint.with(style.color, format!("{carets} {text}").trim_end());
    line(
        out,
        &[
            format!("{indent} "),
            bar.clone(),
            format!(" {}{marks}", " ".repeat(shown.before)),
        ],
    );
    line(out, &[format!("{indent} "), bar]);
}

/// A snippet as a terminal shows it; widths in terminal columns.
struct Shown {
    text: String,
    before: usize,
    width: usize,
}

impl Shown {
    fn new(snippet: &Snippet) -> Self {
        let mut shown = Self {
            text: String::new(),
            before: 0,
            width: 0,
        };
        let meant = snippet.before..snippet.before + snippet.length;
        for (index, c) in snippet.text.chars().enumerate() {
            let width = shown.show(c);
            if index < meant.start {
                shown.before += width;
            } else if meant.contains(&index) {
                shown.width += width;
            }
        }
        shown.width = shown.width.max(1);
        shown
    }

    fn show(&mut self, c: char) -> usize {
        if c == '\t' {
            self.text.push_str("    ");
            return 4;
        }
        let c = printable(c);
        self.text.push(c);
        width(c)
    }
}

/// `text` without anything that would move a terminal's cursor or reorder what it shows.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(printable).collect()
}

fn printable(c: char) -> char {
    match c {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// Columns a terminal gives to `c`; near enough to put a caret in the right place.
fn width(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200d | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

fn line(out: &mut String, parts: &[String]) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}", parts.concat().trim_end());
}

#[derive(Clone, Copy)]
struct Paint {
    color: bool,
}

impl Paint {
    fn with(self, style: &str, text: &str) -> String {
        if self.color {
            format!("{style}{text}{RESET}")
        } else {
            text.to_owned()
        }
    }
}

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const BLUE: &str = "\x1b[1;34m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";
