//! An authority of a test's own, and the certificates it makes: sound ones and others.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber, date_time_ymd,
};

/// A root that certificates are signed with.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a certificate says.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Its URI names.
    pub uris: Vec<String>,
    /// Its DNS name, which tells the node.
    pub node: Option<&'a str>,
    /// Serial number.
    pub serial: u64,
    /// Whether it has expired long ago.
    pub expired: bool,
}

impl<'a> Wanted<'a> {
    /// The certificate of a service (`namespace/name`), or of a node's host (`node name`).
    ///
    /// # Panics
    ///
    /// It is neither.
    pub fn of(name: &str, node: &'a str, serial: u64) -> Self {
        let path = match name.split_once('/') {
            Some((namespace, name)) => format!("ns/{namespace}/sa/{name}"),
            None => name.replace(' ', "/"),
        };
        Self {
            uris: vec![format!("spiffe://mesh.local/{path}")],
            node: Some(node),
            serial,
            expired: false,
        }
    }
}

fn failed(error: rcgen::Error) -> io::Error {
    io::Error::other(error)
}

impl Authority {
    /// A new root.
    ///
    /// # Errors
    ///
    /// rcgen's.
    pub fn new(name: &str) -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().map_err(failed)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(failed)?;
        Ok(Self { issuer })
    }

    /// Writes the root as `ca.pem`.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn write_root(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("ca.pem"), self.issuer.pem())
    }

    /// Writes a certificate and its key as `stem.crt` and `stem.key`.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn write(&self, directory: &Path, stem: &str, wanted: &Wanted<'_>) -> io::Result<()> {
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params(wanted)?
            .signed_by(&key, &self.issuer)
            .map_err(failed)?;
        fs::create_dir_all(directory)?;
        let private = directory.join(format!("{stem}.key"));
        fs::write(&private, key.serialize_pem())?;
        fs::set_permissions(&private, Permissions::from_mode(0o600))?;
        fs::write(directory.join(format!("{stem}.crt")), certificate.pem())
    }

    /// Writes what a node needs to speak for these (see [`Wanted::of`]), with serial numbers from
    /// `serial` on.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn write_bundle(
        &self,
        directory: &Path,
        node: &str,
        names: &[&str],
        serial: u64,
    ) -> io::Result<()> {
        self.write_root(directory)?;
        for (number, name) in names.iter().enumerate() {
            let wanted = Wanted::of(name, node, serial + number as u64);
            self.write(directory, &name.replace(['/', ' '], "."), &wanted)?;
        }
        Ok(())
    }

    /// Writes a list of revoked serial numbers as `revoked.crl`, the way editors do.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn revoke(&self, directory: &Path, serials: &[u64]) -> io::Result<()> {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2096, 1, 1),
            crl_number: SerialNumber::from(serials.len() as u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).map_err(failed)?;
        let next = directory.join("revoked.next");
        fs::write(&next, list.pem().map_err(failed)?)?;
        fs::rename(next, directory.join("revoked.crl"))
    }
}

fn params(wanted: &Wanted<'_>) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    for uri in &wanted.uris {
        let uri = uri.as_str().try_into().map_err(failed)?;
        params.subject_alt_names.push(SanType::URI(uri));
    }
    if let Some(node) = wanted.node {
        let name = format!("{node}.node.mesh");
        let name = name.as_str().try_into().map_err(failed)?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.serial_number = Some(SerialNumber::from(wanted.serial));
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if wanted.expired {
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(2024, 2, 1);
    }
    Ok(params)
}
