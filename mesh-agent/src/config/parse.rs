//! The sections of `agent.toml`, with their defaults.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_common::header_flag;
use toml::de::DeValue;

use super::{
    Access, AccessLog, Admin, AgentConfig, Flows, Limits, Log, LogLevel, NodeConfig, Paths,
    Sockets, Tunnel,
};
use crate::identity::Identity;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::parse::decode;
use crate::policy::parse::document::{Fields, Located, Value};

/// Reads all sections: what can be understood, and defaults for the rest, of which the problems tell.
pub(super) fn config(mut fields: Fields<'_, '_>) -> AgentConfig {
    let node = section(&mut fields, "node", "[node]", node);
    let config = AgentConfig {
        paths: section(&mut fields, "paths", "[paths]", paths),
        tunnel: section(&mut fields, "tunnel", "[tunnel]", tunnel),
        admin: section(&mut fields, "admin", "[admin]", |fields| {
            admin(fields, &node)
        }),
        flows: section(&mut fields, "flows", "[flows]", flows),
        access_log: section(&mut fields, "access_log", "[access_log]", access_log),
        limits: section(&mut fields, "limits", "[limits]", limits),
        sockets: section(&mut fields, "sockets", "[sockets]", sockets),
        log: section(&mut fields, "log", "[log]", log),
        node,
    };
    fields.finish();
    config
}

/// Reads one section; one that is not there, or is something else, is one without settings.
fn section<T>(
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    noun: &'static str,
    read: impl FnOnce(&mut Fields<'_, '_>) -> T,
) -> T {
    let value = fields.value(key);
    let section = value.and_then(|value| Fields::of(value, noun, noun, fields.problems));
    match section {
        Some(mut section) => {
            let read = read(&mut section);
            section.finish();
            read
        }
        None => {
            let nothing = toml::de::DeTable::new();
            let span = fields.span;
            read(&mut Fields::new(&nothing, span, noun, fields.problems))
        }
    }
}

fn node(fields: &mut Fields<'_, '_>) -> NodeConfig {
    let has_name = fields.has("name");
    let name = fields.optional("name", |v| decode::name(v, "node name"));
    let trust_domain = fields.optional("trust_domain", trust_domain);
    let address = fields.optional("address", node_address);
    let name = match name {
        Some(name) => Some(name.value),
        None if has_name => None,
        None => host_name(fields),
    };
    NodeConfig {
        name: name.unwrap_or_else(|| "unnamed".into()),
        trust_domain: trust_domain.map_or_else(|| "mesh.local".into(), |domain| domain.value),
        address: address.map(|address| address.value),
    }
}

fn host_name(fields: &mut Fields<'_, '_>) -> Option<Arc<str>> {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_lowercase();
    if decode::name_problem(&host).is_none() {
        return Some(host.into());
    }
    let message = format!("the host's name `{host}` cannot be a node's");
    fields.problems.push(
        Diagnostic::error("invalid-name", message)
            .label(fields.span.label("no [node] name here"))
            .help("add [node] with name = \"edge-1\""),
    );
    None
}

fn trust_domain(value: Value<'_>) -> Result<Arc<str>, Diagnostic> {
    let text = decode::text(value, "the trust domain in quotes, such as \"mesh.local\"")?;
    let known = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    if !text.is_empty() && text.len() <= 255 && text.chars().all(known) {
        return Ok(text.into());
    }
    Err(value
        .error(
            "invalid-trust-domain",
            format!("`{text}` is not a trust domain"),
            "expected a name",
        )
        .help(
            "1 to 255 of a-z, 0-9, `.`, `-` and `_`, without spiffe:// before it: \"mesh.local\"",
        ))
}

fn node_address(value: Value<'_>) -> Result<IpAddr, Diagnostic> {
    let address = decode::ip(value)?;
    if address.is_unspecified() || address.is_multicast() {
        return Err(value
            .error(
                "invalid-node-address",
                format!("`{address}` cannot be a node's address"),
                "not one host's address",
            )
            .help("write the address where the other nodes reach this one"));
    }
    Ok(address)
}

fn paths(fields: &mut Fields<'_, '_>) -> Paths {
    let mut path = |key: &'static str, default: &str| {
        let path = fields.optional(key, path);
        path.map_or_else(|| PathBuf::from(default), |path| path.value)
    };
    let config_dir = path("config_dir", "/etc/mesh/conf.d");
    let state_dir = path("state_dir", "/var/lib/mesh");
    let bpffs = path("bpffs", "/sys/fs/bpf");
    let run_dir = path("run_dir", "/run/mesh");
    let cgroup_root = fields.optional("cgroup_root", path_or_none);
    Paths {
        config_dir,
        state_dir,
        bpffs,
        run_dir,
        cgroup_root: cgroup_root.and_then(|root| root.value),
    }
}

/// A path; none where the text is empty.
fn path_or_none(value: Value<'_>) -> Result<Option<PathBuf>, Diagnostic> {
    match value.value {
        DeValue::String(text) if text.is_empty() => Ok(None),
        _ => path(value).map(Some),
    }
}

fn path(value: Value<'_>) -> Result<PathBuf, Diagnostic> {
    let text = decode::text(value, "an absolute path in quotes")?;
    let path = Path::new(text);
    let upward = path.components().any(|part| part == Component::ParentDir);
    if path.is_absolute() && !upward && !text.contains('\0') {
        return Ok(path.to_owned());
    }
    Err(value
        .error(
            "invalid-path",
            format!("`{text}` is not an absolute path"),
            "expected an absolute path",
        )
        .help("begin it with `/` and leave out `..`"))
}

fn tunnel(fields: &mut Fields<'_, '_>) -> Tunnel {
    let listen = fields.optional("listen", decode::socket_address);
    let certificates = fields.optional("certificates", path);
    let drain = fields.optional("drain", drain);
    Tunnel {
        listen: listen.map_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 15008)), |v| {
            v.value
        }),
        certificates: certificates.map_or_else(|| "/etc/mesh/tls".into(), |v| v.value),
        drain: drain.map_or(Duration::from_secs(5), |v| v.value),
    }
}

/// How long flows may go on: none at all is a choice, too.
fn drain(value: Value<'_>) -> Result<Duration, Diagnostic> {
    let text = decode::text(value, "a duration in quotes, such as \"5s\"")?;
    decode::seconds(text)
        .filter(|seconds| !text.is_empty() && *seconds <= MOST_DRAIN)
        .map(Duration::from_secs)
        .ok_or_else(|| {
            value
                .error(
                    "invalid-duration",
                    format!("`{text}` is not how long flows may go on"),
                    "from 0s to 1h",
                )
                .help("write a number and s, m or h: \"5s\", \"2m\", or \"0s\" to cut them at once")
        })
}

fn admin(fields: &mut Fields<'_, '_>, node: &NodeConfig) -> Admin {
    let listen = fields.optional("listen", decode::socket_address);
    let tls = fields.optional("tls", flag);
    let token_file = fields.optional("token_file", path);
    let domain = &node.trust_domain;
    let clients = fields.list("clients", CLIENTS, |value, problems| {
        problems.ok(client(value, domain))
    });
    let encrypted = tls.is_some_and(|tls| tls.value);
    let access = Access {
        tls: encrypted.then(|| Identity::Node(Arc::clone(&node.name))),
        token_file: token_file.map(|path| path.value),
        clients: clients.items,
    };
    if let Some(listen) = &listen {
        let open = !listen.value.ip().to_canonical().is_loopback() && !access.is_safe();
        let problem = open.then(|| open_to_the_network(listen, &access));
        fields.problems.extend(problem);
    }
    if let Some(span) = clients.span.filter(|_| !encrypted) {
        let problem = Diagnostic::error("no-tls", "certificates are shown in TLS only")
            .label(span.label("nobody can show one"))
            .help("add tls = true to [admin]");
        fields.problems.push(problem);
    }
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 15020));
    Admin {
        listen: listen.map_or(default, |listen| listen.value),
        access,
    }
}

fn open_to_the_network(listen: &Located<'_, SocketAddr>, access: &Access) -> Diagnostic {
    let tls = "tls = true";
    let who = format!("token_file = \"/etc/mesh/admin.token\" or clients = {CLIENTS}");
    let missing = match (&access.tls, access.is_restricted()) {
        (Some(_), _) => who,
        (None, true) => tls.to_owned(),
        (None, false) => format!("{tls}, and {who}"),
    };
    let message = format!("`{}` is open to the network", listen.value);
    Diagnostic::error("open-admin", message)
        .label(listen.span.label("not a loopback address"))
        .help(format!(
            "add {missing} to [admin], or listen on 127.0.0.1:{}",
            listen.value.port()
        ))
}

fn flag(value: Value<'_>) -> Result<bool, Diagnostic> {
    match value.value {
        DeValue::Boolean(flag) => Ok(*flag),
        _ => Err(decode::wrong_type(value, "it is true or false", "true")),
    }
}

fn client(value: Value<'_>, trust_domain: &str) -> Result<Identity, Diagnostic> {
    let text = decode::text(value, "a SPIFFE id in quotes")?;
    Identity::parse(text, trust_domain).map_err(|error| {
        value
            .error(
                "invalid-identity",
                format!("`{text}` is nobody's identity: {error}"),
                "expected a SPIFFE id",
            )
            .help(format!(
                "such as \"spiffe://{trust_domain}/ns/ops/sa/prometheus\" or \"spiffe://{trust_domain}/node/edge-2\""
            ))
    })
}

fn flows(fields: &mut Fields<'_, '_>) -> Flows {
    let updates = fields.optional("updates", decode::duration);
    Flows {
        updates: updates.map_or(Duration::from_secs(10), |v| v.value),
    }
}

fn access_log(fields: &mut Fields<'_, '_>) -> AccessLog {
    let file = fields.optional("file", path_or_none);
    let journald = fields.optional("journald", yes_or_no);
    let rate = fields.optional("rate", |value| {
        let rule = "the access log's rate is 1 to 100000 records in a second";
        decode::number(value, 1..=100_000, "invalid-rate", rule)
    });
    AccessLog {
        file: file.and_then(|file| file.value),
        journald: journald.is_some_and(|journald| journald.value),
        rate: rate.map_or(100, |rate| rate.value),
    }
}

fn yes_or_no(value: Value<'_>) -> Result<bool, Diagnostic> {
    match value.value {
        DeValue::Boolean(yes) => Ok(*yes),
        _ => Err(decode::wrong_type(value, "expected true or false", "true")),
    }
}

fn limits(fields: &mut Fields<'_, '_>) -> Limits {
    let memory = fields.optional("memory", size);
    Limits {
        memory: memory.map_or(32 << 20, |memory| memory.value),
    }
}

fn sockets(fields: &mut Fields<'_, '_>) -> Sockets {
    let allow = fields.list("allow", "[\"ping\"]", |value, problems| {
        problems.ok(decode::choice(value, KINDS))
    });
    Sockets {
        allowed: allow.items.iter().fold(0, |all, kind| all | kind),
    }
}

fn log(fields: &mut Fields<'_, '_>) -> Log {
    let level = fields.optional("level", |v| decode::choice(v, LEVELS));
    let kernel = fields.optional("kernel", |v| decode::choice(v, LEVELS));
    Log {
        level: level.map_or(LogLevel::Info, |level| level.value),
        kernel: kernel.map_or(LogLevel::Warn, |level| level.value),
    }
}

/// A size such as `32MiB`, in bytes.
fn size(value: Value<'_>) -> Result<u64, Diagnostic> {
    let text = decode::text(value, "a size in quotes, such as \"32MiB\"")?;
    bytes(text).filter(|bytes| *bytes > 0).ok_or_else(|| {
        value
            .error(
                "invalid-size",
                format!("`{text}` is not a size"),
                "expected a size",
            )
            .help("write a number and B, KiB, MiB or GiB: \"32MiB\"")
    })
}

fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let shift = match unit.trim_start() {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// An example of `clients`.
const CLIENTS: &str = "[\"spiffe://mesh.local/ns/ops/sa/prometheus\"]";
/// Longest time that an agent may take to stop, seconds.
const MOST_DRAIN: u64 = 3600;

const KINDS: &[(&str, u32)] = &[
    ("raw", header_flag::ALLOW_RAW),
    ("ping", header_flag::ALLOW_PING),
    ("mptcp", header_flag::ALLOW_MPTCP),
    ("sctp", header_flag::ALLOW_SCTP),
    ("smc", header_flag::ALLOW_SMC),
    ("udplite", header_flag::ALLOW_UDPLITE),
    ("other", header_flag::ALLOW_OTHER),
];

const LEVELS: &[(&str, LogLevel)] = &[
    ("off", LogLevel::Off),
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("32MiB", Some(32 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("0B", Some(0)),
            ("32", None),
            ("32MB", None),
            ("MiB", None),
            ("99999999999999999999GiB", None),
            ("18446744073709551615KiB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
