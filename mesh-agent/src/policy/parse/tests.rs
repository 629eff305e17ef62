//! Files in, policy or problems out.

mod broken;
mod property;
mod resolved;

use super::{LocalNode, Parsed, parse};
use crate::policy::model::Policy;
use crate::policy::source::SourceSet;

/// Two services that most tests refer to.
const BASE: &str = r#"
[[service]]
name = "checkout"
namespace = "shop"
workload = { systemd = "checkout.service" }

[[service]]
name = "payments"
namespace = "shop"
vip = "10.96.0.10"
ports = [{ name = "http", listen = 80 }]
endpoints = [
  { address = "127.0.0.1:8081", version = "v1" },
  { address = "127.0.0.1:8082", version = "v2" },
]
"#;

fn local() -> LocalNode {
    LocalNode {
        name: "edge-1".into(),
        address: Some("10.0.0.11".parse().expect("an address")),
        trust_domain: "mesh.local".into(),
    }
}

fn parsed(files: &[(&str, &str)]) -> Parsed {
    parse(&SourceSet::from_texts(files.iter().copied()), &local())
}

/// The policy of `text` and [`BASE`], which may have warnings.
fn policy(text: &str) -> Policy {
    let parsed = parsed(&[("a.toml", text), ("base.toml", BASE)]);
    let shown: String = parsed.diagnostics.iter().map(|d| d.render(false)).collect();
    parsed.policy.expect(&shown)
}
