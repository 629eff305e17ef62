//! What becomes of flows to endpoints that new calls no longer get.

use std::time::Duration;

use crate::policy::model::OnWeightChange;
use crate::policy::parse::decode;
use crate::policy::parse::document::{Fields, Located};

/// `on_weight_change` and what belongs to it.
pub(super) fn on_weight_change(fields: &mut Fields<'_, '_>) -> OnWeightChange {
    let word = fields.optional("on_weight_change", |v| decode::choice(v, WORDS));
    let misspelt = word.is_none() && fields.has("on_weight_change");
    let timeout = fields.optional("drain_timeout", decode::duration);
    let rate = fields.optional("close_rate", |v| {
        decode::number(v, 1..=MOST_A_SECOND, "invalid-rate", RATE_RULE)
    });
    let word = word.map_or(Word::Keep, |word| word.value);
    if !misspelt {
        if word != Word::Drain {
            unused(fields, timeout.as_ref(), "drain_timeout", "\"drain\"");
        }
        if word == Word::Keep {
            unused(fields, rate.as_ref(), "close_rate", "\"close\"");
        }
    }
    let rate = rate.map_or(DEFAULT_RATE, |rate| rate.value);
    match word {
        Word::Keep => OnWeightChange::Keep,
        Word::Close => OnWeightChange::Close { rate },
        Word::Drain => OnWeightChange::Drain {
            timeout: timeout.map_or(DEFAULT_DRAIN, |timeout| timeout.value),
            rate,
        },
    }
}

fn unused<T>(
    fields: &mut Fields<'_, '_>,
    setting: Option<&Located<'_, T>>,
    name: &str,
    needs: &str,
) {
    let Some(setting) = setting else { return };
    let message = format!("`{name}` without `on_weight_change = {needs}` does nothing");
    let warning = setting.warning("unused-setting", message, "not used");
    let help = format!("add on_weight_change = {needs}, or remove this line");
    fields.problems.push(warning.help(help));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Keep,
    Drain,
    Close,
}

const WORDS: &[(&str, Word)] = &[
    ("keep", Word::Keep),
    ("drain", Word::Drain),
    ("close", Word::Close),
];
/// Nobody has more flows to one service on one host.
const MOST_A_SECOND: u32 = 1_000_000;
const RATE_RULE: &str = "flows closed in a second are a whole number from 1";
/// A server that is told to go usually has this long.
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
/// Clients that connect again at this rate are no burden for the endpoints that stay.
const DEFAULT_RATE: u32 = 100;
