//! What a certificate says, as it is written there and not yet believed.
//!
//! Source: RFC 5280, sections 4.1 and 4.2.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls_pki_types::UnixTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::name::Identity;

/// SHA-256 of a certificate's DER.
pub type Fingerprint = [u8; 32];

/// A serial number, shown in hexadecimal as openssl shows it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(Arc<[u8]>);

impl Serial {
    /// From the bytes of the DER integer; leading zeros do not count.
    pub fn new(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes.get(zeros..).unwrap_or_default().into())
    }

    /// Reads hexadecimal digits of either case, also with colons. `None` if it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let even = format!("{}{digits}", if digits.len() % 2 == 1 { "0" } else { "" });
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let pairs = even.as_bytes().chunks(2);
        let bytes = pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
        Some(Self::new(&bytes.collect::<Option<Vec<u8>>>()?))
    }

    /// The bytes, without leading zeros.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("00");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

/// The bytes are no certificate, or one with contradictory extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be read as an X.509 certificate")]
pub struct Unreadable;

/// What a certificate says.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Every URI among the subject's alternative names.
    pub uris: Vec<String>,
    /// Every DNS name among them.
    pub dns_names: Vec<String>,
    /// The serial number.
    pub serial: Serial,
    /// SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// When it begins to be valid.
    pub not_before: UnixTime,
    /// The last moment at which it is valid.
    pub not_after: UnixTime,
    /// Whether it says that its key may be used by clients and by servers.
    pub usages: [bool; 2],
    /// Whether it may issue others.
    pub is_ca: bool,
    /// The subject, for people.
    pub subject: String,
    /// The issuer, for people.
    pub issuer: String,
    /// Whether subject and issuer are the same.
    pub self_issued: bool,
    /// What is wrong with its key, such as `an RSA key of 1024 bits`.
    pub weak_key: Option<String>,
}

impl Facts {
    /// Reads a certificate.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let (rest, certificate) = x509_parser::parse_x509_certificate(der).or(Err(Unreadable))?;
        if !rest.is_empty() {
            return Err(Unreadable);
        }
        let (uris, dns_names) = names(&certificate)?;
        let validity = certificate.validity();
        Ok(Self {
            uris,
            dns_names,
            serial: Serial::new(certificate.raw_serial()),
            fingerprint: sha256(der),
            not_before: unix(validity.not_before),
            not_after: unix(validity.not_after),
            usages: usages(&certificate)?,
            is_ca: is_ca(&certificate)?,
            subject: shown(&certificate.subject().to_string()),
            issuer: shown(&certificate.issuer().to_string()),
            self_issued: certificate.subject().as_raw() == certificate.issuer().as_raw(),
            weak_key: weakness(certificate.public_key()),
        })
    }

    /// The nodes it was issued for: our own authority names them as `<node>.node.mesh`.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        let names = self.dns_names.iter();
        names.filter_map(|name| name.strip_suffix(Identity::NODE_SUFFIX))
    }
}

fn names(certificate: &X509Certificate<'_>) -> Result<(Vec<String>, Vec<String>), Unreadable> {
    let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
    let extension = certificate.subject_alternative_name().or(Err(Unreadable))?;
    for name in extension.iter().flat_map(|e| &e.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
            // It may be a second URI that somebody else reads.
            GeneralName::Invalid(..) => return Err(Unreadable),
            _ => {}
        }
    }
    Ok((uris, dns_names))
}

fn is_ca(certificate: &X509Certificate<'_>) -> Result<bool, Unreadable> {
    let constraints = certificate.basic_constraints().or(Err(Unreadable))?;
    Ok(constraints.is_some_and(|constraints| constraints.value.ca))
}

fn usages(certificate: &X509Certificate<'_>) -> Result<[bool; 2], Unreadable> {
    let extension = certificate.extended_key_usage().or(Err(Unreadable))?;
    let usages = extension.map(|extension| extension.value);
    Ok(usages.map_or([false; 2], |usages| {
        [usages.client_auth, usages.server_auth]
    }))
}

/// What is accepted: ECDSA on P-256 and P-384, Ed25519, RSA of 2048 bits and more.
fn weakness(key: &SubjectPublicKeyInfo<'_>) -> Option<String> {
    let algorithm = key.algorithm.algorithm.to_id_string();
    if algorithm == ED25519 {
        return None;
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= SMALLEST_RSA => None,
        Ok(PublicKey::RSA(rsa)) => Some(format!("an RSA key of {} bits", rsa.key_size())),
        Ok(PublicKey::EC(_)) => {
            let parameters = key.algorithm.parameters.as_ref();
            let curve = parameters.and_then(|any| any.as_oid().ok());
            let curve = curve.map_or_else(|| "no name".into(), |oid| oid.to_id_string());
            (!CURVES.contains(&&*curve)).then(|| format!("a key on the curve {curve}"))
        }
        _ => Some(format!("a key of the kind {algorithm}")),
    }
}

/// SHA-256, as the TLS library computes it.
pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    if let Some(suite) = TLS13_AES_128_GCM_SHA256.tls13() {
        digest.copy_from_slice(suite.common.hash_provider.hash(data).as_ref());
    }
    digest
}

pub(super) fn unix(time: ASN1Time) -> UnixTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// Text that others chose, short and on one line.
pub(super) fn shown(text: &str) -> String {
    let visible = |c: char| {
        if c.is_ascii_graphic() || c == ' ' {
            c
        } else {
            '?'
        }
    };
    text.chars().take(LONGEST_SHOWN).map(visible).collect()
}

const SMALLEST_RSA: usize = 2048;
const ED25519: &str = "1.3.101.112";
/// P-256 and P-384.
const CURVES: [&str; 2] = ["1.2.840.10045.3.1.7", "1.3.132.0.34"];
const LONGEST_SHOWN: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_numbers() {
        for (text, expected) in [
            ("0a1B", Some("0A1B")),
            ("0a:1b", Some("0A1B")),
            ("a1b", Some("0A1B")),
            ("000a1b", Some("0A1B")),
            ("0", Some("00")),
            ("", None),
            ("0x1b", None),
            ("1g", None),
            ("é", None),
        ] {
            let serial = Serial::parse(text).map(|serial| serial.to_string());
            assert_eq!(serial.as_deref(), expected, "{text}");
        }
        assert_eq!(Serial::parse("00ff"), Some(Serial::new(&[0, 255])));
    }

    #[test]
    fn what_others_chose_is_short_and_plain() {
        assert_eq!(shown("CN=a\n\x1b[2J\u{202e}é"), "CN=a??[2J??");
        assert_eq!(shown(&"x".repeat(1000)).len(), LONGEST_SHOWN);
    }
}
