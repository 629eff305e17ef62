//! A TOML file as tables whose every value knows its place.
//!
//! The fields of a table are asked for one by one, so that one bad value hides no other, and
//! what was never asked for is an unknown field.

use std::ops::Range;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::decode;
use super::suggest;
use crate::policy::diagnostic::{Diagnostic, Label, Problems, Snippet};
use crate::policy::model::Place;

/// A file's text and where its lines begin.
pub(crate) struct Document<'s> {
    name: Arc<str>,
    text: &'s str,
    lines: Vec<usize>,
    /// Lines of the file before `text`.
    lines_before: u32,
}

/// What was read, or all that is wrong with it.
pub(crate) fn unless_broken<T>(
    (read, problems): (T, Vec<Diagnostic>),
) -> Result<T, Vec<Diagnostic>> {
    match problems.is_empty() {
        true => Ok(read),
        false => Err(problems),
    }
}

impl<'s> Document<'s> {
    pub(crate) fn new(name: Arc<str>, text: &'s str) -> Self {
        Self::after(0, name, text)
    }

    /// Whole lines of a file, of which `lines_before` come first.
    pub(crate) fn after(lines_before: u32, name: Arc<str>, text: &'s str) -> Self {
        // A byte order mark is no column.
        let first = if text.starts_with('\u{feff}') { 3 } else { 0 };
        let starts = text.match_indices('\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(first).chain(starts).collect();
        Self {
            name,
            text,
            lines,
            lines_before,
        }
    }

    /// The whole of it as a table; what is wrong with its syntax, if anything.
    pub(crate) fn table(&self) -> Result<DeTable<'s>, Vec<Diagnostic>> {
        unless_broken(self.recovered())
    }

    /// What of it could be read as a table, and what is wrong with the syntax of the rest.
    pub(crate) fn recovered(&self) -> (DeTable<'s>, Vec<Diagnostic>) {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        let problems = match errors.is_empty() {
            true => Vec::new(),
            false => super::syntax::diagnostics(self, errors),
        };
        (table.into_inner(), problems)
    }

    pub(crate) fn span(&self, range: Range<usize>) -> Span<'_> {
        Span {
            document: self,
            start: range.start,
            end: range.end,
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn text(&self) -> &'s str {
        self.text
    }

    /// Index, start and text of the line with the byte at `offset`.
    fn line(&self, offset: usize) -> (usize, usize, &'s str) {
        let index = self.lines.partition_point(|start| *start <= offset);
        let index = index.saturating_sub(1);
        let start = self.lines.get(index).copied().unwrap_or_default();
        let rest = self.text.get(start..).unwrap_or_default();
        let line = rest.split('\n').next().unwrap_or_default();
        (index, start, line.strip_suffix('\r').unwrap_or(line))
    }
}

/// Part of a file.
#[derive(Clone, Copy)]
pub(crate) struct Span<'d> {
    document: &'d Document<'d>,
    start: usize,
    end: usize,
}

impl<'d> Span<'d> {
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    pub(crate) fn place(&self) -> Place {
        let (index, start, line) = self.document.line(self.start);
        let before = line.get(..self.start.saturating_sub(start)).unwrap_or(line);
        Place {
            file: Arc::clone(&self.document.name),
            line: self.document.lines_before + index as u32 + 1,
            column: before.chars().count() as u32 + 1,
        }
    }

    pub(crate) fn label(&self, text: impl Into<String>) -> Label {
        let (_, start, line) = self.document.line(self.start);
        let from = self.start.saturating_sub(start).min(line.len());
        let to = self.end.saturating_sub(start).clamp(from, line.len());
        let meant = line.get(from..to).unwrap_or_default();
        Label {
            length: Some(meant.chars().count().max(1) as u32),
            snippet: Some(Snippet::cut(line, from, to)),
            ..Label::at(&self.place(), text)
        }
    }

    pub(crate) fn at<T>(self, value: T) -> Located<'d, T> {
        Located { value, span: self }
    }
}

/// Something and where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Located<'d, T> {
    pub(crate) value: T,
    pub(crate) span: Span<'d>,
}

impl<'d, T> Located<'d, T> {
    pub(crate) fn label(&self, text: impl Into<String>) -> Label {
        self.span.label(text)
    }

    /// An error here.
    pub(crate) fn error(
        &self,
        code: &'static str,
        message: impl Into<String>,
        text: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic::error(code, message).label(self.label(text))
    }

    /// A warning here.
    pub(crate) fn warning(
        &self,
        code: &'static str,
        message: impl Into<String>,
        text: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic::warning(code, message).label(self.label(text))
    }
}

/// A value as it stands in the file.
pub(crate) type Value<'d> = Located<'d, &'d DeValue<'d>>;

/// A list, of which some elements may not have been understood.
pub(crate) struct List<'d, T> {
    pub(crate) items: Vec<T>,
    /// Whether all elements were understood.
    pub(crate) complete: bool,
    /// Where it stands; `None` if it does not.
    pub(crate) span: Option<Span<'d>>,
}

/// The fields of one table, being read.
pub(crate) struct Fields<'d, 'p> {
    table: &'d DeTable<'d>,
    /// Where the table stands.
    pub(crate) span: Span<'d>,
    /// What it is called in messages, such as `[[service]]`.
    noun: &'static str,
    asked: Vec<&'static str>,
    missing: Vec<(&'static str, String)>,
    sound: bool,
    pub(crate) problems: &'p mut Problems,
}

impl<'d, 'p> Fields<'d, 'p> {
    pub(crate) fn new(
        table: &'d DeTable<'d>,
        span: Span<'d>,
        noun: &'static str,
        problems: &'p mut Problems,
    ) -> Self {
        Self {
            table,
            span,
            noun,
            asked: Vec::new(),
            missing: Vec::new(),
            sound: true,
            problems,
        }
    }

    /// The fields of `value`, if it is a table.
    pub(crate) fn of(
        value: Value<'d>,
        noun: &'static str,
        example: &str,
        problems: &'p mut Problems,
    ) -> Option<Self> {
        match value.value {
            DeValue::Table(table) => Some(Self::new(table, value.span, noun, problems)),
            _ => {
                problems.push(decode::wrong_type(
                    value,
                    &format!("{noun} is a table"),
                    example,
                ));
                None
            }
        }
    }

    /// The value of `key`.
    pub(crate) fn value(&mut self, key: &'static str) -> Option<Value<'d>> {
        self.asked.push(key);
        let value = self.table.get(key)?;
        let span = self.span.document.span(value.span());
        Some(span.at(value.get_ref()))
    }

    /// Whether `key` is there, understood or not.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The value of `key`, decoded.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        decode: impl FnOnce(Value<'d>) -> Result<T, Diagnostic>,
    ) -> Option<Located<'d, T>> {
        let value = self.value(key)?;
        let decoded = self.problems.ok(decode(value));
        self.sound &= decoded.is_some();
        decoded.map(|decoded| value.span.at(decoded))
    }

    /// As [`optional`](Self::optional), and a problem if there is none.
    pub(crate) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        decode: impl FnOnce(Value<'d>) -> Result<T, Diagnostic>,
    ) -> Option<Located<'d, T>> {
        if !self.has(key) {
            self.asked.push(key);
            self.sound = false;
            self.missing.push((key, example.to_owned()));
            return None;
        }
        self.optional(key, decode)
    }

    /// The list at `key`; empty if there is none.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        example: &str,
        mut decode: impl FnMut(Value<'d>, &mut Problems) -> Option<T>,
    ) -> List<'d, T> {
        let mut list = List {
            items: Vec::new(),
            complete: true,
            span: None,
        };
        let Some(value) = self.value(key) else {
            return list;
        };
        list.span = Some(value.span);
        let DeValue::Array(array) = value.value else {
            let wrong = decode::wrong_type(value, &format!("`{key}` is a list"), example);
            self.problems.push(wrong);
            list.complete = false;
            self.sound = false;
            return list;
        };
        for element in array.iter() {
            let span = self.span.document.span(element.span());
            match decode(span.at(element.get_ref()), self.problems) {
                Some(item) => list.items.push(item),
                None => list.complete = false,
            }
        }
        self.sound &= list.complete;
        list
    }

    /// All keys and values in the order of the file, as of a table whose keys are names.
    pub(crate) fn entries(&self) -> Vec<(Located<'d, &'d str>, Value<'d>)> {
        let entry = |(key, value): (&'d toml::Spanned<_>, &'d toml::Spanned<_>)| {
            let key_span = self.span.document.span(key.span());
            let span = self.span.document.span(value.span());
            let key: &std::borrow::Cow<'d, str> = key.get_ref();
            (key_span.at(&**key), span.at(value.get_ref()))
        };
        let mut entries: Vec<_> = self.table.iter().map(entry).collect();
        entries.sort_by_key(|(key, _)| key.span.start);
        entries
    }

    /// Reports what nobody asked for and what is missing; whether the table was understood as
    /// a whole.
    pub(crate) fn finish(mut self) -> bool {
        for (key, _) in self.entries() {
            if !self.asked.contains(&key.value) {
                self.sound = false;
                let unknown = self.unknown_field(key);
                self.problems.push(unknown);
            }
        }
        for (key, example) in std::mem::take(&mut self.missing) {
            let diagnostic =
                Diagnostic::error("missing-field", format!("{} needs `{key}`", self.noun))
                    .label(self.span.label("missing here"))
                    .help(format!("add {example}"));
            self.problems.push(diagnostic);
        }
        self.sound
    }

    /// A field that was meant to be a missing one is reported once.
    fn unknown_field(&mut self, key: Located<'d, &str>) -> Diagnostic {
        let message = format!("unknown field `{}` in {}", key.value, self.noun);
        let meant = suggest::closest(key.value, self.asked.iter().copied());
        self.missing.retain(|(missing, _)| Some(*missing) != meant);
        let help = match meant {
            Some(field) => format!("did you mean `{field}`?"),
            None => format!(
                "known fields: {}",
                suggest::listed(self.asked.iter().copied())
            ),
        };
        key.error("unknown-field", message, "not a field")
            .help(help)
    }
}
