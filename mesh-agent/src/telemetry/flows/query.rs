//! What is asked about flows: a query string comes in, a filter goes out.

use mesh_common::{Reason, Verdict};

use super::CAPACITY;
use super::kept::Kept;

/// Longest name that is compared with.
const LONGEST: usize = 512;
/// Parameters that are understood.
const PARAMETERS: &str =
    "after, since, last, service, source, destination, verdict, reason, rule, event, opens";
/// Values of `event`.
const EVENTS: [&str; 6] = ["open", "update", "close", "failed", "denied", "would-deny"];

/// A filter; what is `None` lets everything through.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowQuery {
    /// Only records with a larger number.
    pub after: Option<u64>,
    /// Only what happened at this time or later, seconds since 1970.
    pub since: Option<f64>,
    /// At most so many, the newest.
    pub last: Option<usize>,
    /// Only flows with this service at either end.
    pub service: Option<String>,
    /// Only flows of this caller.
    pub source: Option<String>,
    /// Only flows to this service.
    pub destination: Option<String>,
    /// Only flows with this verdict.
    pub verdict: Option<String>,
    /// Only flows with this reason.
    pub reason: Option<String>,
    /// Only flows that this rule decided on.
    pub rule: Option<String>,
    /// Only records of this event.
    pub event: Option<String>,
    /// Asks the kernel side to tell of the beginning of every flow, for a while.
    pub opens: bool,
}

/// A question that makes no sense; the text says what would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadQuery(String);

impl FlowQuery {
    /// Reads the part of a URL behind the `?`.
    ///
    /// # Errors
    ///
    /// A parameter is unknown or given twice, or its value makes no sense.
    pub fn parse(text: &str) -> Result<Self, BadQuery> {
        let mut query = Self::default();
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if seen.contains(&name) {
                return Err(BadQuery(format!("{name} is given twice")));
            }
            query.set(&name, &value)?;
            seen.push(name);
        }
        Ok(query)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), BadQuery> {
        match name {
            "after" => self.after = Some(number(name, value, "a record's number")?),
            "since" => self.since = Some(time(value)?),
            "last" => self.last = Some(last(value)?),
            "service" => self.service = Some(text(name, value)?),
            "source" => self.source = Some(text(name, value)?),
            "destination" => self.destination = Some(text(name, value)?),
            "verdict" => {
                let known = Verdict::ALL.iter().map(|verdict| verdict.name());
                self.verdict = Some(one_of(name, value, known)?);
            }
            "reason" => {
                let known = Reason::ALL.iter().map(|reason| reason.name());
                self.reason = Some(one_of(name, value, known)?);
            }
            "rule" => self.rule = Some(text(name, value)?),
            "event" => self.event = Some(one_of(name, value, EVENTS.into_iter())?),
            "opens" => self.opens = one_of(name, value, ["true", "false"].into_iter())? == "true",
            _ => {
                return Err(BadQuery(format!(
                    "unknown parameter {name:?}; known are {PARAMETERS}"
                )));
            }
        }
        Ok(())
    }

    /// The part of a URL behind the `?`.
    pub fn to_query_string(&self) -> String {
        let mut out = form_urlencoded::Serializer::new(String::new());
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                out.append_pair(name, &value);
            }
        };
        add("after", self.after.map(|after| after.to_string()));
        add("since", self.since.map(|since| since.to_string()));
        add("last", self.last.map(|last| last.to_string()));
        add("service", self.service.clone());
        add("source", self.source.clone());
        add("destination", self.destination.clone());
        add("verdict", self.verdict.clone());
        add("reason", self.reason.clone());
        add("rule", self.rule.clone());
        add("event", self.event.clone());
        add("opens", self.opens.then(|| "true".to_owned()));
        out.finish()
    }

    /// Whether a record is asked for; the cursor and `last` are not looked at.
    pub(super) fn matches(&self, flow: &Kept) -> bool {
        let Self {
            after: _,
            last: _,
            opens: _,
            since,
            service,
            source,
            destination,
            verdict,
            reason,
            rule,
            event,
        } = self;
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        let time = flow.time();
        let flow = &*flow.shared;
        since.is_none_or(|since| time >= since)
            && (is(service, &flow.source_service) || is(service, &flow.destination_service))
            && is(source, &flow.source_service)
            && is(destination, &flow.destination_service)
            && is(verdict, &flow.verdict)
            && is(reason, &flow.reason)
            && is(rule, &flow.rule)
            && is(event, &flow.event)
    }
}

fn number(name: &str, value: &str, what: &str) -> Result<u64, BadQuery> {
    // Digits only: `+1` would be a number, too.
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = value.parse().ok().filter(|_| digits);
    parsed.ok_or_else(|| BadQuery(format!("{name} is {what}, not {value:?}")))
}

fn last(value: &str) -> Result<usize, BadQuery> {
    let parsed = value.parse().ok();
    parsed
        .filter(|last| (1..=CAPACITY).contains(last))
        .ok_or_else(|| {
            BadQuery(format!(
                "last is a number from 1 to {CAPACITY}, not {value:?}"
            ))
        })
}

fn time(value: &str) -> Result<f64, BadQuery> {
    let seconds = value.parse().ok();
    seconds
        .filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)
        .ok_or_else(|| {
            BadQuery(format!(
                "since is a time in seconds since 1970, not {value:?}"
            ))
        })
}

fn text(name: &str, value: &str) -> Result<String, BadQuery> {
    if value.is_empty() || value.len() > LONGEST {
        return Err(BadQuery(format!("{name} is 1 to {LONGEST} bytes long")));
    }
    Ok(value.to_owned())
}

fn one_of<'k>(
    name: &str,
    value: &str,
    mut known: impl Iterator<Item = &'k str> + Clone,
) -> Result<String, BadQuery> {
    if known.clone().any(|known| known == value) {
        return Ok(value.to_owned());
    }
    let first = known.next().unwrap_or_default().to_owned();
    let all = known.fold(first, |all, next| all + ", " + next);
    Err(BadQuery(format!("{name} is one of {all}, not {value:?}")))
}

#[cfg(test)]
mod tests {
    use super::super::FlowView;
    use super::super::kept::Pool;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_query_survives_the_way_through_a_url() {
        let query = FlowQuery {
            after: Some(7),
            since: Some(1.5),
            last: Some(20),
            service: Some("shop/päy ments&x=1".into()),
            verdict: Some("would-deny".into()),
            reason: Some("late-denial".into()),
            rule: Some("-".into()),
            event: Some("close".into()),
            opens: true,
            ..FlowQuery::default()
        };
        assert_eq!(FlowQuery::parse(&query.to_query_string()), Ok(query));
        assert_eq!(FlowQuery::parse(""), Ok(FlowQuery::default()));
    }

    proptest! {
        /// Whatever anybody on the host sends: an answer or a sentence, and what is understood is
        /// understood again.
        #[test]
        fn any_text_is_a_query_or_refused(text in "[a-z=&%0-9+.é-]{0,60}|(last|after|since|rule)=\\PC{0,20}") {
            match FlowQuery::parse(&text) {
                Ok(query) => prop_assert_eq!(FlowQuery::parse(&query.to_query_string()), Ok(query)),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }

    #[test]
    fn nonsense_is_told_what_makes_sense() {
        for (text, expected) in [
            ("sevice=a", "unknown parameter \"sevice\"; known are after,"),
            ("last=0", "last is a number from 1 to 2000, not \"0\""),
            ("last=2001", "last is a number from 1 to 2000"),
            ("after=-1", "after is a record's number, not \"-1\""),
            ("after=%2B1", "after is a record's number, not \"+1\""),
            ("since=NaN", "since is a time in seconds since 1970"),
            ("since=inf", "since is a time"),
            (
                "verdict=maybe",
                "verdict is one of allowed, denied, would-deny, not \"maybe\"",
            ),
            ("reason=because", "reason is one of policy, unknown-caller,"),
            ("event=x", "event is one of open, update, close,"),
            ("service=", "service is 1 to 512 bytes long"),
            ("rule=a&rule=b", "rule is given twice"),
            ("opens=1", "opens is one of true, false"),
        ] {
            let error = FlowQuery::parse(text).expect_err(text).to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn every_filter_filters() {
        let flow = FlowView {
            time_unix_seconds: 10.0,
            source_service: "a/x".into(),
            destination_service: "b/y".into(),
            verdict: "allowed".into(),
            reason: "policy".into(),
            rule: "r".into(),
            event: "close".into(),
            ..FlowView::default()
        };
        let flow = Kept::new(flow, &mut Pool::default());
        for (text, expected) in [
            ("", true),
            ("service=a/x", true),
            ("service=b/y", true),
            ("service=c/z", false),
            ("source=a/x&destination=b/y&verdict=allowed", true),
            ("source=b/y", false),
            ("destination=a/x", false),
            ("verdict=denied", false),
            ("reason=policy&rule=r&event=close&since=10", true),
            ("reason=egress", false),
            ("rule=other", false),
            ("event=open", false),
            ("since=10.001", false),
        ] {
            let query = FlowQuery::parse(text).expect("a query");
            assert_eq!(query.matches(&flow), expected, "{text}");
        }
    }
}
