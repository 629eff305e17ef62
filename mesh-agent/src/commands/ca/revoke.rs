//! Revokes, and signs revocation lists: one for each root, all in one file.

use std::path::Path;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use time::{Duration, OffsetDateTime};

use super::authority::{seconds, time_of};
use super::directory::{Directory, LISTS, Root};
use super::error::CaError;
use super::index::{Entry, Index};
use super::{CrlArg, RevokeArgs, files};
use crate::commands::output::table;
use crate::identity::{Identity, Serial};
use crate::telemetry::time::utc;

/// Revokes what the arguments name.
pub(super) fn revoke(path: &Path, args: &RevokeArgs) -> Result<String, CaError> {
    let mut directory = Directory::open(path)?;
    let now = OffsetDateTime::now_utc();
    let domain = directory.index.trust_domain.clone();
    let mut rows = vec![["REVOKED", "SERIAL", "NODE"].map(String::from)];
    for entry in &mut directory.index.issued {
        if entry.state(seconds(now)) == "valid" && is_meant(entry, args, &domain) {
            entry.revoked = Some(seconds(now));
            rows.push([&*entry.identity, &*entry.serial, &*entry.node].map(String::from));
        }
    }
    if rows.len() == 1 {
        return Err(CaError::NothingToRevoke);
    }
    // What is revoked is remembered even if a list cannot be signed.
    directory.save()?;
    sign(&mut directory, args.next)?;
    Ok(table(&rows) + &copy(path, args.next))
}

/// Signs the lists anew.
pub(super) fn sign_again(path: &Path, next: CrlArg) -> Result<String, CaError> {
    let mut directory = Directory::open(path)?;
    sign(&mut directory, next)?;
    Ok(copy(path, next))
}

/// Signs the lists anew if there are any.
pub(super) fn refresh(directory: &mut Directory, next: CrlArg) -> Result<(), CaError> {
    match directory.revocation_lists()? {
        Some(_) => sign(directory, next),
        None => Ok(()),
    }
}

fn sign(directory: &mut Directory, next: CrlArg) -> Result<(), CaError> {
    directory.index.crl_number += 1;
    directory.save()?;
    let lists = directory
        .roots
        .iter()
        .map(|root| list(root, &directory.index, next));
    let lists = lists.collect::<Result<String, CaError>>()?;
    files::write(&directory.path.join(LISTS), &lists)
}

fn list(root: &Root, index: &Index, next: CrlArg) -> Result<String, CaError> {
    let now = OffsetDateTime::now_utc();
    // An expired certificate is refused for that.
    let listed = |entry: &&Entry| entry.root == root.number && entry.not_after >= seconds(now);
    let params = CertificateRevocationListParams {
        this_update: now - Duration::HOUR,
        next_update: now + Duration::days(i64::from(next.crl_days)),
        crl_number: SerialNumber::from(index.crl_number),
        issuing_distribution_point: None,
        revoked_certs: index
            .issued
            .iter()
            .filter(listed)
            .filter_map(revoked)
            .collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(&root.issuer()?)?.pem()?)
}

fn revoked(entry: &Entry) -> Option<RevokedCertParams> {
    let serial = Serial::parse(&entry.serial)?;
    Some(RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial.as_bytes()),
        revocation_time: time_of(entry.revoked?),
        reason_code: None,
        invalidity_date: None,
    })
}

fn is_meant(entry: &Entry, args: &RevokeArgs, domain: &str) -> bool {
    let serial = args.serial.as_ref().map(ToString::to_string);
    let service = args.service.clone().map(Identity::Service);
    serial.is_none_or(|serial| serial == entry.serial)
        && args.node.as_ref().is_none_or(|node| *node == entry.node)
        && service.is_none_or(|service| service.uri(domain) == entry.identity)
}

fn copy(path: &Path, next: CrlArg) -> String {
    let due = OffsetDateTime::now_utc() + Duration::days(i64::from(next.crl_days));
    let list = path.join(LISTS);
    format!(
        "next: copy {} to /etc/mesh/tls of every node; sign it anew before {}\n",
        list.display(),
        utc(seconds(due) as f64)
    )
}
