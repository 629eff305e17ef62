//! Makes roots, and signs with them.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::crypto::aws_lc_rs::default_provider;
use time::{Duration, OffsetDateTime};

use super::InitArgs;
use super::directory::{Directory, Root, cross_file, key_file, root_file};
use super::error::CaError;
use super::files;
use super::index::{Entry, Index};
use crate::identity::{Identity, Serial};
use crate::telemetry::time::utc;

/// Makes an authority, or its next root.
pub(super) fn init(path: &Path, args: &InitArgs) -> Result<String, CaError> {
    let mut directory = match &args.trust_domain {
        Some(domain) => Directory::create(path, Index::new(Arc::clone(domain)))?,
        None => Directory::open(path)?,
    };
    let number = directory.next_number()?;
    let key = KeyPair::generate()?;
    let mut params = root_params(&directory.index.trust_domain, number, args.years)?;
    let root = params.self_signed(&key)?.pem();
    let cross = match directory.roots.last() {
        Some(old) => Some(vouch(old, &mut params, &key)?),
        None => None,
    };
    // The certificate comes last: a root without it does not exist.
    files::write_new(&path.join(key_file(number)), &key.serialize_pem())?;
    if let Some(cross) = cross {
        files::write_new(&path.join(cross_file(number)), &cross)?;
    }
    directory.save()?;
    files::write_new(&path.join(root_file(number)), &root)?;
    directory.read_roots()?;
    Ok(made(&directory, path, number))
}

fn made(directory: &Directory, path: &Path, number: u32) -> String {
    let expires = directory
        .roots
        .last()
        .map(|root| root.facts.not_after.as_secs());
    let expires = utc(expires.unwrap_or_default() as f64);
    let place = path.display();
    let next = match directory.roots.iter().rev().nth(1) {
        None => format!(
            "next: mesh-agent ca issue --dir {place} --node NAME --config-dir DIR --out BUNDLE"
        ),
        Some(old) => format!(
            "next: mesh-agent ca renew --dir {place} --all --out BUNDLE for each node; when all have it, remove \
             root-{old}.* and renew once more",
            old = old.number
        ),
    };
    let domain = &directory.index.trust_domain;
    format!(
        "root {number} of {domain} is in {place}, valid until {expires}; keep root-{number}.key off the nodes\n{next}\n"
    )
}

/// The name has the number in it, so that no two roots are mistaken for each other.
fn root_params(domain: &str, number: u32, years: u32) -> Result<CertificateParams, CaError> {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.serial_number = Some(random_serial()?);
    params.not_before = now - SKEW;
    params.not_after = now + Duration::days(i64::from(years) * 365);
    params.distinguished_name = DistinguishedName::new();
    let name = format!("mesh root {number} {}", short(domain));
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// The new root as issued by the old one, for who trusts only that.
fn vouch(old: &Root, params: &mut CertificateParams, key: &KeyPair) -> Result<String, CaError> {
    let end = time_of(old.facts.not_after.as_secs());
    params.serial_number = Some(random_serial()?);
    params.not_after = params.not_after.min(end);
    params.use_authority_key_identifier_extension = true;
    Ok(params.signed_by(key, &old.issuer()?)?.pem())
}

/// A certificate and its key, in PEM.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) entry: Entry,
}

/// What issues: the newest root.
pub(super) struct Signer<'a> {
    issuer: Issuer<'static, KeyPair>,
    root: &'a Root,
    domain: &'a str,
    chain: String,
    now: OffsetDateTime,
}

impl<'a> Signer<'a> {
    pub(super) fn new(directory: &'a Directory) -> Result<Self, CaError> {
        let root = directory.newest()?;
        let now = OffsetDateTime::now_utc();
        if time_of(root.facts.not_after.as_secs()) <= now {
            return Err(CaError::Expired);
        }
        Ok(Self {
            issuer: root.issuer()?,
            root,
            domain: &directory.index.trust_domain,
            chain: directory.cross_certificates(),
            now,
        })
    }

    /// Issues a certificate with a new key. It does not outlive the root.
    pub(super) fn issue(
        &self,
        identity: &Identity,
        node: &Arc<str>,
        days: u32,
    ) -> Result<Issued, CaError> {
        let serial = random_serial()?;
        let mut params = leaf_params(identity, node, self.domain)?;
        let end = time_of(self.root.facts.not_after.as_secs());
        params.not_before = self.now - SKEW;
        params.not_after = (self.now + Duration::days(i64::from(days))).min(end);
        params.serial_number = Some(serial.clone());
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued {
            certificate: certificate + &self.chain,
            key: key.serialize_pem(),
            entry: Entry {
                serial: Serial::new(serial.as_ref()).to_string(),
                identity: identity.uri(self.domain),
                node: Arc::clone(node),
                not_before: seconds(params.not_before),
                not_after: seconds(params.not_after),
                root: self.root.number,
                revoked: None,
            },
        })
    }
}

fn leaf_params(
    identity: &Identity,
    node: &Arc<str>,
    domain: &str,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // For people who look at it; nothing reads it.
    let name = short(&identity.to_string());
    params.distinguished_name.push(DnType::CommonName, name);
    let on = Identity::Node(Arc::clone(node)).readable_name();
    params.subject_alt_names = vec![
        SanType::URI(identity.uri(domain).try_into()?),
        SanType::DnsName(on.try_into()?),
    ];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 127 bits, and never a leading zero. RFC 5280, section 4.1.2.2.
fn random_serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    let random = default_provider().secure_random;
    random.fill(&mut bytes).or(Err(CaError::NoRandom))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// A CN has 64 characters at most. RFC 5280, appendix A.1.
fn short(text: &str) -> String {
    text.chars().take(LONGEST_NAME).collect()
}

pub(super) fn time_of(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
}

pub(super) fn seconds(time: OffsetDateTime) -> u64 {
    u64::try_from(time.unix_timestamp()).unwrap_or_default()
}

/// What a clock may be behind without taking a new certificate for one of the future.
const SKEW: Duration = Duration::HOUR;
const LONGEST_NAME: usize = 48;
