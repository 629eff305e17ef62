//! Names on the command line.

use std::sync::Arc;

use crate::identity::Serial;
use crate::policy::model::ServiceName;
use crate::policy::parse::decode::name_problem;

pub(super) fn node(text: &str) -> Result<Arc<str>, String> {
    match name_problem(text) {
        None => Ok(text.into()),
        Some(problem) => Err(format!("{problem}; write a name such as edge-1")),
    }
}

pub(super) fn service(text: &str) -> Result<ServiceName, String> {
    let (namespace, name) = text
        .split_once('/')
        .ok_or("write it as namespace/name, such as shop/cart")?;
    Ok(ServiceName {
        namespace: node(namespace)?,
        name: node(name)?,
    })
}

/// As agent.toml has it.
pub(super) fn trust_domain(text: &str) -> Result<Arc<str>, String> {
    let known = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    if !text.is_empty() && text.len() <= 255 && text.chars().all(known) {
        return Ok(text.into());
    }
    Err("write 1 to 255 of a-z, 0-9, `.`, `-` and `_`, without spiffe:// before it".into())
}

pub(super) fn serial(text: &str) -> Result<Serial, String> {
    Serial::parse(text).ok_or_else(|| "write hexadecimal digits, as `ca list` shows them".into())
}
