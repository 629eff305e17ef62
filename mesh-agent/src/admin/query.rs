//! The parameters of a request: known ones, once each, or a sentence that says what is allowed.

use std::borrow::Cow;
use std::time::Duration;

/// Parameters that are all known.
#[derive(Debug, Default)]
pub(super) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Reads what follows the `?`.
    ///
    /// # Errors
    ///
    /// A parameter is none of `allowed`, or there twice; as a sentence.
    pub(super) fn parse(text: Option<&'a str>, allowed: &[&str]) -> Result<Self, String> {
        let mut query = Self::default();
        for (name, value) in form_urlencoded::parse(text.unwrap_or_default().as_bytes()) {
            if !allowed.contains(&&*name) {
                let list = allowed.join(", ");
                return Err(format!(
                    "unknown parameter {}; allowed: {list}",
                    short(&name)
                ));
            }
            if query.get(&name).is_some() {
                return Err(format!("parameter {name} is there twice"));
            }
            query.0.push((name, value));
        }
        Ok(query)
    }

    /// A parameter's value, if it is there.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| &**value)
    }

    /// The parameter `window`: a whole number of seconds.
    ///
    /// # Errors
    ///
    /// It is something else; as a sentence.
    pub(super) fn window(&self) -> Result<Duration, String> {
        let Some(text) = self.get("window") else {
            return Ok(DEFAULT_WINDOW);
        };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = text
            .parse()
            .ok()
            .filter(|_| digits)
            .map(Duration::from_secs);
        let good = seconds.filter(|window| (SHORTEST..=LONGEST).contains(window));
        good.ok_or_else(|| {
            let (from, to) = (SHORTEST.as_secs(), LONGEST.as_secs());
            format!(
                "window is {}; allowed: {from} to {to}, whole seconds",
                short(text)
            )
        })
    }
}

/// A text of the client's, quoted and no longer than fits a sentence.
fn short(text: &str) -> String {
    let start: String = text.chars().take(32).collect();
    let more = if start.len() < text.len() { ".." } else { "" };
    format!("{start:?}{more}")
}

const DEFAULT_WINDOW: Duration = Duration::from_secs(10);
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = crate::telemetry::observer::LONGEST;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_whole_seconds_in_bounds() {
        for (query, expected) in [
            (None, Ok(10)),
            (Some(""), Ok(10)),
            (Some("window=1"), Ok(1)),
            (Some("window=300"), Ok(300)),
            (Some("%77indow=60"), Ok(60)),
            (
                Some("window=0"),
                Err("window is \"0\"; allowed: 1 to 300, whole seconds"),
            ),
            (
                Some("window=301"),
                Err("window is \"301\"; allowed: 1 to 300, whole seconds"),
            ),
            (
                Some("window=%2b5"),
                Err("window is \"+5\"; allowed: 1 to 300, whole seconds"),
            ),
            (
                Some("window=1.5"),
                Err("window is \"1.5\"; allowed: 1 to 300, whole seconds"),
            ),
            (
                Some("window="),
                Err("window is \"\"; allowed: 1 to 300, whole seconds"),
            ),
            (
                Some("window=1&window=1"),
                Err("parameter window is there twice"),
            ),
            (
                Some("windows=1"),
                Err("unknown parameter \"windows\"; allowed: window"),
            ),
            (
                Some("<script>&window=1"),
                Err("unknown parameter \"<script>\"; allowed: window"),
            ),
        ] {
            let found = Query::parse(query, &["window"]).and_then(|query| query.window());
            let expected = expected.map(Duration::from_secs).map_err(str::to_owned);
            assert_eq!(found, expected, "{query:?}");
        }
        let long = "x".repeat(10_000);
        let error = Query::parse(Some(&long), &["window"]).expect_err("unknown");
        assert!(error.len() < 100, "{error}");
    }
}
