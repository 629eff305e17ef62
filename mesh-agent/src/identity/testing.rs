//! Authorities and certificates that are really made, for tests.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;

use super::bundle::Bundle;
use super::name::Identity;
use crate::policy::model::ServiceName;

/// An authority.
pub(crate) struct Authority(pub(crate) CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key and what is above it.
pub(crate) struct Issued {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) pem: String,
    pub(crate) key: String,
}

pub(crate) const DOMAIN: &str = "mesh.local";

pub(crate) fn domain() -> Arc<str> {
    DOMAIN.into()
}

pub(crate) fn now() -> UnixTime {
    UnixTime::now()
}

/// A time relative to now.
pub(crate) fn after(days: i64) -> OffsetDateTime {
    OffsetDateTime::from(SystemTime::now()) + time::Duration::days(days)
}

pub(crate) fn later(days: i64) -> UnixTime {
    let seconds = u64::try_from(after(days).unix_timestamp()).expect("after 1970");
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

pub(crate) fn service(name: &str) -> Identity {
    Identity::Service(ServiceName {
        namespace: "shop".into(),
        name: name.into(),
    })
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

/// A certificate as one of ours is: for `identity` on the node `edge-1`, valid for a month.
pub(crate) fn leaf(identity: &Identity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = after(-1);
    params.not_after = after(30);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.subject_alt_names = vec![uri(&identity.uri(DOMAIN)), dns("edge-1.node.mesh")];
    params
}

pub(crate) fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = after(-100);
    params.not_after = after(3650);
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        Self::root_with(authority_params(name))
    }

    pub(crate) fn root_with(params: CertificateParams) -> Self {
        Self(CertifiedIssuer::self_signed(params, key()).expect("a root"))
    }

    pub(crate) fn below(&self, params: CertificateParams) -> Self {
        Self(CertifiedIssuer::signed_by(params, key(), &self.0).expect("an intermediate"))
    }

    pub(crate) fn issue(&self, params: &CertificateParams) -> Issued {
        self.issue_for(params, &key())
    }

    pub(crate) fn issue_for(&self, params: &CertificateParams, key: &KeyPair) -> Issued {
        let certificate = params.signed_by(key, &self.0).expect("a certificate");
        Issued {
            chain: vec![certificate.der().clone()],
            pem: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    pub(crate) fn issue_to(&self, name: &str) -> Issued {
        self.issue(&leaf(&service(name)))
    }

    /// A revocation list, due again in so many days.
    pub(crate) fn revoke(&self, serials: &[&[u8]], due: i64) -> String {
        let revoked = |serial: &&[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: after(-1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: after(-2),
            next_update: after(due),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.0).expect("a revocation list");
        list.pem().expect("PEM")
    }
}

impl Issued {
    pub(crate) fn below(mut self, authorities: &[&Authority]) -> Self {
        for authority in authorities {
            self.chain.push(authority.0.der().clone());
            self.pem += &authority.0.pem();
        }
        self
    }

    pub(crate) fn write(&self, directory: &Path, name: &str) {
        write(directory, &format!("{name}.crt"), &self.pem);
        write_private(directory, &format!("{name}.key"), &self.key);
    }
}

pub(crate) fn write(directory: &Path, name: &str, text: impl AsRef<[u8]>) {
    let path = directory.join(name);
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    std::fs::write(path, text).expect("a file");
}

pub(crate) fn write_private(directory: &Path, name: &str, text: impl AsRef<[u8]>) {
    write(directory, name, text);
    chmod(&directory.join(name), 0o600);
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, mode).expect("a mode");
}

/// A bundle without problems: a root, and certificates of these services.
pub(crate) fn bundle(root: &Authority, names: &[&str]) -> Bundle {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), "ca.crt", root.0.pem());
    for name in names {
        root.issue_to(name).write(directory.path(), name);
    }
    let loaded = Bundle::load(directory.path(), &domain(), now());
    assert_eq!(loaded.problems, []);
    loaded.bundle
}
