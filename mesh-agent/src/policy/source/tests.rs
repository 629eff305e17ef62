//! Directories as an attacker, an editor or a careless administrator would leave them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{FileType, Mode};

use super::{LARGEST_FILE, SourceSet, read};

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    write(&directory.path().join("10-good.toml"), "[mesh]\n");
    directory
}

fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::write(path, text).expect("a file");
    mode(path, 0o644);
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// Expects exactly one problem, on the file or directory whose name ends so.
#[track_caller]
fn refused(directory: &Path, code: &str, name: &str) {
    let error = read(directory).expect_err("a refusal");
    let [diagnostic] = error.diagnostics.as_slice() else {
        panic!("{:?}", error.diagnostics);
    };
    assert_eq!(diagnostic.code, code, "{diagnostic}");
    assert!(diagnostic.labels[0].file.ends_with(name), "{diagnostic}");
    assert!(diagnostic.help.is_some(), "{diagnostic}");
}

fn names(directory: &Path) -> Vec<String> {
    let set = read(directory).expect("a set");
    set.files.iter().map(|file| file.name.to_string()).collect()
}

#[test]
fn what_belongs_to_the_policy_in_lexical_order() {
    let directory = directory();
    for name in [
        "9.toml",
        "20.toml",
        "a.TOML",
        "b.toml~",
        ".c.toml",
        ".d.toml.swp",
        "e.tmp",
        "f.toml.tmp",
        "#g.toml#",
        "README",
    ] {
        write(&directory.path().join(name), "");
    }
    fs::create_dir(directory.path().join("sub")).expect("a directory");
    assert_eq!(
        names(directory.path()),
        ["10-good.toml", "20.toml", "9.toml"]
    );
}

#[test]
fn an_empty_directory_is_an_empty_set() {
    let directory = tempfile::tempdir().expect("a directory");
    assert_eq!(read(directory.path()).expect("a set"), SourceSet::default());
}

#[test]
fn no_directory() {
    let directory = directory();
    refused(&directory.path().join("none"), "missing-directory", "none");
    refused(
        &directory.path().join("10-good.toml"),
        "not-a-directory",
        "10-good.toml",
    );
}

#[test]
fn a_directory_that_everyone_can_write() {
    let directory = directory();
    mode(directory.path(), 0o1777);
    let name = directory.path().display().to_string();
    refused(directory.path(), "unsafe-directory", &name);
}

#[test]
fn what_is_not_a_file_is_neither_opened_nor_read() {
    let directory = directory();
    let path = directory.path().join("x.toml");
    let mknod =
        |kind| rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::from_raw_mode(0o644), 0);
    mknod(FileType::Fifo).expect("a pipe");
    refused(directory.path(), "not-a-file", "x.toml");
    fs::remove_file(&path).expect("gone");
    let socket = UnixListener::bind(&path).expect("a socket");
    refused(directory.path(), "not-a-file", "x.toml");
    drop(socket);
    fs::remove_file(&path).expect("gone");
    fs::create_dir(&path).expect("a directory");
    refused(directory.path(), "not-a-file", "x.toml");
}

#[test]
fn a_link_to_a_pipe_does_not_block() {
    let directory = directory();
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        FileType::Fifo,
        Mode::from_raw_mode(0o644),
        0,
    )
    .expect("a pipe");
    symlink("pipe", directory.path().join("x.toml")).expect("a link");
    refused(directory.path(), "not-a-file", "x.toml");
}

#[test]
fn links_within_the_directory_are_followed() {
    let directory = directory();
    symlink("10-good.toml", directory.path().join("20-link.toml")).expect("a link");
    fs::create_dir(directory.path().join("data")).expect("a directory");
    write(&directory.path().join("data/real"), "");
    symlink("data/real", directory.path().join("30-link.toml")).expect("a link");
    assert_eq!(
        names(directory.path()),
        ["10-good.toml", "20-link.toml", "30-link.toml"]
    );
}

#[test]
fn links_that_leave_the_directory() {
    let outside = directory();
    for target in [
        outside.path().join("10-good.toml"),
        "../elsewhere.toml".into(),
        "/dev/zero".into(),
        "/proc/self/environ".into(),
    ] {
        let directory = directory();
        symlink(target, directory.path().join("x.toml")).expect("a link");
        refused(directory.path(), "symlink-outside", "x.toml");
    }
    let directory = directory();
    symlink("x.toml", directory.path().join("x.toml")).expect("a link");
    refused(directory.path(), "symlink-outside", "x.toml");
}

#[test]
fn links_to_nothing() {
    let directory = directory();
    symlink("none", directory.path().join("x.toml")).expect("a link");
    refused(directory.path(), "dangling-symlink", "x.toml");
}

#[test]
fn files_that_others_can_write() {
    let directory = directory();
    let path = directory.path().join("x.toml");
    write(&path, "");
    mode(&path, 0o646);
    refused(directory.path(), "unsafe-file", "x.toml");
    mode(&path, 0o664);
    assert_eq!(
        names(directory.path()).len(),
        2,
        "the group is this process's own"
    );
    if fs::metadata(&path).expect("a file").uid() != 0 {
        eprintln!("skipped: other owners and groups need root");
        return;
    }
    std::os::unix::fs::chown(&path, None, Some(4711)).expect("a group");
    refused(directory.path(), "unsafe-file", "x.toml");
    mode(&path, 0o644);
    std::os::unix::fs::chown(&path, Some(4711), None).expect("an owner");
    refused(directory.path(), "unsafe-file", "x.toml");
}

#[test]
fn sizes() {
    let directory = directory();
    let path = directory.path().join("x.toml");
    write(&path, "#".repeat(LARGEST_FILE));
    assert_eq!(names(directory.path()).len(), 2);
    write(&path, "#".repeat(LARGEST_FILE + 1));
    refused(directory.path(), "file-too-large", "x.toml");
    write(&path, "#".repeat(LARGEST_FILE));
    for index in 0..16 {
        write(
            &directory.path().join(format!("y{index:02}.toml")),
            "#".repeat(LARGEST_FILE),
        );
    }
    refused(directory.path(), "files-too-large", "y14.toml");
}

#[test]
fn too_many_files() {
    let directory = directory();
    for index in 0..1000 {
        write(&directory.path().join(format!("x{index}.toml")), "");
    }
    let name = directory.path().display().to_string();
    refused(directory.path(), "too-many-files", &name);
}

#[test]
fn text_that_is_not_utf8() {
    let directory = directory();
    write(&directory.path().join("x.toml"), b"[mesh]\n# caf\xe9\n");
    let error = read(directory.path()).expect_err("a refusal");
    let label = &error.diagnostics[0].labels[0];
    assert_eq!(
        (error.diagnostics[0].code, label.line, label.column),
        ("not-utf8", 2, 6)
    );
}

#[test]
fn all_problems_at_once_and_the_rest_is_readable() {
    let directory = directory();
    fs::create_dir(directory.path().join("a.toml")).expect("a directory");
    write(&directory.path().join("b.toml"), b"\xff");
    symlink("none", directory.path().join("c.toml")).expect("a link");
    let error = read(directory.path()).expect_err("refusals");
    let codes: Vec<_> = error.diagnostics.iter().map(|d| d.code).collect();
    assert_eq!(codes, ["not-a-file", "not-utf8", "dangling-symlink"]);
    assert_eq!(error.readable.files.len(), 1);
}

#[test]
fn a_set_survives_json() {
    let set = SourceSet::from_texts([("b.toml", "y"), ("a.toml", "x")]);
    let json = serde_json::to_string(&set).expect("JSON");
    assert_eq!(
        json,
        r#"[{"name":"a.toml","text":"x"},{"name":"b.toml","text":"y"}]"#
    );
    assert_eq!(
        serde_json::from_str::<SourceSet>(&json).expect("a set"),
        set
    );
}
