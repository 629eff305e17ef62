//! The whole life of an authority, through its command line.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::Parser as _;
use rustls_pki_types::UnixTime;
use tempfile::TempDir;

use super::error::CaError;
use super::perform;
use crate::cli::{Cli, Command};
use crate::identity::{Bundle, Identity, Own, Role, verify};

/// A place for the authority and bundles.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    /// A place with an authority.
    fn initialized() -> Self {
        let place = Self::new();
        place
            .ca("init --dir @ca --trust-domain mesh.local")
            .expect("made");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a command line; `@` stands for this place.
    fn ca(&self, line: &str) -> Result<String, CaError> {
        let here = format!("{}/", self.0.path().display());
        let words = line.split(' ').map(|word| word.replace('@', &here));
        let words = ["mesh-agent", "ca"]
            .map(String::from)
            .into_iter()
            .chain(words);
        match Cli::try_parse_from(words).expect("a command line").command {
            Command::Ca { command } => perform(&command),
            other => panic!("another command: {other:?}"),
        }
    }

    fn load(&self, name: &str) -> Bundle {
        let loaded = Bundle::load(&self.path(name), &"mesh.local".into(), UnixTime::now());
        assert_eq!(loaded.problems, []);
        loaded.bundle
    }

    fn files(&self, name: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(self.path(name)).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    fn policy(&self, text: &str) {
        fs::create_dir_all(self.path("conf.d")).expect("a directory");
        fs::write(self.path("conf.d/a.toml"), text).expect("a file");
    }

    /// Runs openssl, if there is one.
    fn openssl(&self, line: &str) -> Option<(bool, String)> {
        let mut openssl = Process::new("openssl");
        openssl.args(line.split(' ')).current_dir(self.0.path());
        match openssl.output() {
            Ok(output) => {
                let said = [output.stdout, output.stderr].concat();
                Some((
                    output.status.success(),
                    String::from_utf8_lossy(&said).into_owned(),
                ))
            }
            Err(error) => {
                eprintln!("skipped, there is no openssl (apt-get install openssl): {error}");
                None
            }
        }
    }
}

const POLICY: &str = r#"
[[node]]
name = "edge-1"
address = "192.0.2.1"
[[node]]
name = "edge-2"
address = "192.0.2.2"
[[service]]
namespace = "shop"
name = "cart"
ports = [{ name = "http", listen = 80, protocol = "tcp" }]
endpoints = [{ address = "192.0.2.1:8080", version = "v1" }]
[[service]]
namespace = "shop"
name = "stock"
ports = [{ name = "http", listen = 80, protocol = "tcp" }]
endpoints = [
  { address = "192.0.2.1:8081", version = "v1" },
  { address = "192.0.2.2:8081", version = "v2" },
]
[[service]]
namespace = "shop"
name = "payments"
ports = [{ name = "http", listen = 80, protocol = "tcp" }]
endpoints = [{ address = "192.0.2.2:8082", version = "v1" }]
[[service]]
namespace = "shop"
name = "batch"
workload = { systemd = "batch.service" }
"#;

fn names(bundle: &Bundle) -> Vec<String> {
    bundle
        .identities()
        .map(|own| own.identity.to_string())
        .collect()
}

fn believes(bundle: &Bundle, own: &Own) -> &'static str {
    let judged = verify(&own.key.cert, Role::Client, bundle.trust(), UnixTime::now());
    judged.map_or_else(|refusal| refusal.code(), |_| "ok")
}

fn own<'a>(bundle: &'a Bundle, name: &str) -> &'a Own {
    let mut all = bundle.identities();
    all.find(|own| own.identity.to_string() == name)
        .expect(name)
}

fn mode(path: &Path) -> u32 {
    let metadata = fs::metadata(path).expect("a file");
    metadata.permissions().mode() & 0o7777
}

#[test]
fn a_bundle_has_what_a_node_needs() {
    let place = Place::initialized();
    place.policy(POLICY);
    for (node, expected) in [
        (
            "edge-1",
            ["shop/batch", "shop/cart", "shop/stock", "node edge-1"],
        ),
        (
            "edge-2",
            ["shop/batch", "shop/payments", "shop/stock", "node edge-2"],
        ),
    ] {
        let said = place
            .ca(&format!(
                "issue --dir @ca --node {node} --config-dir @conf.d --out @{node}"
            ))
            .expect("issued");
        assert!(
            said.contains("shop/stock") && said.contains(&format!("root@{node}:/etc/mesh/tls/"))
        );
        let bundle = place.load(node);
        assert_eq!(names(&bundle), expected);
        for own in bundle.identities() {
            assert_eq!(own.node.as_deref(), Some(node));
            let lasts = own.not_after.as_secs() - UnixTime::now().as_secs();
            assert!((89..=90).contains(&(lasts / 86_400)), "{lasts}");
        }
        for file in place.files(node) {
            assert_eq!(mode(&place.path(node).join(file)), 0o600);
        }
        assert_eq!(mode(&place.path(node)), 0o700);
    }
    assert_eq!(mode(&place.path("ca/root-1.key")), 0o600);
    let expected = [
        "batch.shop.svc.mesh.crt",
        "batch.shop.svc.mesh.key",
        "ca.crt",
        "cart.shop.svc.mesh.crt",
        "cart.shop.svc.mesh.key",
        "edge-1.node.mesh.crt",
        "edge-1.node.mesh.key",
        "stock.shop.svc.mesh.crt",
        "stock.shop.svc.mesh.key",
    ];
    assert_eq!(place.files("edge-1"), expected.map(String::from).into());
    // Everybody believes everybody.
    let (one, two) = (place.load("edge-1"), place.load("edge-2"));
    assert!(two.identities().all(|own| believes(&one, own) == "ok"));
    assert!(one.identities().all(|own| believes(&two, own) == "ok"));
}

#[test]
fn openssl_agrees() {
    let place = Place::initialized();
    place
        .ca("issue --dir @ca --node edge-1 --service shop/cart --out @edge-1")
        .expect("issued");
    let file = "edge-1/cart.shop.svc.mesh.crt";
    for purpose in ["sslclient", "sslserver"] {
        let line = format!("verify -x509_strict -purpose {purpose} -CAfile edge-1/ca.crt {file}");
        let Some((ok, said)) = place.openssl(&line) else {
            return;
        };
        assert!(ok, "{said}");
    }
    let (_, text) = place
        .openssl(&format!("x509 -in {file} -noout -text"))
        .expect("openssl");
    for expected in [
        "URI:spiffe://mesh.local/ns/shop/sa/cart, DNS:edge-1.node.mesh",
        "TLS Web Client Authentication, TLS Web Server Authentication",
        "Digital Signature",
        "CA:FALSE",
        "ecdsa-with-SHA256",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    place
        .ca("revoke --dir @ca --service shop/cart")
        .expect("revoked");
    let lists = "crl -in ca/ca.crl -CAfile ca/ca.crt -noout -text";
    let (ok, said) = place.openssl(lists).expect("openssl");
    let serial = own(&place.load("edge-1"), "shop/cart").serial.to_string();
    assert!(
        ok && said.contains("verify OK") && said.contains(&serial),
        "{said}"
    );
    let check = format!("verify -crl_check -CAfile ca/ca.crt -CRLfile ca/ca.crl {file}");
    let (ok, said) = place.openssl(&check).expect("openssl");
    assert!(!ok && said.contains("revoked"), "{said}");
}

#[test]
fn nothing_is_overwritten() {
    let place = Place::new();
    let missing = place
        .ca("issue --dir @ca --node edge-1 --out @edge-1")
        .expect_err("no authority");
    assert!(
        missing.to_string().contains("mesh-agent ca init"),
        "{missing}"
    );
    place
        .ca("init --dir @ca --trust-domain mesh.local")
        .expect("made");
    let before = fs::read(place.path("ca/root-1.crt")).expect("a root");
    let again = place
        .ca("init --dir @ca --trust-domain mesh.local")
        .expect_err("there is one");
    assert!(again.to_string().contains("--rotate"), "{again}");
    assert_eq!(
        fs::read(place.path("ca/root-1.crt")).expect("a root"),
        before
    );
    // Somebody else's directory is not replaced, whatever is in it.
    for (file, text) in [
        ("notes.txt", "x".to_owned()),
        ("other.crt", String::from_utf8(before).expect("PEM")),
    ] {
        let directory = place.path("theirs");
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join(file), &text).expect("a file");
        fs::write(directory.join("other.key"), "x").expect("a file");
        let refused = place
            .ca("issue --dir @ca --node edge-1 --out @theirs")
            .expect_err("not ours");
        assert!(matches!(refused, CaError::NotOurs { .. }), "{refused}");
        assert_eq!(
            fs::read_to_string(directory.join(file)).expect("a file"),
            text
        );
        fs::remove_dir_all(directory).expect("removed");
    }
    let listed = place.ca("list --dir @ca -o json").expect("listed");
    assert!(
        listed.contains("\"certificates\": []"),
        "nothing was issued: {listed}"
    );
}

#[test]
fn what_a_killed_init_has_left_is_no_authority() {
    let place = Place::initialized();
    fs::remove_file(place.path("ca/root-1.crt")).expect("removed");
    let key = fs::read(place.path("ca/root-1.key")).expect("a key");
    place
        .ca("init --dir @ca --trust-domain mesh.local")
        .expect("made");
    assert_eq!(
        fs::read(place.path("ca/root-1.key")).expect("a key"),
        key,
        "no key is lost"
    );
    place
        .ca("issue --dir @ca --node edge-1 --out @edge-1")
        .expect("issued");
    assert_eq!(names(&place.load("edge-1")), ["node edge-1"]);
}

#[test]
fn keys_that_are_not_private_sign_nothing() {
    let place = Place::initialized();
    let everybody = fs::Permissions::from_mode(0o644);
    fs::set_permissions(place.path("ca/root-1.key"), everybody).expect("a mode");
    let refused = place
        .ca("issue --dir @ca --node edge-1 --out @edge-1")
        .expect_err("refused");
    assert!(refused.to_string().contains("chmod 600"), "{refused}");
    fs::remove_file(place.path("ca/root-1.key")).expect("removed");
    let refused = place
        .ca("issue --dir @ca --node edge-1 --out @edge-1")
        .expect_err("refused");
    assert!(
        refused.to_string().contains("put root-1.key back"),
        "{refused}"
    );
}

#[test]
fn a_bundle_is_renewed() {
    let place = Place::initialized();
    place
        .ca("issue --dir @ca --node edge-1 --service shop/cart --days 10 --out @edge-1")
        .expect("issued");
    let first = place.load("edge-1");
    place
        .ca("renew --dir @ca --out @edge-1 --within 5")
        .expect("nothing to do");
    let same = place.load("edge-1");
    assert_eq!(
        own(&first, "shop/cart").serial,
        own(&same, "shop/cart").serial
    );
    place
        .ca("renew --dir @ca --out @edge-1 --within 20")
        .expect("renewed");
    let second = place.load("edge-1");
    assert_eq!(names(&first), names(&second));
    let (before, after) = (own(&first, "shop/cart"), own(&second, "shop/cart"));
    assert_ne!(before.serial, after.serial);
    assert_ne!(before.key.key.public_key(), after.key.key.public_key());
    assert_eq!(after.node.as_deref(), Some("edge-1"));
    place
        .ca("renew --dir @ca --out @edge-1 --all")
        .expect("renewed");
    assert_ne!(own(&place.load("edge-1"), "shop/cart").serial, after.serial);
    let nothing = place
        .ca("renew --dir @ca --out @edge-9")
        .expect_err("no bundle");
    assert!(nothing.to_string().contains("ca issue"), "{nothing}");
    // What was taken back is not given again by the way.
    place.ca("revoke --dir @ca --node edge-1").expect("revoked");
    let refused = place
        .ca("renew --dir @ca --out @edge-1 --all")
        .expect_err("revoked");
    assert!(matches!(refused, CaError::Revoked { .. }), "{refused}");
    // Nothing is left beside it.
    assert_eq!(place.files(""), ["ca", "edge-1"].map(String::from).into());
}

#[test]
fn roots_overlap() {
    let place = Place::initialized();
    for node in ["edge-1", "edge-2"] {
        place
            .ca(&format!(
                "issue --dir @ca --node {node} --service shop/cart --out @{node}"
            ))
            .expect("issued");
    }
    place.ca("init --dir @ca --rotate").expect("the next root");
    let old = place.load("edge-1");
    place
        .ca("renew --dir @ca --all --out @edge-2")
        .expect("renewed");
    let new = place.load("edge-2");
    assert_ne!(own(&old, "shop/cart").serial, own(&new, "shop/cart").serial);
    // One has not heard of the new root yet, and believes it, for the old one vouches for it.
    assert!(new.identities().all(|own| believes(&old, own) == "ok"));
    assert!(old.identities().all(|own| believes(&new, own) == "ok"));
    // What the new root revokes counts there, too.
    place.ca("revoke --dir @ca --node edge-2").expect("revoked");
    fs::copy(place.path("ca/ca.crl"), place.path("edge-1/ca.crl")).expect("copied");
    let loaded = Bundle::load(&place.path("edge-1"), &"mesh.local".into(), UnixTime::now());
    assert_eq!(believes(&loaded.bundle, own(&new, "shop/cart")), "revoked");
    assert_eq!(believes(&loaded.bundle, own(&old, "shop/cart")), "ok");
    // The old root is retired.
    for file in ["root-1.crt", "root-1.key"] {
        fs::remove_file(place.path("ca").join(file)).expect("removed");
    }
    fs::remove_dir_all(place.path("edge-2")).expect("removed");
    place
        .ca("issue --dir @ca --node edge-2 --service shop/cart --out @edge-2")
        .expect("issued");
    let after = place.load("edge-2");
    assert_eq!(believes(&after, own(&old, "shop/cart")), "unknown-issuer");
    assert_eq!(own(&after, "shop/cart").key.cert.len(), 1);
}

#[test]
fn what_is_revoked_is_what_was_named() {
    let place = Place::initialized();
    for node in ["edge-1", "edge-2"] {
        let services = "--service shop/cart --service shop/stock";
        place
            .ca(&format!(
                "issue --dir @ca --node {node} {services} --out @{node}"
            ))
            .expect("issued");
    }
    let bundles = [place.load("edge-1"), place.load("edge-2")];
    let revoked = || {
        let trust = tempfile::tempdir().expect("a directory");
        for file in ["ca.crt", "ca.crl"] {
            let _ = fs::copy(place.path("ca").join(file), trust.path().join(file));
        }
        let trust = Bundle::load(trust.path(), &"mesh.local".into(), UnixTime::now()).bundle;
        let mut revoked = Vec::new();
        for own in bundles.iter().flat_map(Bundle::identities) {
            if believes(&trust, own) == "revoked" {
                let node = own.node.as_deref().expect("a node");
                revoked.push(format!("{} on {node}", own.identity));
            }
        }
        revoked
    };
    assert_eq!(revoked(), [] as [&str; 0]);
    let serial = &own(&bundles[0], "node edge-1").serial;
    place
        .ca(&format!(
            "revoke --dir @ca --serial {}",
            serial.to_string().to_lowercase()
        ))
        .expect("revoked");
    assert_eq!(revoked(), ["node edge-1 on edge-1"]);
    place
        .ca("revoke --dir @ca --service shop/cart --node edge-2")
        .expect("revoked");
    assert_eq!(revoked(), ["node edge-1 on edge-1", "shop/cart on edge-2"]);
    place
        .ca("revoke --dir @ca --service shop/stock --crl-days 7")
        .expect("revoked");
    assert_eq!(revoked().len(), 4);
    place.ca("revoke --dir @ca --node edge-1").expect("revoked");
    assert_eq!(revoked().len(), 5);
    place.ca("crl --dir @ca").expect("signed");
    assert_eq!(revoked().len(), 5);
    let nothing = place
        .ca("revoke --dir @ca --node edge-1")
        .expect_err("all is revoked");
    assert!(matches!(nothing, CaError::NothingToRevoke), "{nothing}");
    // New bundles have the list.
    place
        .ca("issue --dir @ca --node edge-3 --out @edge-3")
        .expect("issued");
    assert!(place.files("edge-3").contains("ca.crl"));
    let rest = own(&place.load("edge-3"), "node edge-3").identity.clone();
    assert_eq!(rest, Identity::Node("edge-3".into()));
}

#[test]
fn the_list() {
    let place = Place::initialized();
    place
        .ca("issue --dir @ca --node edge-1 --service shop/cart --out @edge-1")
        .expect("issued");
    place
        .ca("revoke --dir @ca --service shop/cart")
        .expect("revoked");
    let table = place.ca("list --dir @ca").expect("listed");
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["IDENTITY", "NODE", "STATE", "EXPIRES", "SERIAL"]);
    assert_eq!(lines[1][..4], ["root", "1", "-", "root"]);
    assert_eq!(
        lines[2][..3],
        ["spiffe://mesh.local/ns/shop/sa/cart", "edge-1", "revoked"]
    );
    assert_eq!(
        lines[3][..3],
        ["spiffe://mesh.local/node/edge-1", "edge-1", "valid"]
    );
    let json = place.ca("list --dir @ca -o json").expect("listed");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["trust_domain"], "mesh.local");
    assert_eq!(json["roots"][0]["subject"], "CN=mesh root 1 mesh.local");
    assert_eq!(json["certificates"][0]["state"], "revoked");
    assert_eq!(json["certificates"][0]["serial"], lines[2][4]);
    assert!(json["certificates"][1]["revoked"].is_null());
}

#[test]
fn policies_that_do_not_help() {
    let place = Place::initialized();
    place.policy("[[service]]\nname = 5\n");
    let issue = "issue --dir @ca --node edge-9 --config-dir @conf.d --out @edge-9";
    let invalid = place.ca(issue).expect_err("invalid");
    assert_eq!(invalid.exit_code(), 3);
    assert!(
        invalid.render(false).contains("a.toml"),
        "{}",
        invalid.render(false)
    );
    place.policy(POLICY);
    let unknown = place.ca(issue).expect_err("unknown");
    assert_eq!(unknown.exit_code(), 1);
    assert!(unknown.to_string().contains("edge-1, edge-2"), "{unknown}");
    assert!(!place.path("edge-9").exists());
}

#[test]
fn one_command_at_a_time() {
    let place = Place::initialized();
    let locked = super::directory::Directory::open(&place.path("ca")).expect("opened");
    let refused = place.ca("list --dir @ca").expect_err("locked");
    assert!(refused.to_string().contains("try again"), "{refused}");
    drop(locked);
    place.ca("list --dir @ca").expect("listed");
}

#[test]
fn command_lines_that_make_no_sense() {
    for line in [
        "init --dir x",
        "init --dir x --trust-domain spiffe://mesh.local",
        "init --dir x --trust-domain mesh.local --rotate",
        "issue --dir x --node Edge --out y",
        "issue --dir x --node edge-1 --service cart --out y",
        "issue --dir x --node edge-1 --out y --days 0",
        "renew --dir x --out y --all --within 5",
        "revoke --dir x",
        "revoke --dir x --serial 12 --node edge-1",
        "revoke --dir x --serial xyz",
        "list",
    ] {
        let words = ["mesh-agent", "ca"].into_iter().chain(line.split(' '));
        let refused = Cli::try_parse_from(words).expect_err(line);
        assert_eq!(refused.exit_code(), 2, "{line}: {refused}");
    }
}
