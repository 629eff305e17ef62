//! From OpenMetrics, as prometheus-client writes it, to the text format 0.0.4.
//!
//! Three things differ in what we expose, which has no exemplars: a counter's metadata names the
//! sample (`x_total`), not the family; an info is a gauge named `x_info`; units and the end mark do
//! not exist.

use std::fmt;
use std::mem::take;

use memchr::memmem::find;
use memchr::memrchr;

/// How much is converted at once, bytes: lines come in many small parts.
const CHUNK: usize = 32 << 10;

/// Converts what is written to it and writes it to `W`.
#[derive(Debug)]
pub(crate) struct TextWriter<W> {
    out: W,
    /// What has not been converted yet.
    waiting: String,
    help: Option<(String, String)>,
}

impl<W: fmt::Write> TextWriter<W> {
    /// One that has written nothing yet.
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            waiting: String::with_capacity(CHUNK * 2),
            help: None,
        }
    }

    /// Writes what is left.
    ///
    /// # Errors
    ///
    /// Those of `W`.
    pub(crate) fn finish(mut self) -> fmt::Result {
        self.pass(self.waiting.len())
    }

    /// Passes so many bytes of whole lines on.
    fn pass(&mut self, end: usize) -> fmt::Result {
        let mut waiting = take(&mut self.waiting);
        let mut lines = &waiting[..end];
        while !lines.is_empty() {
            let samples = match lines.starts_with('#') {
                true => 0,
                false => find(lines.as_bytes(), b"\n#").map_or(lines.len(), |feed| feed + 1),
            };
            self.out.write_str(&lines[..samples])?;
            let (line, rest) = lines[samples..].split_once('\n').unwrap_or_default();
            self.convert(line.strip_prefix("# ").unwrap_or_default())?;
            lines = rest;
        }
        waiting.drain(..end);
        self.waiting = waiting;
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
        self.waiting.push_str(text);
        if self.waiting.len() < CHUNK {
            return Ok(());
        }
        let feed = memrchr(b'\n', self.waiting.as_bytes());
        feed.map_or(Ok(()), |feed| self.pass(feed + 1))
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

    fn converted<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
        let mut text = String::new();
        let mut writer = TextWriter::new(&mut text);
        for part in parts {
            writer.write_str(part).expect("memory");
        }
        writer.finish().expect("memory");
        text
    }

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
            assert_eq!(converted([openmetrics]), expected);
            let pieces = openmetrics.split_inclusive(|_| true);
            assert_eq!(converted(pieces), expected, "written in pieces");
            let many = openmetrics.repeat(CHUNK / 10);
            assert_eq!(converted([&*many]), expected.repeat(CHUNK / 10), "many");
            let pieces = many.split_inclusive(|_| true);
            assert_eq!(
                converted(pieces),
                expected.repeat(CHUNK / 10),
                "many in pieces"
            );
        }
    }
}
