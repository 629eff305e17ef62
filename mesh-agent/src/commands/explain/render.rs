//! The answer in words.

use mesh_common::Verdict;

use super::question::{Callee, Question};
use super::{Answer, EndpointView};
use crate::commands::output::{Style, Tone, table};
use crate::policy::eval::{Caller, Decision};
use crate::policy::model::{Action, Mode};

/// Why the decision is what it is.
pub(super) fn why(question: &Question<'_>, decision: &Decision<'_>) -> String {
    let outside = matches!(question.callee, Callee::Outside { .. });
    match (decision.rule, decision.verdict) {
        (None, Verdict::Allowed) => "nothing of the mesh: it does not judge this call".into(),
        (None, Verdict::Denied) if outside => {
            "the caller has egress = \"deny\" and no rule names the address".into()
        }
        (None, Verdict::Denied) if matches!(question.caller, Caller::Outside(_)) => {
            "no [[allow]] with a cidr that holds the address matches, and the default denies".into()
        }
        (None, Verdict::Denied) => "no rule matches, and the default denies".into(),
        (None, _) => "no rule matches; only default = \"allow\" lets it pass".into(),
        (Some(rule), Verdict::Denied) => format!("the [[deny]] {:?} matches", rule.name),
        (Some(rule), Verdict::Allowed) => format!("the [[allow]] {:?} matches", rule.name),
        (Some(rule), _) => match (rule.action, rule.mode) {
            (Action::Deny, Mode::Audit) => {
                format!("the [[deny]] {:?} matches, but is in audit mode", rule.name)
            }
            _ => format!(
                "only the [[allow]] {:?}, which is in audit mode, matches",
                rule.name
            ),
        },
    }
}

/// The answer for people.
pub(super) fn answer(answer: &Answer, style: Style) -> String {
    let tone = match answer.verdict {
        "denied" => Tone::Bad,
        "allowed" => Tone::Good,
        _ => Tone::Warning,
    };
    let verdict = style.paint(tone, &answer.verdict.to_uppercase());
    let mut text = format!("{verdict}  {} -> {}\n", answer.source, answer.destination);
    let at = answer
        .at
        .as_deref()
        .map(|at| format!(" ({at})"))
        .unwrap_or_default();
    text += &format!("rule: {}{at}\nwhy:  {}\n", answer.rule, answer.why);
    if answer.matching.len() > 1 {
        let mut rows = vec![["NAME", "ACTION", "MODE", "AT"].map(str::to_owned)];
        rows.extend(answer.matching.iter().map(|rule| {
            [
                rule.name.clone(),
                rule.action.into(),
                rule.mode.into(),
                rule.at.clone(),
            ]
        }));
        text += "\nrules that match:\n";
        text += &table(&rows);
    }
    if answer.verdict != "denied" && !answer.endpoints.is_empty() {
        let mut rows = vec![["ENDPOINT", "VERSION", "SHARE", "WHERE"].map(str::to_owned)];
        rows.extend(answer.endpoints.iter().map(row));
        text += "\ngoes to:\n";
        text += &table(&rows);
    }
    text
}

fn row(endpoint: &EndpointView) -> [String; 4] {
    let share = format!("{:.2} %", endpoint.share * 100.0);
    [
        endpoint.address.clone(),
        endpoint.version.clone(),
        share,
        endpoint.location.clone(),
    ]
}
