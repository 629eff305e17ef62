//! Bundles as other tools make them: by the openssl command, which is what step-ca, Vault and
//! people's scripts come down to.

use std::path::Path;
use std::process::Command;

use super::super::testing::{chmod, domain, now, service, write};
use super::super::{Bundle, Role, verify};

/// Runs a line of openssl in a directory. `None`, with the reason, where there is no openssl.
fn openssl(directory: &Path, line: &str) -> Option<String> {
    let arguments = line.split_whitespace();
    let output = match Command::new("openssl")
        .args(arguments)
        .current_dir(directory)
        .output()
    {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped, there is no openssl (apt-get install openssl): {error}");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {line}: {text}{error}");
    Some(text)
}

const ROOT: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
                    subjectKeyIdentifier=hash\n";
const LEAF: &str = "subjectAltName=URI:spiffe://mesh.local/ns/shop/sa/cart,DNS:cart.example.org\n\
                    extendedKeyUsage=clientAuth,serverAuth\nkeyUsage=critical,digitalSignature\n";

fn sign(directory: &Path, name: &str, issuer: &str, extensions: &str) -> Option<()> {
    openssl(
        directory,
        &format!("req -new -key {name}.key -subj /CN={name} -out {name}.csr"),
    )?;
    let options = format!("-CA {issuer}.crt -CAkey {issuer}.key -CAcreateserial -days 90 -sha256");
    let files = format!("-in {name}.csr -extfile {extensions} -out {name}.crt");
    openssl(directory, &format!("x509 -req {files} {options}"))?;
    Some(())
}

#[test]
fn keys_and_chains_of_every_kind() {
    for (kind, generate) in [
        ("SEC1", "ecparam -name prime256v1 -genkey -noout -out"),
        (
            "SEC1 with its parameters",
            "ecparam -name secp384r1 -genkey -out",
        ),
        (
            "PKCS#8",
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out",
        ),
        ("Ed25519", "genpkey -algorithm ed25519 -out"),
        ("RSA", "genrsa -out"),
        ("RSA in PKCS#1", "genrsa -traditional -out"),
    ] {
        let made = tempfile::tempdir().expect("a directory");
        let path = made.path();
        write(path, "root.ext", ROOT);
        write(path, "leaf.ext", LEAF);
        for name in ["root", "middle", "cart"] {
            if openssl(path, &format!("{generate} {name}.key")).is_none() {
                return;
            }
        }
        let root = "req -x509 -new -key root.key -subj /CN=root -days 3650 -out root.crt";
        openssl(path, &format!("{root} -extensions v3_ca")).expect("openssl");
        sign(path, "middle", "root", "root.ext").expect("openssl");
        sign(path, "cart", "middle", "leaf.ext").expect("openssl");

        let read = |name: &str| std::fs::read_to_string(path.join(name)).expect(name);
        let bundle = tempfile::tempdir().expect("a directory");
        write(
            bundle.path(),
            "tls.crt",
            read("cart.crt") + &read("middle.crt"),
        );
        write(bundle.path(), "tls.key", read("cart.key"));
        chmod(&bundle.path().join("tls.key"), 0o600);
        write(bundle.path(), "ca.crt", read("root.crt"));
        let loaded = Bundle::load(bundle.path(), &domain(), now());
        assert_eq!(loaded.problems, [], "{kind}");
        let own = loaded.bundle.own(&service("cart")).expect(kind);
        let peer = verify(&own.key.cert, Role::Server, loaded.bundle.trust(), now()).expect(kind);
        assert_eq!(peer.node, None);
        let said = openssl(path, "x509 -in cart.crt -noout -serial").expect("openssl");
        assert_eq!(said.trim(), format!("serial={}", peer.serial));
    }
}

#[test]
fn lists_of_revoked_certificates() {
    let made = tempfile::tempdir().expect("a directory");
    let path = made.path();
    write(path, "root.ext", ROOT);
    write(path, "leaf.ext", LEAF);
    write(path, "index.txt", "");
    write(path, "crlnumber", "01\n");
    let config = "[ca]\ndefault_ca=here\n[here]\ndatabase=index.txt\ncrlnumber=crlnumber\n\
                  default_md=sha256\ndefault_crl_days=30\n";
    write(path, "ca.conf", config);
    for name in ["root", "cart", "stock"] {
        let key = format!("ecparam -name prime256v1 -genkey -noout -out {name}.key");
        if openssl(path, &key).is_none() {
            return;
        }
    }
    let root = "req -x509 -new -key root.key -subj /CN=root -days 3650 -out root.crt";
    openssl(path, root).expect("openssl");
    sign(path, "cart", "root", "leaf.ext").expect("openssl");
    sign(path, "stock", "root", "leaf.ext").expect("openssl");
    let authority = "ca -config ca.conf -cert root.crt -keyfile root.key";
    openssl(path, &format!("{authority} -revoke cart.crt")).expect("openssl");
    openssl(path, &format!("{authority} -gencrl -out root.crl")).expect("openssl");
    openssl(path, "crl -in root.crl -outform DER -out der.crl").expect("openssl");
    for list in ["root.crl", "der.crl"] {
        let bundle = tempfile::tempdir().expect("a directory");
        for (from, to) in [("root.crt", "ca.crt"), (list, "a.crl")] {
            std::fs::copy(path.join(from), bundle.path().join(to)).expect("copied");
        }
        let loaded = Bundle::load(bundle.path(), &domain(), now());
        assert_eq!(loaded.problems, []);
        let judge = |name: &str| {
            use rustls_pki_types::pem::PemObject as _;
            let der = rustls_pki_types::CertificateDer::from_pem_file(path.join(name));
            let judged = verify(
                &[der.expect("PEM")],
                Role::Client,
                loaded.bundle.trust(),
                now(),
            );
            judged.map_or_else(|refusal| refusal.code(), |_| "ok")
        };
        assert_eq!((judge("cart.crt"), judge("stock.crt")), ("revoked", "ok"));
    }
}
