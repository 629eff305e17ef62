//! Certificates for both ends of a tunnel: ECDSA P-256, for an hour of benchmarks or so.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// Who dials, by the name in his certificate.
pub(super) const NEAR: &str = "edge-1.mesh.local";
/// Who is dialled.
pub(super) const FAR: &str = "edge-2.mesh.local";

/// Where the PEM files are. Only root can read the keys.
#[derive(Debug)]
pub(super) struct Certificates {
    /// The root that both ends trust.
    pub(super) root: PathBuf,
    pub(super) near: Leaf,
    pub(super) far: Leaf,
}

/// What one end shows.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// Both in one file.
    pub(super) bundle: PathBuf,
}

impl Certificates {
    /// Makes them in `directory`.
    pub(super) fn make(directory: &Path) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "bench root");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let root = directory.join("root.pem");
        fs::write(&root, issuer.pem())?;
        Ok(Self {
            root,
            near: Leaf::make(directory, NEAR, &issuer)?,
            far: Leaf::make(directory, FAR, &issuer)?,
        })
    }
}

impl Leaf {
    fn make(directory: &Path, name: &str, issuer: &CertifiedIssuer<'_, KeyPair>) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let certificate = params.signed_by(&key, issuer)?.pem();
        let write = |suffix: &str, text: &str| -> Result<PathBuf> {
            let path = directory.join(format!("{name}{suffix}.pem"));
            fs::write(&path, "")?;
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            fs::write(&path, text)?;
            Ok(path)
        };
        let key = key.serialize_pem();
        Ok(Self {
            certificate: write("", &certificate)?,
            bundle: write("-bundle", &format!("{certificate}{key}"))?,
            key: write("-key", &key)?,
        })
    }
}
