//! How commands print: tables for people, documents for programs.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs: a stable document with a `schema_version`.
    Json,
}

/// Whether colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// No colours.
    Plain,
    /// ANSI colours.
    Coloured,
}

/// What a piece of text means to the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Worth knowing.
    Warning,
    /// Wrong.
    Bad,
}

impl Style {
    /// Colours on a terminal, unless `NO_COLOR` is set.
    pub fn of_stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if io::stdout().is_terminal() && !unwanted {
            Self::Coloured
        } else {
            Self::Plain
        }
    }

    /// The text in the colour of its tone.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let colour = match tone {
            Tone::Good => 32,
            Tone::Warning => 33,
            Tone::Bad => 31,
        };
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\x1b[{colour}m{text}\x1b[0m"),
        }
    }
}

/// Rows in aligned columns, two spaces apart; the last column is never padded.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to memory does not fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// The text on one line without anything that a terminal would obey: processes choose their own
/// names, and cgroups theirs.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let hidden = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || hidden {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// Prints to stdout. A reader that has seen enough (`| head`) is no error.
pub fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        eprintln!("cannot write the output: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let rows = [["a", "bb", "c"], ["dddd", "é", "last one"]];
        let rows = rows.map(|row| row.map(String::from));
        assert_eq!(table(&rows), "a     bb  c\ndddd  é   last one\n");
    }

    #[test]
    fn terminals_obey_nobody() {
        for (text, expected) in [
            ("payments-1", "payments-1"),
            ("é ✓", "é ✓"),
            ("a\x1b[2Jb\nc\u{9b}", "a\\u{1b}[2Jb\\nc\\u{9b}"),
            ("x\u{202e}y", "x\\u{202e}y"),
        ] {
            assert_eq!(clean(text), expected);
        }
    }
}
