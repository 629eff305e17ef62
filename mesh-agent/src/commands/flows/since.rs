//! `--since`: how long ago, or when.

use std::str::FromStr;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::policy::parse::decode::seconds;
use crate::telemetry::time::unix_seconds;

/// A time, seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Since(pub f64);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, unix_seconds(SystemTime::now()))
    }
}

impl Since {
    fn parse(text: &str, now: f64) -> Result<Self, String> {
        if let Some(ago) = seconds(text).filter(|_| !text.is_empty()) {
            return Ok(Self((now - ago as f64).max(0.0)));
        }
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_not_a_time| {
            "write how long ago (10s, 5m, 1h30m) or when (2026-11-21T09:30:00Z)".to_owned()
        })?;
        Ok(Self((time.unix_timestamp() as f64).max(0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_ago_or_when() {
        for (text, expected) in [
            ("10s", Some(990.0)),
            ("5m", Some(700.0)),
            ("1h30m", Some(0.0)),
            ("1970-01-01T00:01:00Z", Some(60.0)),
            ("1970-01-01T01:01:00+01:00", Some(60.0)),
            ("", None),
            ("10", None),
            ("yesterday", None),
            ("1970-01-01", None),
        ] {
            let parsed = Since::parse(text, 1000.0).ok().map(|since| since.0);
            assert_eq!(parsed, expected, "{text}");
        }
    }
}
