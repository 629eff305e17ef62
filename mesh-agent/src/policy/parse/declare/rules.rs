//! Splits and rules as they stand in the file.

use std::sync::Arc;

use toml::de::DeValue;

use crate::policy::diagnostic::{Diagnostic, Problems};
use crate::policy::model::{Action, Mode, PortMatch};
use crate::policy::parse::decode;
use crate::policy::parse::document::{Fields, List, Located, Span, Value};

pub(in crate::policy::parse) struct SplitDecl<'d> {
    pub(in crate::policy::parse) span: Span<'d>,
    pub(in crate::policy::parse) service: Value<'d>,
    pub(in crate::policy::parse) from: List<'d, Value<'d>>,
    pub(in crate::policy::parse) weights: Weights<'d>,
}

pub(in crate::policy::parse) struct Weights<'d> {
    pub(in crate::policy::parse) span: Span<'d>,
    pub(in crate::policy::parse) items: Vec<(Located<'d, Arc<str>>, u32)>,
    pub(in crate::policy::parse) complete: bool,
}

pub(in crate::policy::parse) struct RuleDecl<'d> {
    pub(in crate::policy::parse) span: Span<'d>,
    pub(in crate::policy::parse) action: Action,
    pub(in crate::policy::parse) name: Option<Located<'d, Arc<str>>>,
    pub(in crate::policy::parse) mode: Mode,
    pub(in crate::policy::parse) from: List<'d, Value<'d>>,
    pub(in crate::policy::parse) to: List<'d, Value<'d>>,
    pub(in crate::policy::parse) ports: List<'d, Located<'d, PortMatch>>,
}

pub(super) fn split<'d>(value: Value<'d>, problems: &mut Problems) -> Option<SplitDecl<'d>> {
    let mut fields = Fields::of(value, "[[split]]", "[[split]]", problems)?;
    let service = fields.required("service", "service = \"shop/payments\"", |v| {
        decode::text(v, "\"shop/payments\"").map(|_| v)
    });
    let from = fields.list("from", "[\"shop/checkout\"]", |value, _| Some(value));
    let weights = fields.required("weights", "weights = { v1 = 99, v2 = 1 }", Ok);
    let span = fields.span;
    let weights = weights.and_then(|value| weights_of(value.value, fields.problems));
    fields.finish();
    Some(SplitDecl {
        span,
        service: service?.value,
        from,
        weights: weights?,
    })
}

fn weights_of<'d>(value: Value<'d>, problems: &mut Problems) -> Option<Weights<'d>> {
    let fields = Fields::of(
        value,
        "`weights`",
        "weights = { v1 = 99, v2 = 1 }",
        problems,
    )?;
    let mut weights = Weights {
        span: value.span,
        items: Vec::new(),
        complete: true,
    };
    for (key, value) in fields.entries() {
        let name = decode::name_problem(key.value).map_or_else(
            || Ok(key.value.into()),
            |problem| {
                Err(key
                    .error(
                        "invalid-name",
                        format!("`{}` is not a version", key.value),
                        problem,
                    )
                    .help("write the version as its endpoints do"))
            },
        );
        let name: Option<Arc<str>> = fields.problems.ok(name);
        let rule = "a weight is a whole number from 0";
        let weight = decode::number(value, 0..=u32::MAX, "invalid-weight", rule);
        match (name, fields.problems.ok(weight)) {
            (Some(name), Some(weight)) => weights.items.push((key.span.at(name), weight)),
            _ => weights.complete = false,
        }
    }
    Some(weights)
}

pub(super) fn rule<'d>(
    value: Value<'d>,
    action: Action,
    problems: &mut Problems,
) -> Option<RuleDecl<'d>> {
    let noun = match action {
        Action::Allow => "[[allow]]",
        Action::Deny => "[[deny]]",
    };
    let mut fields = Fields::of(value, noun, noun, problems)?;
    let name = fields.required("name", "name = \"checkout-pays\"", |v| {
        decode::name(v, "rule name")
    });
    let mode = fields.optional("mode", |v| decode::choice(v, MODES));
    for (key, example) in [
        ("from", "from = [\"shop/checkout\"]"),
        ("to", "to = [\"shop/payments\"]"),
    ] {
        if !fields.has(key) {
            fields.required(key, example, Ok);
        }
    }
    let from = fields.list("from", "[\"shop/checkout\"]", |value, _| Some(value));
    let to = fields.list("to", "[\"shop/payments\"]", |value, _| Some(value));
    let ports = fields.list("ports", "[\"http\"] or [80]", |value, problems| {
        problems
            .ok(port_match(value))
            .map(|port| value.span.at(port))
    });
    let span = fields.span;
    fields.finish();
    Some(RuleDecl {
        span,
        action,
        name,
        mode: mode.map_or(Mode::Enforce, |mode| mode.value),
        from,
        to,
        ports,
    })
}

fn port_match(value: Value<'_>) -> Result<PortMatch, Diagnostic> {
    if matches!(value.value, DeValue::Integer(_)) {
        return decode::port(value).map(PortMatch::Number);
    }
    let text = decode::text(value, "a port's name in quotes, or its number")?;
    if let Ok(number) = text.parse::<u16>() {
        return Err(value
            .error(
                "wrong-type",
                "a port's number stands without quotes",
                "this is text",
            )
            .help(format!("write {number}")));
    }
    decode::name(value, "port name").map(PortMatch::Name)
}

const MODES: &[(&str, Mode)] = &[("enforce", Mode::Enforce), ("audit", Mode::Audit)];
