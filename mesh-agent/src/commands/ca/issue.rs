//! Issues and renews what a node needs.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use time::OffsetDateTime;

use super::authority::{Issued, Signer, seconds};
use super::bundle::{self, Contents, Held};
use super::directory::Directory;
use super::error::CaError;
use super::{IssueArgs, RenewArgs, revoke};
use crate::commands::output::table;
use crate::identity::Identity;
use crate::policy::model::{Location, Policy, Service, ServiceName};
use crate::policy::parse::{self, LocalNode};
use crate::policy::source::Belief;
use crate::telemetry::time::utc;

/// Issues a bundle.
pub(super) fn issue(path: &Path, args: &IssueArgs) -> Result<String, CaError> {
    let mut directory = Directory::open(path)?;
    // It must be known before anything is issued that it can be written.
    bundle::read(&args.out, &directory)?;
    let mut services: BTreeSet<ServiceName> = args.services.iter().cloned().collect();
    if let Some(policy) = &args.config_dir {
        services.extend(placed(policy, &args.node, &directory.index.trust_domain)?);
    }
    let identities = services.into_iter().map(Identity::Service);
    let identities = identities.chain([Identity::Node(Arc::clone(&args.node))]);
    let signer = Signer::new(&directory)?;
    let issued = identities.map(|identity| {
        let issued = signer.issue(&identity, &args.node, args.validity.days)?;
        Ok((identity, issued))
    });
    let issued = issued.collect::<Result<Vec<_>, CaError>>()?;
    let mut contents = Contents::default();
    for (identity, issued) in &issued {
        contents.add(identity, issued);
    }
    record(&mut directory, issued.iter().map(|(_, issued)| issued))?;
    revoke::refresh(&mut directory, args.validity.next)?;
    contents.write(&args.out, &directory)?;
    Ok(report(&issued) + &copy(&args.out, &args.node))
}

/// Renews what is in a bundle.
pub(super) fn renew(path: &Path, args: &RenewArgs) -> Result<String, CaError> {
    let mut directory = Directory::open(path)?;
    let held = bundle::read(&args.out, &directory)?;
    let Some(node) = held.first().map(|held| Arc::clone(&held.entry.node)) else {
        return Err(CaError::NoBundle(args.out.clone()));
    };
    let signer = Signer::new(&directory)?;
    let within = time::Duration::days(i64::from(args.within));
    let due = seconds(OffsetDateTime::now_utc() + within);
    let mut contents = Contents::default();
    let mut renewed = Vec::new();
    for held in &held {
        let identity = identity(held, &directory)?;
        if args.all || held.entry.not_after <= due {
            let issued = signer.issue(&identity, &held.entry.node, args.validity.days)?;
            contents.add(&identity, &issued);
            renewed.push((identity, issued));
        } else {
            contents.keep(&identity, held);
        }
    }
    record(&mut directory, renewed.iter().map(|(_, issued)| issued))?;
    revoke::refresh(&mut directory, args.validity.next)?;
    contents.write(&args.out, &directory)?;
    let done = match renewed.is_empty() {
        true => format!("nothing expires within {} days\n", args.within),
        false => report(&renewed),
    };
    Ok(done + &copy(&args.out, &node))
}

fn identity(held: &Held, directory: &Directory) -> Result<Identity, CaError> {
    let entry = &held.entry;
    if entry.revoked.is_some() {
        return Err(CaError::Revoked {
            identity: entry.identity.clone(),
            serial: entry.serial.clone(),
        });
    }
    let identity = entry.identity(&directory.index.trust_domain);
    identity.ok_or_else(|| {
        CaError::file(
            &directory.path,
            format!("{} is no identity", entry.identity),
        )
    })
}

/// What is issued is remembered before anybody gets it, or it could not be revoked.
fn record<'a>(
    directory: &mut Directory,
    issued: impl Iterator<Item = &'a Issued>,
) -> Result<(), CaError> {
    let entries = issued.map(|issued| issued.entry.clone());
    directory.index.forget();
    directory.index.issued.extend(entries);
    directory.save()
}

/// The services that a node speaks for, by the policy.
fn placed(
    directory: &Path,
    node: &Arc<str>,
    trust_domain: &Arc<str>,
) -> Result<Vec<ServiceName>, CaError> {
    let local = LocalNode {
        name: Arc::clone(node),
        address: None,
        trust_domain: Arc::clone(trust_domain),
    };
    let (_, parsed) = parse::load(directory, Belief::Anybody, &local);
    let policy = parsed.policy.ok_or(CaError::Policy(parsed.diagnostics))?;
    if !policy.nodes.iter().any(|known| known.name == *node) {
        return Err(unknown_node(&policy, node));
    }
    let placed = policy
        .services
        .values()
        .filter(|service| is_placed(service));
    Ok(placed.map(|service| service.name.clone()).collect())
}

/// With an endpoint there, or with none at all: a client can be anywhere.
fn is_placed(service: &Service) -> bool {
    let here = |location: &Location| matches!(location, Location::Local);
    let mut endpoints = service.endpoints.iter();
    let calls = service.endpoints.is_empty() && service.workload.is_some();
    calls || endpoints.any(|endpoint| here(&endpoint.location))
}

fn unknown_node(policy: &Policy, node: &str) -> CaError {
    let names: Vec<&str> = policy.nodes.iter().map(|node| &*node.name).collect();
    let known = match names.is_empty() {
        true => "it names none; add [[node]], or name the services by --service".to_owned(),
        false => format!("it has {}", names.join(", ")),
    };
    CaError::UnknownNode {
        node: node.to_owned(),
        known,
    }
}

fn report(issued: &[(Identity, Issued)]) -> String {
    let row = |(identity, issued): &(Identity, Issued)| {
        let entry = &issued.entry;
        let expires = utc(entry.not_after as f64);
        [identity.to_string(), entry.serial.clone(), expires]
    };
    let head = ["ISSUED", "SERIAL", "EXPIRES"].map(String::from);
    let rows: Vec<[String; 3]> = std::iter::once(head)
        .chain(issued.iter().map(row))
        .collect();
    table(&rows)
}

fn copy(out: &Path, node: &str) -> String {
    let out = out.display();
    format!(
        "next: copy {out} to /etc/mesh/tls of {node}, such as by rsync -r --delete --chmod=F600 {out}/ root@{node}:/etc/mesh/tls/\n"
    )
}
