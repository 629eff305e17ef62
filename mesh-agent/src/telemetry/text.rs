//! From OpenMetrics, as prometheus-client writes it, to the text format 0.0.4.
//!
//! Three things differ in what we expose, which has no exemplars: a counter's metadata names the
//! sample (`x_total`), not the family; an info is a gauge named `x_info`; units and the end mark do
//! not exist.

use std::fmt;

use memchr::memchr;

/// Converts what is written to it and writes it to `W`.
#[derive(Debug)]
pub(crate) struct TextWriter<W> {
    out: W,
    line: Line,
    /// As much of a line of metadata as there is.
    metadata: String,
    help: Option<(String, String)>,
}

/// What is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Nothing yet.
    New,
    Sample,
    Metadata,
}

impl<W: fmt::Write> TextWriter<W> {
    /// One that has written nothing yet.
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            line: Line::New,
            metadata: String::new(),
            help: None,
        }
    }

    /// Takes a part of a line.
    fn part(&mut self, text: &str) -> fmt::Result {
        if self.line == Line::New {
            self.line = match text.starts_with('#') {
                true => Line::Metadata,
                false => Line::Sample,
            };
        }
        match self.line {
            Line::Metadata => self.metadata.push_str(text),
            _ => self.out.write_str(text)?,
        }
        Ok(())
    }

    fn end_line(&mut self) -> fmt::Result {
        if self.line == Line::Metadata {
            let line = std::mem::take(&mut self.metadata);
            self.convert(line.strip_prefix("# ").unwrap_or_default())?;
        } else {
            self.out.write_char('\n')?;
        }
        self.line = Line::New;
        Ok(())
    }

    fn convert(&mut self, metadata: &str) -> fmt::Result {
        let mut words = metadata.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            // The name it will have depends on the type, which comes next.
            (Some("HELP"), Some(name), help) => {
                self.help = Some((name.into(), unquote(help.unwrap_or_default())));
            }
            (Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = rename(kind);
                if let Some((_, help)) = self.help.take_if(|(of, _)| of == name) {
                    writeln!(self.out, "# HELP {name}{suffix} {help}")?;
                }
                writeln!(self.out, "# TYPE {name}{suffix} {kind}")?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl<W: fmt::Write> fmt::Write for TextWriter<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(end) = memchr(b'\n', rest.as_bytes()) {
            if end > 0 {
                self.part(&rest[..end])?;
            }
            self.end_line()?;
            rest = &rest[end + 1..];
        }
        match rest.is_empty() {
            true => Ok(()),
            false => self.part(rest),
        }
    }
}

/// The suffix and the type that a family of an OpenMetrics type has in 0.0.4.
fn rename(kind: &str) -> (&'static str, &str) {
    match kind {
        "counter" => ("_total", kind),
        "info" => ("_info", "gauge"),
        "stateset" => ("", "gauge"),
        "unknown" => ("", "untyped"),
        _ => ("", kind),
    }
}

/// In 0.0.4 a help text has no escape for quotes.
fn unquote(help: &str) -> String {
    help.replace(r#"\""#, "\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    #[test]
    fn openmetrics_becomes_0_0_4() {
        for (openmetrics, expected) in [
            (
                "# HELP a Things.\n# TYPE a counter\na_total{x=\"y\"} 1\n# EOF\n",
                "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"y\"} 1\n",
            ),
            (
                "# HELP b_seconds Time.\n# TYPE b_seconds gauge\n# UNIT b_seconds seconds\nb_seconds 0.5\n",
                "# HELP b_seconds Time.\n# TYPE b_seconds gauge\nb_seconds 0.5\n",
            ),
            (
                "# HELP c Build.\n# TYPE c info\nc_info{v=\"1\"} 1\n",
                "# HELP c_info Build.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n",
            ),
            (
                "# HELP d X.\n# TYPE d histogram\nd_sum 1.0\nd_count 1\nd_bucket{le=\"+Inf\"} 1\n",
                "# HELP d X.\n# TYPE d histogram\nd_sum 1.0\nd_count 1\nd_bucket{le=\"+Inf\"} 1\n",
            ),
            ("# TYPE e unknown\ne 1\n", "# TYPE e untyped\ne 1\n"),
            (
                "# HELP f Say \\\"x\\\" \\n \\\\.\n# TYPE f gauge\nf 1\n",
                "# HELP f Say \"x\" \\n \\\\.\n# TYPE f gauge\nf 1\n",
            ),
            (
                "# HELP g For another.\n# TYPE h gauge\nh 1\n",
                "# TYPE h gauge\nh 1\n",
            ),
            // Label values can look like anything.
            (
                "i_total{x=\"# {a} \\\" # {b} \\\\\"} 1\n",
                "i_total{x=\"# {a} \\\" # {b} \\\\\"} 1\n",
            ),
            ("", ""),
        ] {
            let mut whole = TextWriter::new(String::new());
            whole.write_str(openmetrics).expect("memory");
            assert_eq!(whole.out, expected);

            let mut pieces = TextWriter::new(String::new());
            for character in openmetrics.chars() {
                pieces.write_char(character).expect("memory");
            }
            assert_eq!(pieces.out, expected, "written in pieces");
        }
    }
}
