//! `mesh-agent support`: what it holds, what it must not hold, and that nothing stands in its way.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::read::GzDecoder;
use mesh_tests::agent::{AgentProcess, command};
use mesh_tests::authority::{Authority, Wanted};
use mesh_tests::observe::{NOTICE, status, until};
use mesh_tests::shop::Shop;
use mesh_tests::{Sandbox, host};

/// Runs the command; its exit code and what it says on stderr.
fn support(sandbox: &Sandbox, output: &Path) -> (Option<i32>, String) {
    let output = output.to_string_lossy();
    let output = command(sandbox, &["support", "-o", &output]).expect("a command");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), told)
}

/// The parts by name, without the directory they are in.
fn parts(archive: &Path) -> BTreeMap<String, String> {
    let file = fs::File::open(archive).expect("an archive");
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    let mut parts = BTreeMap::new();
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").into_owned();
        let name = path.file_name().expect("a name").to_string_lossy();
        assert_eq!(path.components().count(), 2, "{path:?}");
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        parts.insert(name.into_owned(), text);
    }
    parts
}

/// Everything of a file that must be nowhere: each line of it, and all of it in base64.
fn secrets_of(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("a secret");
    let lines = text.lines().filter(|line| !line.starts_with("-----"));
    let lines = lines.map(str::trim).filter(|line| line.len() >= 16);
    let encoded = BASE64_STANDARD.encode(text.trim());
    lines.map(str::to_owned).chain([encoded]).collect()
}

#[test]
fn it_tells_what_there_is_and_no_secret() {
    host::run("support", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let tls = sandbox.path("tls");
        let authority = Authority::new("mesh.local").expect("an authority");
        authority.write_root(&tls).expect("a root");
        let wanted = Wanted::of("shop/checkout", "edge-1", 1);
        authority
            .write(&tls, "checkout", &wanted)
            .expect("a certificate");
        let token = sandbox.path("token");
        fs::write(&token, "0123456789abcdef".repeat(4)).expect("written");
        fs::set_permissions(&token, Permissions::from_mode(0o600)).expect("for root alone");
        let mut settings = fs::read_to_string(sandbox.agent_toml()).expect("settings");
        settings += &format!("token_file = \"{}\"\n", token.display());
        fs::write(sandbox.agent_toml(), settings).expect("written");
        // People write all sorts of things beside what matters.
        let planted = "a-password-in-a-comment-of-the-policy";
        let drop_in = format!("# {planted}\n");
        sandbox
            .write_policy("20-more.toml", &drop_in)
            .expect("written");
        let agent = AgentProcess::start(sandbox).expect("the agent starts");
        shop.is_guarded();
        until(NOTICE, "the denial is recorded", || {
            status(sandbox).expect("status").1["denials"][0].is_object()
        });

        let archive = sandbox.path("evidence.tar.gz");
        let (code, told) = support(sandbox, &archive);
        assert_eq!(code, Some(0), "{told}");
        let metadata = fs::metadata(&archive).expect("an archive");
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
        let found = parts(&archive);
        for (part, expected) in [
            ("README.txt", "policy texts"),
            ("status.json", "\"revision\""),
            ("metrics.txt", "mesh_authorization_decisions_total"),
            ("flows.json", "dev/intruder"),
            ("decisions.json", "checkout-pays"),
            ("services.json", "shop/payments"),
            ("policy.txt", "10-shop.toml"),
            ("policy.txt", "20-more.toml"),
            ("settings.txt", "edge-1"),
            ("kernel-side.txt", "link mesh_connect4: id "),
            ("kernel-side.txt", "map RULES: id "),
            ("doctor.json", "\"checks\""),
            ("host.txt", "/proc/sys/net/core/bpf_jit_enable"),
        ] {
            let text = found.get(part).unwrap_or_else(|| panic!("no {part}"));
            assert!(text.contains(expected), "{part} lacks {expected}: {text}");
        }
        let mut secrets = vec![planted.to_owned()];
        for entry in fs::read_dir(&tls).expect("a list").flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            if text.contains("PRIVATE KEY") {
                secrets.extend(secrets_of(&entry.path()));
                secrets.push(entry.path().display().to_string());
            }
        }
        assert!(secrets.len() > 2, "{secrets:?}");
        secrets.extend(secrets_of(&token));
        secrets.push(token.display().to_string());
        for (part, text) in &found {
            for secret in &secrets {
                assert!(!text.contains(secret), "{part} has {secret}");
            }
            assert!(!text.contains("PRIVATE KEY"), "{part}");
        }

        let before = fs::read(&archive).expect("read");
        let (code, told) = support(sandbox, &archive);
        assert_eq!(code, Some(1));
        assert!(told.contains("name another one by -o"), "{told}");
        assert_eq!(fs::read(&archive).expect("read"), before);

        // When it is needed most there is no agent, and its settings may be why.
        drop(agent);
        let mut settings = fs::read_to_string(sandbox.agent_toml()).expect("settings");
        settings += "[flows]\nupdates = \"lots\"\n";
        fs::write(sandbox.agent_toml(), settings).expect("written");
        let archive = sandbox.path("dead.tar.gz");
        let (code, told) = support(sandbox, &archive);
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains("`lots` is not a duration"), "{told}");
        assert!(
            told.contains("note: status.json: no agent answers"),
            "{told}"
        );
        let found = parts(&archive);
        assert!(!found.contains_key("status.json"));
        assert!(found["README.txt"].contains("- status.json: no agent answers"));
        assert!(found["README.txt"].contains("`lots` is not a duration"));
        assert!(found["kernel-side.txt"].contains("link mesh_connect4: id "));
    });
}
