//! Which format a client gets: the headers of its request come in.

use std::fmt;
use std::io::{self, BufWriter, IntoInnerError, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Format of a scrape's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// The Prometheus text format 0.0.4, which everything reads.
    Text,
}

impl Format {
    /// The best of what an `Accept` header names; 0.0.4 where it is absent or names neither.
    pub fn of_accept(accept: Option<&str>) -> Self {
        let accept = accept.unwrap_or_default();
        let best = |matches: fn(&Preference<'_>) -> bool| {
            preferences(accept)
                .filter(matches)
                .map(|preference| preference.quality)
                .max()
                .unwrap_or(0)
        };
        let openmetrics = best(|wanted| {
            wanted
                .name
                .eq_ignore_ascii_case("application/openmetrics-text")
                && wanted.parameter("version").is_none_or(|v| v == "1.0.0")
        });
        let text = best(|wanted| wanted.name.eq_ignore_ascii_case("text/plain"));
        if openmetrics > 0 && openmetrics >= text {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// The `Content-Type` of the body.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Whether an `Accept-Encoding` header asks for gzip.
pub fn wants_gzip(accept_encoding: Option<&str>) -> bool {
    let quality = |name: &str| {
        preferences(accept_encoding.unwrap_or_default())
            .filter(|preference| preference.name.eq_ignore_ascii_case(name))
            .map(|preference| preference.quality)
            .max()
    };
    quality("gzip")
        .or_else(|| quality("*"))
        .is_some_and(|quality| quality > 0)
}

/// Compresses what is written to it, so that only the compressed body is ever in memory. Fast
/// rather than small: most of what can be won is won at level 1.
#[derive(Debug)]
pub struct Packer(BufWriter<GzEncoder<Vec<u8>>>);

/// What is compressed in one go, bytes.
const AT_ONCE: usize = 32 << 10;

impl Default for Packer {
    fn default() -> Self {
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        Self(BufWriter::with_capacity(AT_ONCE, encoder))
    }
}

impl Packer {
    /// All of it in the form of gzip.
    ///
    /// # Errors
    ///
    /// The encoder's.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        let encoder = self.0.into_inner().map_err(IntoInnerError::into_error)?;
        encoder.finish()
    }
}

impl fmt::Write for Packer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_all(text.as_bytes()).ok().ok_or(fmt::Error)
    }
}

/// One element of an `Accept`-like header.
struct Preference<'a> {
    name: &'a str,
    parameters: &'a str,
    /// Thousandths.
    quality: u32,
}

impl<'a> Preference<'a> {
    fn parameter(&self, name: &str) -> Option<&'a str> {
        parameter(self.parameters, name)
    }
}

fn preferences(header: &str) -> impl Iterator<Item = Preference<'_>> {
    header.split(',').map(|element| {
        let (name, parameters) = element.split_once(';').unwrap_or((element, ""));
        Preference {
            name: name.trim(),
            parameters,
            quality: parameter(parameters, "q").map_or(1000, thousandths),
        }
    })
}

fn parameter<'a>(parameters: &'a str, name: &str) -> Option<&'a str> {
    parameters.split(';').find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        key.trim().eq_ignore_ascii_case(name).then_some(value)
    })
}

/// A quality that cannot be read is no preference at all.
fn thousandths(quality: &str) -> u32 {
    match quality.parse::<f32>() {
        Ok(quality) if (0.0..=1.0).contains(&quality) => (quality * 1000.0).round() as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn accept_chooses_the_format() {
        use Format::{OpenMetrics, Text};
        const PROMETHEUS_2: &str = "application/openmetrics-text;version=1.0.0;q=0.5,\
            application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,\
            */*;q=0.2";
        const PROMETHEUS_3: &str = "application/openmetrics-text;version=1.0.0;\
            escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,\
            */*;q=0.1";
        const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, expected) in [
            (None, Text),
            (Some(""), Text),
            (Some("*/*"), Text),
            (Some("text/plain"), Text),
            (Some("text/plain;version=0.0.4"), Text),
            (Some(BROWSER), Text),
            (Some(PROMETHEUS_2), OpenMetrics),
            (Some(PROMETHEUS_3), OpenMetrics),
            (Some("application/openmetrics-text"), OpenMetrics),
            (
                Some("Application/OpenMetrics-Text ; version=\"1.0.0\""),
                OpenMetrics,
            ),
            (Some("application/openmetrics-text; version=0.0.1"), Text),
            (Some("application/openmetrics-text;version=2.0.0"), Text),
            (Some("application/openmetrics-text;q=0"), Text),
            (
                Some("application/openmetrics-text;q=0.1,text/plain;q=0.2"),
                Text,
            ),
            (
                Some("application/openmetrics-text;q=0.2,text/plain;q=0.2"),
                OpenMetrics,
            ),
            (Some("application/openmetrics-text;q=nonsense"), Text),
            (Some("application/vnd.google.protobuf"), Text),
            (Some(",;;q=,="), Text),
        ] {
            assert_eq!(Format::of_accept(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn gzip_is_used_when_asked_for() {
        for (header, expected) in [
            (None, false),
            (Some(""), false),
            (Some("identity"), false),
            (Some("gzip"), true),
            (Some("GZIP"), true),
            (Some("deflate, gzip;q=0.5"), true),
            (Some("gzip;q=0"), false),
            (Some("gzip;q=0, *"), false),
            (Some("*"), true),
            (Some("*;q=0"), false),
            (Some("x-gzip-not"), false),
        ] {
            assert_eq!(wants_gzip(header), expected, "{header:?}");
        }
    }

    #[test]
    fn gzip_can_be_read_back() {
        let body = "mesh_build_info 1\n".repeat(1000);
        let mut packer = Packer::default();
        for line in body.split_inclusive('\n') {
            fmt::Write::write_str(&mut packer, line).expect("memory");
        }
        let packed = packer.finish().expect("memory");
        assert!(packed.len() < body.len() / 10);
        let mut read = String::new();
        flate2::read::GzDecoder::new(packed.as_slice())
            .read_to_string(&mut read)
            .expect("gzip");
        assert_eq!(read, body);
    }
}
