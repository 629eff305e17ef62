//! Values of a file as what they mean: names, numbers, addresses, durations.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::document::Value;
use super::suggest;
use crate::policy::diagnostic::Diagnostic;

/// "expected this, found that".
pub(crate) fn wrong_type(value: Value<'_>, expected: &str, example: &str) -> Diagnostic {
    let found = match value.value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    value
        .error("wrong-type", expected, format!("this is {found}"))
        .help(format!("write {example}"))
}

pub(crate) fn text<'d>(value: Value<'d>, example: &str) -> Result<&'d str, Diagnostic> {
    match value.value {
        DeValue::String(text) => Ok(text),
        _ => Err(wrong_type(value, "expected text in quotes", example)),
    }
}

/// A whole number within `range`; `rule` says so, such as "a port is a number from 1 to 65535".
pub(crate) fn number(
    value: Value<'_>,
    range: std::ops::RangeInclusive<u32>,
    code: &'static str,
    rule: &str,
) -> Result<u32, Diagnostic> {
    let DeValue::Integer(integer) = value.value else {
        return Err(wrong_type(
            value,
            rule,
            &format!("a number without quotes, such as {}", range.start()),
        ));
    };
    let digits = integer.as_str().replace('_', "");
    i128::from_str_radix(&digits, integer.radix())
        .ok()
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            let help = format!("write a number from {} to {}", range.start(), range.end());
            value
                .error(code, rule, format!("{integer} is not"))
                .help(help)
        })
}

pub(crate) fn port(value: Value<'_>) -> Result<u16, Diagnostic> {
    number(value, 1..=65535, "invalid-port", PORT_RULE).map(|port| port as u16)
}

/// One of a few words.
pub(crate) fn choice<T: Copy>(
    value: Value<'_>,
    choices: &[(&'static str, T)],
) -> Result<T, Diagnostic> {
    let names = || choices.iter().map(|(name, _)| *name);
    let text = text(value, &format!("one of {}", suggest::listed(names())))?;
    let found = choices.iter().find(|(name, _)| *name == text);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let help = suggest::help(text, names(), "possible values", "");
        value
            .error(
                "unknown-value",
                format!("unknown value `{text}`"),
                format!("expected {}", suggest::listed(names())),
            )
            .help(help)
    })
}

/// A name of what `what` says: 1 to 63 of `a-z 0-9 . _ -`, the first a letter or digit.
pub(crate) fn name(value: Value<'_>, what: &str) -> Result<Arc<str>, Diagnostic> {
    let text = text(value, &format!("the {what} in quotes"))?;
    name_in(value, text, what)
}

/// As [`name`], for `text` that stands in `value`.
pub(crate) fn name_in(value: Value<'_>, text: &str, what: &str) -> Result<Arc<str>, Diagnostic> {
    name_problem(text).map_or_else(
        || Ok(text.into()),
        |problem| {
            let lower = text.to_lowercase().replace([' ', '/'], "-");
            let help = if name_problem(&lower).is_none() {
                format!("write `{lower}`: {NAME_RULE}")
            } else {
                NAME_RULE.to_owned()
            };
            Err(value
                .error("invalid-name", format!("`{text}` is not a {what}"), problem)
                .help(help))
        },
    )
}

/// What keeps `text` from being a name.
pub(crate) fn name_problem(text: &str) -> Option<String> {
    let bad = |c: &char| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-');
    if text.is_empty() {
        return Some("it is empty".to_owned());
    }
    if let Some(c) = text.chars().find(bad) {
        return Some(format!("`{}` cannot be in it", c.escape_default()));
    }
    if text.starts_with(['.', '_', '-']) {
        return Some("it begins with neither a letter nor a digit".to_owned());
    }
    (text.len() > 63).then(|| format!("it has {} characters", text.len()))
}

pub(crate) fn ip(value: Value<'_>) -> Result<IpAddr, Diagnostic> {
    let text = text(value, "an address in quotes, such as \"10.96.0.10\"")?;
    let Ok(address) = text.parse::<IpAddr>() else {
        let help = match text.parse::<SocketAddr>() {
            Ok(socket) => format!("without the port: \"{}\"", socket.ip()),
            Err(_) if text.contains('/') => "one address, not a range: \"10.96.0.10\"".to_owned(),
            Err(_) => "write a number address such as \"10.96.0.10\" or \"fd00::10\"; \
                names are not looked up"
                .to_owned(),
        };
        return Err(value
            .error(
                "invalid-address",
                format!("`{text}` is not an IP address"),
                "expected an IP address",
            )
            .help(help));
    };
    unmapped(value, address)
}

/// Refuses IPv4 written as IPv6, so that every address has one spelling.
fn unmapped(value: Value<'_>, address: IpAddr) -> Result<IpAddr, Diagnostic> {
    let canonical = address.to_canonical();
    if canonical == address {
        return Ok(address);
    }
    Err(value
        .error(
            "invalid-address",
            "an IPv4 address written as IPv6",
            "IPv4-mapped",
        )
        .help(format!("write `{canonical}`")))
}

pub(crate) fn socket_address(value: Value<'_>) -> Result<SocketAddr, Diagnostic> {
    let text = text(
        value,
        "an address and port in quotes, such as \"127.0.0.1:8081\"",
    )?;
    let Ok(address) = text.parse::<SocketAddr>() else {
        return Err(value
            .error(
                "invalid-address",
                format!("`{text}` is not an address with a port"),
                "expected ADDRESS:PORT",
            )
            .help(socket_help(text)));
    };
    unmapped(value, address.ip())?;
    if matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0) {
        return Err(value
            .error(
                "invalid-address",
                "an address cannot name an interface",
                "remove the part after `%`",
            )
            .help("use an address that is not link-local"));
    }
    Ok(address)
}

fn socket_help(text: &str) -> String {
    if let Ok(address) = text.parse::<IpAddr>() {
        return format!("add the port: \"{}\"", SocketAddr::new(address, 8080));
    }
    if let Some((host, port)) = text.rsplit_once(':') {
        if let Ok(v6) = host.parse::<std::net::Ipv6Addr>() {
            return format!("IPv6 addresses stand in brackets: \"[{v6}]:{port}\"");
        }
        if host.parse::<IpAddr>().is_ok() {
            return PORT_RULE.to_owned();
        }
    }
    "write a number address and a port such as \"127.0.0.1:8081\" or \"[::1]:8081\"; \
        names are not looked up"
        .to_owned()
}

pub(crate) fn cidr(value: Value<'_>) -> Result<IpNet, Diagnostic> {
    let text = text(value, "a range in quotes, such as \"192.168.1.0/24\"")?;
    let Ok(net) = text.parse::<IpNet>() else {
        let help = match text.parse::<IpAddr>() {
            Ok(address) => format!("for this one address write \"{}\"", IpNet::from(address)),
            Err(_) => {
                "write an address and a prefix length such as \"192.168.1.0/24\" or \"fd00::/64\""
                    .to_owned()
            }
        };
        return Err(value
            .error(
                "invalid-cidr",
                format!("`{text}` is not a range of addresses"),
                "expected ADDRESS/LENGTH",
            )
            .help(help));
    };
    unmapped(value, net.addr())?;
    if net.trunc() != net {
        return Err(value
            .error(
                "invalid-cidr",
                "the address has bits beyond the prefix length",
                "one address, or a range?",
            )
            .help(format!(
                "write \"{}\" for the range or \"{}\" for the address",
                net.trunc(),
                IpNet::from(net.addr())
            )));
    }
    Ok(net)
}

/// A duration of whole seconds such as `90s`, `10m`, `2h`, `1d` or `1h30m`; 1 s to 365 days.
pub(crate) fn duration(value: Value<'_>) -> Result<Duration, Diagnostic> {
    let text = text(value, "a duration in quotes, such as \"10m\"")?;
    seconds(text)
        .filter(|seconds| (1..=365 * 86_400).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| {
            value
                .error(
                    "invalid-duration",
                    format!("`{text}` is not a duration"),
                    "from 1s to 365d",
                )
                .help("write a number and s, m, h or d: \"30s\", \"10m\", \"2h\"")
        })
}

/// What a duration such as `1h30m` says; nothing for what is none.
pub(crate) fn seconds(text: &str) -> Option<u64> {
    let mut total = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let unit = match after.chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
        rest = after.get(1..)?;
    }
    Some(total)
}

const PORT_RULE: &str = "a port is a number from 1 to 65535";
const NAME_RULE: &str =
    "names are 1 to 63 of a-z, 0-9, `.`, `_` and `-`, and begin with a letter or digit";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("30s", Some(30)),
            ("10m", Some(600)),
            ("2h", Some(7200)),
            ("1h30m", Some(5400)),
            ("1d", Some(86_400)),
            ("10", None),
            ("m", None),
            ("10x", None),
            ("1.5h", None),
            ("-1s", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn names() {
        for good in ["a", "0", "a.b_c-d", &"a".repeat(63)] {
            assert_eq!(name_problem(good), None, "{good}");
        }
        for bad in [
            "",
            "A",
            "-a",
            ".a",
            "_a",
            "a b",
            "a/b",
            "*",
            "ä",
            "a\u{1b}",
            &"a".repeat(64),
        ] {
            assert!(name_problem(bad).is_some(), "{bad}");
        }
    }
}
