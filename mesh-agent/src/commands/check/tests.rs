//! Exit code, summary and JSON.

use std::path::Path;

use super::{Format, Options, run};
use crate::policy::diagnostic::Diagnostic;

struct Ran {
    code: u8,
    out: String,
    err: String,
}

fn check(directory: &Path, format: Format, compiled: Result<String, Vec<Diagnostic>>) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let options = Options {
        directory: Some(directory.to_owned()),
        config: Path::new("/nonexistent/agent.toml"),
        format,
        against: None,
        color: false,
    };
    let code = run(&options, |_| compiled, &mut out, &mut err).expect("no I/O errors");
    Ran {
        code,
        out: String::from_utf8(out).expect("text"),
        err: String::from_utf8(err).expect("text"),
    }
}

/// A copy of the examples: the owner of the working copy may be anybody.
fn examples() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let shop = include_str!("../../../../examples/conf.d/10-shop.toml");
    std::fs::write(directory.path().join("10-shop.toml"), shop).expect("a file");
    directory
}

fn broken() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("a.toml"), "[mesh]\ndefault = \"x\"\n").expect("a file");
    directory
}

#[test]
fn a_good_directory() {
    let ran = check(examples().path(), Format::Human, Ok("9 entries".into()));
    assert_eq!((ran.code, &*ran.err), (0, ""));
    assert_eq!(
        ran.out,
        "2 services, 1 rule, 1 split in 1 file: ok (9 entries)\n"
    );
}

#[test]
fn a_broken_directory() {
    let directory = broken();
    let ran = check(directory.path(), Format::Human, Ok(String::new()));
    assert_eq!((ran.code, &*ran.out), (3, ""));
    assert!(ran.err.starts_with("error[unknown-value]"), "{}", ran.err);
    assert!(ran.err.ends_with("1 file: 1 error\n"), "{}", ran.err);
}

#[test]
fn a_working_copy_that_the_agent_would_refuse() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("a.toml");
    std::fs::write(&file, "[mesh]\n").expect("a file");
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&file, everyone).expect("a mode");
    let ran = check(directory.path(), Format::Human, Ok(String::new()));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.starts_with("warning[unsafe-file]"), "{}", ran.err);
    assert!(ran.out.ends_with("1 file: ok, 1 warning\n"), "{}", ran.out);
}

#[test]
fn what_does_not_compile_is_invalid() {
    let problem = Diagnostic::error("too-large", "it does not fit");
    let ran = check(examples().path(), Format::Human, Err(vec![problem]));
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("error[too-large]"), "{}", ran.err);
}

#[test]
fn json() {
    let directory = broken();
    let ran = check(directory.path(), Format::Json, Ok(String::new()));
    assert_eq!((ran.code, &*ran.err), (3, ""));
    let json: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["ok"], false);
    assert_eq!(json["diagnostics"][0]["code"], "unknown-value");
    assert_eq!(json["diagnostics"][0]["labels"][0]["line"], 2);
}
