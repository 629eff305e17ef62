//! Every refusal, for a certificate that deserves it.

use std::sync::Arc;

use rcgen::{
    CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, KeyPair,
    NameConstraints, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::super::testing::{
    Authority, Issued, after, authority_params, dns, domain, key, later, leaf, now, service, uri,
    write,
};
use super::super::{Bundle, Expected, Identity, Refusal, Role, Trust, verify};

fn trust(files: &[(&str, String)]) -> Arc<Trust> {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        write(directory.path(), name, text);
    }
    let loaded = Bundle::load(directory.path(), &domain(), now());
    Arc::clone(loaded.bundle.trust())
}

fn code(issued: &Issued, trust: &Trust) -> &'static str {
    outcome(&issued.chain, trust)
}

fn outcome(chain: &[CertificateDer<'_>], trust: &Trust) -> &'static str {
    let judge = |role| match verify(chain, role, trust, now()) {
        Ok(_) => "ok",
        Err(refusal) => {
            assert!(!refusal.help().is_empty() && !refusal.to_string().is_empty());
            refusal.code()
        }
    };
    let (client, server) = (judge(Role::Client), judge(Role::Server));
    assert_eq!(client, server, "both sides judge alike");
    client
}

/// A change to the certificate of a service, and what comes of it.
type Case = (&'static str, fn(&mut CertificateParams));

#[test]
fn each_for_its_reason() {
    let root = Authority::root("root");
    let trust = trust(&[("ca.crt", root.0.pem())]);
    let cases: [Case; 20] = [
        ("ok", |_| {}),
        ("ok", |params| params.subject_alt_names.truncate(1)),
        ("expired", |params| {
            params.not_after = after(-1) + time::Duration::hours(1)
        }),
        ("not-yet-valid", |params| params.not_before = after(1)),
        ("wrong-trust-domain", |params| {
            params.subject_alt_names = vec![uri("spiffe://mesh.local.evil/ns/shop/sa/cart")];
        }),
        ("wrong-trust-domain", |params| {
            params.subject_alt_names = vec![uri("https://mesh.local/ns/shop/sa/cart")];
        }),
        ("unknown-identity", |params| {
            params.subject_alt_names = vec![uri("spiffe://mesh.local/cart")];
        }),
        ("unknown-identity", |params| {
            params.subject_alt_names = vec![uri("spiffe://mesh.local/ns/shop/sa/cart/..")];
        }),
        ("extra-uri", |params| {
            params
                .subject_alt_names
                .push(uri("spiffe://mesh.local/ns/shop/sa/payments"));
        }),
        ("extra-uri", |params| {
            params
                .subject_alt_names
                .push(uri("spiffe://mesh.local/ns/shop/sa/cart"));
        }),
        ("extra-uri", |params| {
            params.subject_alt_names.push(uri("https://example.org/"));
        }),
        ("no-uri", |params| params.subject_alt_names.clear()),
        ("no-uri", |params| {
            // A CN proves nothing, and neither does a DNS name.
            let name = "spiffe://mesh.local/ns/shop/sa/cart";
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            params.subject_alt_names = vec![dns("cart.shop.svc.mesh")];
        }),
        ("wrong-usage", |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        }),
        ("wrong-usage", |params| params.extended_key_usages.clear()),
        ("extra-node", |params| {
            params.subject_alt_names.push(dns("edge-2.node.mesh"));
        }),
        ("authority", |params| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }),
        ("bad-chain", |params| {
            let mut critical =
                CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99, 1], vec![5, 0]);
            critical.set_criticality(true);
            params.custom_extensions = vec![critical];
        }),
        ("malformed", |params| {
            // A second extension of alternative names, with another URI in it.
            let mut second = vec![0x30, 37, 0x86, 35];
            second.extend(b"spiffe://mesh.local/ns/shop/sa/root");
            params.custom_extensions =
                vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], second)];
        }),
        ("malformed", |params| {
            // A URI that is no text, which others might read.
            params.subject_alt_names.clear();
            let names = vec![0x30, 4, 0x86, 2, 0xff, 0xfe];
            params.custom_extensions =
                vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
        }),
    ];
    for (number, (expected, change)) in cases.into_iter().enumerate() {
        let mut params = leaf(&service("cart"));
        change(&mut params);
        assert_eq!(
            code(&root.issue(&params), &trust),
            expected,
            "case {number}"
        );
    }
    assert_eq!(outcome(&[], &trust), "no-certificate");
    let garbage = CertificateDer::from(vec![0x30, 3, 1, 2, 3]);
    assert_eq!(outcome(&[garbage], &trust), "malformed");
}

#[test]
fn usages_are_those_of_the_side() {
    let root = Authority::root("root");
    let trust = trust(&[("ca.crt", root.0.pem())]);
    let mut params = leaf(&service("cart"));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let chain = root.issue(&params).chain;
    assert!(verify(&chain, Role::Client, &trust, now()).is_ok());
    let refusal = verify(&chain, Role::Server, &trust, now()).expect_err("no server");
    assert_eq!(refusal, Refusal::WrongUsage { role: Role::Server });
}

#[test]
fn who_is_told_from_the_certificate() {
    let root = Authority::root("root");
    let trust = trust(&[("ca.crt", root.0.pem())]);
    let cart = root.issue_to("cart");
    let peer = verify(&cart.chain, Role::Client, &trust, now()).expect("valid");
    assert_eq!(
        (peer.identity, peer.node.as_deref()),
        (service("cart"), Some("edge-1"))
    );
    assert!(peer.not_after > later(29) && peer.not_after < later(31));

    let node = Identity::Node("edge-7".into());
    let mut params = leaf(&node);
    params.subject_alt_names.truncate(1);
    let peer = verify(&root.issue(&params).chain, Role::Client, &trust, now()).expect("valid");
    assert_eq!(
        (peer.identity, peer.node.as_deref()),
        (node, Some("edge-7"))
    );
    // The certificate of edge-7 itself does not say edge-1.
    let refused = verify(
        &root.issue(&leaf(&Identity::Node("edge-7".into()))).chain,
        Role::Client,
        &trust,
        now(),
    );
    assert_eq!(refused, Err(Refusal::ExtraNode));
}

#[test]
fn the_chain_ends_when_its_first_member_does() {
    let mut params = authority_params("root");
    params.not_after = after(10);
    let root = Authority::root_with(params);
    let trust = trust(&[("ca.crt", root.0.pem())]);
    let chain = root.issue_to("cart").chain;
    let peer = verify(&chain, Role::Client, &trust, now()).expect("valid");
    assert!(peer.not_after < later(11));
    let refused = verify(&chain, Role::Client, &trust, later(11)).expect_err("the root is over");
    assert_eq!(refused.code(), "expired");
    let refused =
        verify(&chain, Role::Client, &trust, later(-101)).expect_err("nothing is valid yet");
    assert_eq!(refused.code(), "not-yet-valid");
}

#[test]
fn other_authorities() {
    let root = Authority::root("root");
    let trust = trust(&[("ca.crt", root.0.pem())]);
    let other = Authority::root("other");
    assert_eq!(code(&other.issue_to("cart"), &trust), "unknown-issuer");
    // With its root in the chain it is as unknown.
    assert_eq!(
        code(&other.issue_to("cart").below(&[&other]), &trust),
        "unknown-issuer"
    );
    // The same name is not the same authority.
    let imitation = Authority::root("root");
    assert_eq!(code(&imitation.issue_to("cart"), &trust), "bad-signature");
    // A certificate signs nothing, unless it is an authority's.
    let cart = root.issue_to("cart");
    let key = KeyPair::from_pem(&cart.key).expect("a key");
    let issuer = rcgen::Issuer::new(leaf(&service("cart")), key);
    let payments = leaf(&service("payments"))
        .signed_by(&self::key(), &issuer)
        .expect("issued");
    let chain = [payments.der().clone(), cart.chain[0].clone()];
    assert_eq!(outcome(&chain, &trust), "bad-chain");
    // Self-signed.
    let own = leaf(&service("cart"))
        .self_signed(&self::key())
        .expect("issued");
    assert_eq!(outcome(&[own.der().clone()], &trust), "unknown-issuer");
    // Nobody is trusted before there is a root.
    assert_eq!(code(&cart, &self::trust(&[])), "unknown-issuer");
}

#[test]
fn intermediates() {
    let root = Authority::root("root");
    let middle = root.below(authority_params("middle"));
    let trust = trust(&[("ca.crt", root.0.pem())]);
    assert_eq!(
        code(&middle.issue_to("cart").below(&[&middle]), &trust),
        "ok"
    );
    assert_eq!(
        code(&middle.issue_to("cart").below(&[&middle, &root]), &trust),
        "ok"
    );
    assert_eq!(code(&middle.issue_to("cart"), &trust), "unknown-issuer");
    let many = [&middle; 7];
    assert_eq!(
        code(&middle.issue_to("cart").below(&many), &trust),
        "bad-chain"
    );

    let mut expired = authority_params("expired");
    expired.not_after = after(-1);
    let expired = root.below(expired);
    assert_eq!(
        code(&expired.issue_to("cart").below(&[&expired]), &trust),
        "expired"
    );

    let mut short = authority_params("short");
    short.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let short = root.below(short);
    let too_deep = short.below(authority_params("too deep"));
    let chain = too_deep.issue_to("cart").below(&[&too_deep, &short]);
    assert_eq!(code(&chain, &trust), "bad-chain");
}

#[test]
fn name_constraints() {
    let root = Authority::root("root");
    let trust = trust(&[("ca.crt", root.0.pem())]);
    for (expected, permitted) in [("ok", "node.mesh"), ("name-constraint", "example.org")] {
        let mut params = authority_params("constrained");
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(permitted.into())],
            excluded_subtrees: vec![],
        });
        let constrained = root.below(params);
        let chain = constrained.issue_to("cart").below(&[&constrained]);
        assert_eq!(code(&chain, &trust), expected, "{permitted}");
    }
    // Constraints on URIs are refused, whatever they permit.
    for host in ["other.local", "mesh.local"] {
        let host = host.as_bytes();
        let length = u8::try_from(host.len()).expect("short");
        let mut constraint = vec![
            0x30,
            length + 6,
            0xa0,
            length + 4,
            0x30,
            length + 2,
            0x86,
            length,
        ];
        constraint.extend(host);
        let mut params = authority_params("constrained");
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], constraint);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
        let constrained = root.below(params);
        let chain = constrained.issue_to("cart").below(&[&constrained]);
        assert_eq!(code(&chain, &trust), "name-constraint");
    }
}

#[test]
fn weak_keys_and_signatures() {
    let fixture = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).expect("PEM");
    let root = include_str!("fixtures/root.pem");
    let trust = trust(&[("ca.crt", root.into())]);
    let sha1 = fixture(include_str!("fixtures/sha1.pem"));
    assert_eq!(outcome(&[sha1], &trust), "weak-algorithm");
    let short = fixture(include_str!("fixtures/rsa-1024.pem"));
    let refusal = verify(&[short], Role::Client, &trust, now()).expect_err("weak");
    assert_eq!(refusal, Refusal::WeakKey("an RSA key of 1024 bits".into()));

    let root = Authority::root("root");
    let trust = self::trust(&[("ca.crt", root.0.pem())]);
    for (expected, algorithm) in [
        ("ok", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("ok", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("ok", &rcgen::PKCS_ED25519),
        ("ok", &rcgen::PKCS_RSA_SHA256),
        ("weak-key", &rcgen::PKCS_ECDSA_P521_SHA512),
    ] {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let cart = root.issue_for(&leaf(&service("cart")), &key);
        assert_eq!(code(&cart, &trust), expected, "{algorithm:?}");
    }
}

#[test]
fn revoked() {
    let root = Authority::root("root");
    let middle = root.below(numbered(authority_params("middle"), &[0x42]));
    let direct = root.issue(&numbered(leaf(&service("cart")), &[0xff, 1]));
    let below = middle
        .issue(&numbered(leaf(&service("cart")), &[7]))
        .below(&[&middle]);
    let with = |lists: &[String]| {
        let mut files = vec![("ca.crt", root.0.pem())];
        files.extend(
            lists
                .iter()
                .enumerate()
                .map(|(index, list)| (["a.crl", "b.crl", "c.crl"][index], list.clone())),
        );
        trust(&files)
    };
    let imitation = Authority::root("root");
    for (name, lists, expected) in [
        ("nothing", vec![root.revoke(&[], 30)], ["ok", "ok"]),
        (
            "others",
            vec![root.revoke(&[&[0xff], &[1], &[7]], 30)],
            ["ok", "ok"],
        ),
        (
            "the leaf",
            vec![root.revoke(&[&[0xff, 1]], 30)],
            ["revoked", "ok"],
        ),
        (
            "the intermediate",
            vec![root.revoke(&[&[0x42]], 30)],
            ["ok", "revoked"],
        ),
        (
            "below the intermediate",
            vec![middle.revoke(&[&[7]], 30)],
            ["ok", "revoked"],
        ),
        // Out of date: what it revokes stays revoked, and nothing else is.
        (
            "stale",
            vec![root.revoke(&[&[0xff, 1]], -1)],
            ["revoked", "ok"],
        ),
        // Two editions: an old one that comes back un-revokes nothing.
        (
            "both",
            vec![root.revoke(&[&[0xff, 1]], 30), root.revoke(&[], 60)],
            ["revoked", "ok"],
        ),
        // A list counts for the key that signed it, not for a name.
        (
            "by another",
            vec![imitation.revoke(&[&[0xff, 1]], 30)],
            ["ok", "ok"],
        ),
        (
            "by another too",
            vec![
                imitation.revoke(&[&[1]], 30),
                root.revoke(&[&[0xff, 1]], 30),
            ],
            ["revoked", "ok"],
        ),
    ] {
        let trust = with(&lists);
        let codes = [&direct, &below].map(|issued| code(issued, &trust));
        assert_eq!(codes, expected, "{name}");
    }
    let trust = with(&[root.revoke(&[&[0xff, 1]], 30)]);
    let refusal = verify(&direct.chain, Role::Client, &trust, now()).expect_err("revoked");
    assert_eq!(refusal.to_string(), "it was revoked (serial FF01)");
}

fn numbered(mut params: CertificateParams, serial: &[u8]) -> CertificateParams {
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params
}

#[test]
fn the_server_must_be_the_one_that_is_dialled() {
    let root = Authority::root("root");
    let trust = trust(&[("ca.crt", root.0.pem())]);
    let mut nowhere = leaf(&service("cart"));
    nowhere.subject_alt_names.truncate(1);
    let (here, nowhere) = (root.issue_to("cart"), root.issue(&nowhere));
    for (issued, identity, node, expected) in [
        (&here, service("cart"), "edge-1", None),
        (&nowhere, service("cart"), "edge-1", None),
        (&here, service("payments"), "edge-1", Some("wrong-identity")),
        (
            &here,
            Identity::Node("edge-1".into()),
            "edge-1",
            Some("wrong-identity"),
        ),
        (&here, service("cart"), "edge-2", Some("wrong-node")),
    ] {
        let peer = verify(&issued.chain, Role::Server, &trust, now()).expect("valid");
        let expectation = Expected {
            identity,
            node: node.into(),
        };
        let refused = expectation.admit(peer).err().map(|refusal| refusal.code());
        assert_eq!(refused, expected);
    }
}

#[test]
fn times_are_shown_with_the_clock() {
    let root = Authority::root("root");
    let trust = trust(&[("ca.crt", root.0.pem())]);
    let chain = root.issue_to("cart").chain;
    let early = verify(&chain, Role::Client, &trust, later(-3)).expect_err("early");
    let text = early.to_string();
    assert!(text.starts_with("it becomes valid in 2d, at 20"), "{text}");
    assert!(text.contains("; this host's clock says 20"), "{text}");
    assert!(early.help().contains("clocks"));
    let late = verify(&chain, Role::Client, &trust, later(32)).expect_err("late");
    let text = late.to_string();
    assert!(text.starts_with("it expired 2d ago, at 20"), "{text}");
}

#[test]
fn a_live_connection_is_judged_again() {
    let root = Authority::root("root");
    let cart = root.issue(&numbered(leaf(&service("cart")), &[9]));
    let trust = trust(&[("ca.crt", root.0.pem())]);
    let peer = verify(&cart.chain, Role::Client, &trust, now()).expect("valid");
    let holds = |trust: &Trust, now| {
        let held = peer.still_holds(&cart.chain, Role::Client, trust, now);
        held.err().map_or("ok", |refusal| refusal.code())
    };
    assert_eq!(holds(&trust, now()), "ok");
    assert_eq!(holds(&trust, later(31)), "expired");
    let other = Authority::root("other");
    let both = self::trust(&[("a.crt", root.0.pem()), ("b.crt", other.0.pem())]);
    assert_eq!(holds(&both, now()), "ok");
    assert_eq!(
        holds(&self::trust(&[("b.crt", other.0.pem())]), now()),
        "unknown-issuer"
    );
    let revoked = [("a.crt", root.0.pem()), ("a.crl", root.revoke(&[&[9]], 30))];
    assert_eq!(holds(&self::trust(&revoked), now()), "revoked");
}
