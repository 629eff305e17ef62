//! Layouts, and what is wrong with files.

use std::os::unix::fs::symlink;
use std::path::Path;

use rcgen::SerialNumber;
use tempfile::TempDir;

use super::super::testing::{
    Authority, after, authority_params, chmod, domain, key, later, leaf, now, service, uri, write,
    write_private,
};
use super::super::{Role, verify};
use super::files::Files;
use super::{Bundle, ExpiryKind, Loaded};

fn load(directory: &Path) -> Loaded {
    Bundle::load(directory, &domain(), now())
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn names(loaded: &Loaded) -> Vec<String> {
    let own = loaded.bundle.identities();
    own.map(|own| own.identity.to_string()).collect()
}

/// `file code` of every problem.
fn problems(loaded: &Loaded) -> Vec<String> {
    let problems = loaded.problems.iter();
    problems
        .map(|problem| format!("{} {}", problem.file, problem.code))
        .collect()
}

#[test]
fn nothing_is_a_normal_state() {
    let parent = directory();
    for path in [parent.path().join("missing"), parent.path().to_owned()] {
        let loaded = load(&path);
        assert_eq!((names(&loaded), problems(&loaded)), (vec![], vec![]));
        assert_eq!(loaded.bundle.expiries(), []);
    }
}

#[test]
fn layouts() {
    let root = Authority::root("root");
    let middle = root.below(authority_params("middle"));
    let cart = root.issue_to("cart");
    let below = middle.issue_to("cart").below(&[&middle]);
    let layouts: [(&str, &[(&str, &str)]); 8] = [
        (
            "pairs",
            &[
                ("cart.crt", &cart.pem),
                ("cart.key", &cart.key),
                ("ca.crt", &root.0.pem()),
            ],
        ),
        (
            "chain",
            &[
                ("cart.pem", &below.pem),
                ("cart.key", &below.key),
                ("ca.pem", &root.0.pem()),
            ],
        ),
        (
            "all in one",
            &[
                ("cart.pem", &format!("{}{}", cart.key, cart.pem)),
                ("roots/a.pem", &root.0.pem()),
            ],
        ),
        (
            "cert-manager",
            &[
                ("c/tls.crt", &below.pem),
                ("c/tls.key", &below.key),
                ("c/ca.crt", &root.0.pem()),
            ],
        ),
        (
            "SPIRE",
            &[
                ("svid.0.pem", &below.pem),
                ("svid.0.key", &below.key),
                ("bundle.0.pem", &root.0.pem()),
            ],
        ),
        (
            "other names",
            &[("a", &cart.pem), ("b", &cart.key), ("c", &root.0.pem())],
        ),
        (
            "the intermediate in a file of its own",
            &[
                ("cart.crt", &middle.issue_to("cart").pem),
                ("a.key", ""),
                ("ca.crt", &root.0.pem()),
                ("middle.crt", &middle.0.pem()),
            ],
        ),
        (
            "notes beside it",
            &[
                ("cart.crt", &cart.pem),
                ("cart.key", &cart.key),
                ("ca.crt", &root.0.pem()),
                ("README", "x"),
            ],
        ),
    ];
    for (name, files) in layouts {
        let directory = directory();
        if name.starts_with("the intermediate") {
            middle.issue_to("cart").write(directory.path(), "cart");
        }
        for (file, text) in files {
            if !text.is_empty() && !directory.path().join(file).exists() {
                write_private(directory.path(), file, text);
            }
        }
        let loaded = load(directory.path());
        assert_eq!(
            (names(&loaded), problems(&loaded)),
            (vec!["shop/cart".into()], vec![]),
            "{name}"
        );
        // What would be presented is believed by who has nothing but the root.
        let other = super::super::testing::bundle(&root, &[]);
        let own = loaded.bundle.own(&service("cart")).expect("one");
        let peer = verify(&own.key.cert, Role::Client, other.trust(), now()).expect(name);
        assert_eq!(
            (peer.serial, peer.node),
            (own.serial.clone(), Some("edge-1".into()))
        );
    }
}

#[test]
fn der_and_several_roots_and_lists() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let directory = directory();
    write(directory.path(), "roots/old.der", old.0.der());
    write(directory.path(), "roots/new.pem", new.0.pem());
    old.issue_to("cart").write(directory.path(), "cart");
    new.issue_to("stock").write(directory.path(), "stock");
    let mut revoked = leaf(&service("payments"));
    revoked.serial_number = Some(SerialNumber::from(5));
    let revoked = new.issue(&revoked);
    let list = new.revoke(&[&[5]], 30);
    let der = <rustls_pki_types::CertificateRevocationListDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(list.as_bytes()).expect("PEM");
    write(directory.path(), "crl.pem", old.revoke(&[], 20));
    write(directory.path(), "new.crl", der.as_ref());
    let loaded = load(directory.path());
    assert_eq!(problems(&loaded), [] as [&str; 0]);
    assert_eq!(names(&loaded), ["shop/cart", "shop/stock"]);
    let refusal = verify(&revoked.chain, Role::Client, loaded.bundle.trust(), now());
    assert_eq!(refusal.expect_err("revoked").code(), "revoked");
    let kinds: Vec<_> = loaded
        .bundle
        .expiries()
        .iter()
        .map(|expiry| &expiry.kind)
        .collect();
    assert_eq!(kinds.len(), 6);
    assert!(kinds.contains(&&ExpiryKind::Own(service("cart"))));
    assert!(kinds.contains(&&ExpiryKind::Root("CN=new".into())));
    assert!(kinds.contains(&&ExpiryKind::Crl("CN=old".into())));
}

#[test]
fn a_writer_that_swaps_a_directory() {
    let root = Authority::root("root");
    let directory = directory();
    let stage = |name: &str, service: &str| {
        let issued = root.issue_to(service);
        write(directory.path(), &format!("{name}/tls.crt"), &issued.pem);
        write_private(directory.path(), &format!("{name}/tls.key"), &issued.key);
        write(directory.path(), &format!("{name}/ca.crt"), root.0.pem());
    };
    stage("..1", "cart");
    symlink("..1", directory.path().join("..data")).expect("a link");
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(format!("..data/{file}"), directory.path().join(file)).expect("a link");
    }
    let loaded = load(directory.path());
    assert_eq!(
        (names(&loaded), problems(&loaded)),
        (vec!["shop/cart".into()], vec![])
    );
    stage("..2", "stock");
    symlink("..2", directory.path().join("..new")).expect("a link");
    std::fs::rename(
        directory.path().join("..new"),
        directory.path().join("..data"),
    )
    .expect("swapped");
    assert_eq!(names(&load(directory.path())), ["shop/stock"]);
}

/// What is done to a good directory, and what is said about it.
type Case<'a> = (&'a str, &'a dyn Fn(&Path), &'a [&'a str]);

#[test]
fn one_broken_file_takes_no_other_down() {
    let root = Authority::root("root");
    let outside = directory();
    write_private(outside.path(), "stock.key", &root.issue_to("stock").key);
    let stock = root.issue_to("stock");
    let put = |path: &Path, name: &str, text: &str| write_private(path, name, text);
    let cases: [Case<'_>; 20] = [
        (
            "a readable key",
            &|path| {
                stock.write(path, "stock");
                chmod(&path.join("stock.key"), 0o640);
            },
            &["stock.crt no-key", "stock.key key-not-private"],
        ),
        (
            "a writable certificate",
            &|path| {
                stock.write(path, "stock");
                chmod(&path.join("stock.crt"), 0o664);
            },
            &["stock.crt unsafe-file", "stock.key unused-key"],
        ),
        (
            "another's key",
            &|path| {
                stock.write(path, "stock");
                put(path, "stock.key", &key().serialize_pem());
            },
            &["stock.crt key-mismatch", "stock.key unused-key"],
        ),
        (
            "no key",
            &|path| put(path, "stock.crt", &stock.pem),
            &["stock.crt no-key"],
        ),
        (
            "half a file",
            &|path| {
                put(path, "stock.crt", &stock.pem[..200]);
            },
            &["stock.crt broken-pem"],
        ),
        (
            "an empty file",
            &|path| put(path, "stock.crt", ""),
            &["stock.crt nothing-in-it"],
        ),
        (
            "no base64",
            &|path| {
                put(
                    path,
                    "stock.crt",
                    "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
                );
            },
            &["stock.crt broken-pem"],
        ),
        (
            "no certificate",
            &|path| {
                put(
                    path,
                    "stock.crt",
                    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                );
            },
            &["stock.crt broken-certificate"],
        ),
        (
            "no key inside",
            &|path| {
                put(
                    path,
                    "stock.key",
                    "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                );
            },
            &["stock.key broken-key"],
        ),
        (
            "no list inside",
            &|path| {
                put(
                    path,
                    "a.crl",
                    "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
                );
            },
            &["a.crl broken-crl"],
        ),
        (
            "a passphrase",
            &|path| {
                put(
                    path,
                    "stock.key",
                    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                );
            },
            &["stock.key encrypted-key"],
        ),
        (
            "too large",
            &|path| put(path, "stock.crt", &"x".repeat((1 << 20) + 1)),
            &["stock.crt file-too-large"],
        ),
        (
            "a link outside",
            &|path| {
                symlink(outside.path().join("stock.key"), path.join("stock.key")).expect("a link");
            },
            &["stock.key symlink-outside"],
        ),
        (
            "a pipe",
            &|path| {
                nix::unistd::mkfifo(&path.join("stock.key"), nix::sys::stat::Mode::S_IRUSR)
                    .expect("a pipe");
            },
            &["stock.key not-a-file"],
        ),
        (
            "a writable directory",
            &|path| {
                put(path, "sub/stock.crt", &stock.pem);
                chmod(&path.join("sub"), 0o777);
            },
            &["sub/ unsafe-directory"],
        ),
        (
            "the wrong order",
            &|path| {
                put(path, "stock.pem", &format!("{}{}", root.0.pem(), stock.pem));
            },
            &["stock.pem not-a-chain"],
        ),
        (
            "an unknown issuer",
            &|path| {
                Authority::root("other")
                    .issue_to("stock")
                    .write(path, "stock");
            },
            &["stock.crt unknown-issuer"],
        ),
        (
            "an expired certificate",
            &|path| {
                let mut params = leaf(&service("stock"));
                params.not_after = after(0) - time::Duration::hours(1);
                root.issue(&params).write(path, "stock");
            },
            &["stock.crt expired"],
        ),
        (
            "the root of another domain",
            &|path| {
                let mut params = authority_params("other");
                params.subject_alt_names = vec![uri("spiffe://other.local")];
                put(path, "other.crt", &Authority::root_with(params).0.pem());
            },
            &["other.crt foreign-root"],
        ),
        (
            "federated roots of SPIRE",
            &|path| {
                put(
                    path,
                    "federated_bundle.0.0.pem",
                    &Authority::root("other").0.pem(),
                );
            },
            &[],
        ),
    ];
    for (name, damage, expected) in cases {
        let directory = directory();
        write(directory.path(), "ca.crt", root.0.pem());
        root.issue_to("cart").write(directory.path(), "cart");
        damage(directory.path());
        let loaded = load(directory.path());
        assert_eq!(problems(&loaded), expected, "{name}");
        assert_eq!(names(&loaded), ["shop/cart"], "{name}");
        assert!(
            loaded
                .problems
                .iter()
                .all(|problem| !problem.help.is_empty())
        );
        assert_eq!(loaded.bundle.trust().anchors().len(), 1, "{name}");
    }
}

#[test]
fn what_to_type_is_said() {
    let root = Authority::root("root");
    let directory = directory();
    root.issue_to("cart").write(directory.path(), "cart");
    chmod(&directory.path().join("cart.key"), 0o644);
    let loaded = load(directory.path());
    let expected = format!("run `chmod 600 {}/cart.key`", directory.path().display());
    let said = loaded
        .problems
        .iter()
        .map(ToString::to_string)
        .collect::<String>();
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn a_directory_that_cannot_be_believed() {
    let root = Authority::root("root");
    let directory = directory();
    write(directory.path(), "ca.crt", root.0.pem());
    root.issue_to("cart").write(directory.path(), "cart");
    chmod(directory.path(), 0o777);
    let loaded = load(directory.path());
    assert_eq!(problems(&loaded), ["./ unsafe-directory"]);
    assert!(names(&loaded).is_empty() && loaded.bundle.trust().anchors().is_empty());
    chmod(directory.path(), 0o700);
    for number in 0..1025 {
        write(directory.path(), &format!("{number}.txt"), "");
    }
    assert_eq!(problems(&load(directory.path())), ["./ too-many-files"]);
}

#[test]
fn authorities_that_are_not_roots() {
    let root = Authority::root("root");
    let middle = root.below(authority_params("middle"));
    let chain = middle.issue_to("cart").below(&[&middle]).chain;
    let directory = directory();
    write(directory.path(), "middle.crt", middle.0.pem());
    // Alone it is what somebody chose to trust.
    let loaded = load(directory.path());
    assert!(verify(&chain, Role::Client, loaded.bundle.trust(), now()).is_ok());
    // Beside its root it is what the root says, which can revoke it.
    write(directory.path(), "ca.crt", root.0.pem());
    let serial = super::super::Facts::read(middle.0.der())
        .expect("readable")
        .serial;
    write(
        directory.path(),
        "a.crl",
        root.revoke(&[serial.as_bytes()], 30),
    );
    let loaded = load(directory.path());
    assert_eq!(problems(&loaded), [] as [&str; 0]);
    let refusal = verify(&chain, Role::Client, loaded.bundle.trust(), now());
    assert_eq!(refusal.expect_err("revoked").code(), "revoked");
}

#[test]
fn of_two_certificates_the_one_that_lasts_longer() {
    let root = Authority::root("root");
    let directory = directory();
    write(directory.path(), "ca.crt", root.0.pem());
    for (name, from, to) in [("a", -1, 10), ("b", -1, 20), ("c", 1, 40)] {
        let mut params = leaf(&service("cart"));
        (params.not_before, params.not_after) = (after(from), after(to));
        root.issue(&params).write(directory.path(), name);
    }
    let lasts = |at| {
        let loaded = Bundle::load(directory.path(), &domain(), at);
        let own = loaded.bundle.own(&service("cart")).expect("one");
        (own.not_after.as_secs() - now().as_secs() + 3600) / 86_400
    };
    assert_eq!(
        (lasts(now()), lasts(later(2)), lasts(later(30))),
        (20, 40, 40)
    );
    assert_eq!(problems(&load(directory.path())), ["c.crt not-yet-valid"]);
}

#[test]
fn warnings() {
    let root = Authority::root("root");
    let other = Authority::root("other");
    let directory = directory();
    write(directory.path(), "ca.crt", root.0.pem());
    write(directory.path(), "a.crl", root.revoke(&[], -1));
    write(directory.path(), "b.crl", other.revoke(&[], 30));
    write_private(directory.path(), "ca.key", key().serialize_pem());
    let mut params = leaf(&service("cart"));
    params.extended_key_usages.truncate(1);
    root.issue(&params).write(directory.path(), "cart");
    let loaded = load(directory.path());
    let expected = [
        "a.crl stale-crl",
        "b.crl crl-unknown-issuer",
        "ca.key unused-key",
        "cart.crt wrong-usage",
    ];
    assert_eq!(problems(&loaded), expected);
    assert!(loaded.problems.iter().all(|problem| problem.used));
    assert_eq!(names(&loaded), ["shop/cart"]);
}

#[test]
fn credentials_of_systemd() {
    let root = Authority::root("root");
    let (own, credentials) = (directory(), directory());
    let cart = root.issue_to("cart");
    // The group bits are those of the ACL's mask.
    write(credentials.path(), "cart.key", &cart.key);
    chmod(&credentials.path().join("cart.key"), 0o440);
    write(own.path(), "cart.crt", &cart.pem);
    symlink(
        credentials.path().join("cart.key"),
        own.path().join("cart.key"),
    )
    .expect("a link");
    let read = |directory: &Path, credentials: Option<&TempDir>| {
        let files = Files::read_with(directory, credentials.map(|path| path.path().to_owned()));
        let read: Vec<_> = files
            .files
            .iter()
            .map(|file| (&*file.name, file.not_private.is_some()))
            .collect();
        let problems: Vec<_> = files.problems.iter().map(|problem| problem.code).collect();
        format!("{read:?} {problems:?}")
    };
    let expected = r#"[("cart.crt", true)] ["symlink-outside"]"#;
    assert_eq!(read(own.path(), None), expected);
    assert_eq!(read(own.path(), Some(&directory())), expected);
    let expected = r#"[("cart.crt", true), ("cart.key", false)] []"#;
    assert_eq!(read(own.path(), Some(&credentials)), expected);
    // They may also be the directory itself.
    let expected = r#"[("cart.key", false)] []"#;
    assert_eq!(read(credentials.path(), Some(&credentials)), expected);
    chmod(&credentials.path().join("cart.key"), 0o444);
    assert_eq!(
        read(credentials.path(), Some(&credentials)),
        r#"[("cart.key", true)] []"#
    );
}
