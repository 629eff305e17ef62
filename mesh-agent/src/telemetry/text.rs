//! From OpenMetrics, as prometheus-client writes it, to the text format 0.0.4.
//!
//! Three things differ in what we expose: a counter's metadata names the sample (`x_total`), not
//! the family; an info is a gauge named `x_info`; units, exemplars and the end mark do not exist.

use std::fmt;

/// Converts what is written to it, line by line.
#[derive(Debug, Default)]
pub(crate) struct TextWriter {
    out: String,
    line: String,
    help: Option<(String, String)>,
}

impl TextWriter {
    /// The converted text.
    pub(crate) fn finish(self) -> String {
        self.out
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        match line.strip_prefix("# ") {
            Some(metadata) => self.metadata(metadata),
            None => self.push(without_exemplar(&line)),
        }
        self.line = line;
        self.line.clear();
    }

    fn metadata(&mut self, metadata: &str) {
        let mut words = metadata.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            // The name it will have depends on the type, which comes next.
            (Some("HELP"), Some(name), help) => {
                self.help = Some((name.into(), unquote(help.unwrap_or_default())));
            }
            (Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = rename(kind);
                if let Some((_, help)) = self.help.take_if(|(of, _)| of == name) {
                    self.push(&format!("# HELP {name}{suffix} {help}"));
                }
                self.push(&format!("# TYPE {name}{suffix} {kind}"));
            }
            _ => {}
        }
    }

    fn push(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }
}

impl fmt::Write for TextWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            match part.strip_suffix('\n') {
                Some(end) => {
                    self.line.push_str(end);
                    self.end_line();
                }
                None => self.line.push_str(part),
            }
        }
        Ok(())
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

/// The sample without ` # {..} value`, which can only come after the labels.
fn without_exemplar(line: &str) -> &str {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line[..at].trim_end(),
            _ => {}
        }
    }
    line
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
                "# HELP d X.\n# TYPE d histogram\nd_sum 1.0\nd_count 1\nd_bucket{le=\"+Inf\"} 1 # {id=\"7\"} 0.5\n",
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
                "i_total{x=\"# {a} \\\" # {b} \\\\\"} 1 # {id=\"7\"} 1\n",
                "i_total{x=\"# {a} \\\" # {b} \\\\\"} 1\n",
            ),
            ("", ""),
        ] {
            let mut whole = TextWriter::default();
            whole.write_str(openmetrics).expect("memory");
            assert_eq!(whole.finish(), expected);

            let mut pieces = TextWriter::default();
            for character in openmetrics.chars() {
                pieces.write_char(character).expect("memory");
            }
            assert_eq!(pieces.finish(), expected, "written in pieces");
        }
    }
}
