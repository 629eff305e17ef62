//! What a new connection costs.

use anyhow::Result;

use super::lab::{Meshed, Plain, Worker};
use super::report::{Report, micros};
use super::rounds::{Variant, compare};
use super::{Effort, nat, policy};

/// The bar for a connection through the mesh.
const TARGET: f64 = 1.05;

/// An order as a variant.
fn variant<'a>(
    name: &'a str,
    client: &'a mut Worker,
    verb: &'a str,
    to: &'a [std::net::SocketAddr],
    amount: u32,
) -> Variant<'a> {
    Variant {
        name,
        run: Box::new(move || Ok(client.order(verb, to, amount.into())?.each())),
    }
}

fn compare_and_report(
    effort: &Effort<'_>,
    report: &mut Report,
    own: &[u32],
    mut variants: Vec<Variant<'_>>,
    target: Option<f64>,
) -> Result<()> {
    let results = compare(effort, own, &mut variants)?;
    let names: Vec<&str> = variants.iter().map(|variant| variant.name).collect();
    report.compared(&names, &results, micros, target);
    Ok(())
}

/// Through a VIP, without any programs, and through DNAT.
pub(super) fn with_and_without(effort: &Effort<'_>, report: &mut Report) -> Result<()> {
    let mut plain = Plain::new()?;
    let mut meshed = Meshed::new(8001, &[policy::base(8001)])?;
    let mut nat = match nat::pair()? {
        Ok(pair) => Some(pair),
        Err(why) => {
            report.note(&format!("skipped: {why}"));
            None
        }
    };
    let mut own = [plain.pids(), meshed.pids()].concat();
    own.extend(nat.iter().flat_map(Plain::pids));
    for (verb, title) in [
        (
            "connect",
            "connect: socket(), connect(), close() as the client sees them",
        ),
        ("cycle", "connect: connect, accept, close from both ends"),
    ] {
        report.section(title);
        let (direct, vip) = (
            plain.addresses.close.clone(),
            meshed.addresses.close.clone(),
        );
        let mut variants = vec![
            variant(
                "direct, no programs",
                &mut plain.client,
                verb,
                &direct,
                effort.batch,
            ),
            variant(
                "mesh, allowed, by the VIP",
                &mut meshed.client,
                verb,
                &vip,
                effort.batch,
            ),
        ];
        if let Some(nat) = &mut nat {
            variants.push(variant(
                "nft DNAT to two servers",
                &mut nat.client,
                verb,
                &vip,
                effort.batch,
            ));
        }
        compare_and_report(effort, report, &own, variants, Some(TARGET))?;
    }
    Ok(())
}

/// With policies of very different sizes in force at the same time.
pub(super) fn at_scale(effort: &Effort<'_>, report: &mut Report) -> Result<()> {
    report.section("scale: the same through a VIP, by size of the policy");
    let sizes = if effort.quick {
        [(10, 10), (100, 1000), (1000, 10_000)]
    } else {
        [(10, 10), (1000, 10_000), (10_000, 100_000)]
    };
    let mut sites = Vec::new();
    for (number, (services, rules)) in sizes.into_iter().enumerate() {
        let port = 8001 + 10 * number as u16;
        sites.push(Meshed::new(port, &policy::of_size(port, services, rules))?);
    }
    let own: Vec<u32> = sites.iter().flat_map(Meshed::pids).collect();
    let vip = sites[0].addresses.close.clone();
    let names = sizes.map(|(services, rules)| format!("{services} services, {rules} rules"));
    let variants = sites
        .iter_mut()
        .zip(&names)
        .map(|(site, name)| variant(name, &mut site.client, "connect", &vip, effort.batch))
        .collect::<Vec<_>>();
    let mut variants = variants;
    let results = compare(effort, &own, &mut variants)?;
    drop(variants);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    report.compared(&names, &results, micros, None);
    let largest = results.ratio(2, 0).median;
    let flat = (largest - 1.0).abs() <= 0.05;
    report.value(
        "largest to smallest",
        &format!("x {largest:.3}"),
        Some(("within 5 %", flat)),
    );
    Ok(())
}

/// To a destination that no policy names, from inside and outside of a mesh.
pub(super) fn outside(effort: &Effort<'_>, report: &mut Report) -> Result<()> {
    report.section("outside: connect() and close() to what is not in the mesh");
    let mut plain = Plain::new()?;
    let mut meshed = Meshed::new(8001, &[policy::base(8001)])?;
    let mut host = meshed.client_in("other")?;
    let to = plain.addresses.close.clone();
    let own = [plain.pids(), meshed.pids(), vec![host.pid()]].concat();
    let variants = vec![
        variant(
            "no programs",
            &mut plain.client,
            "connect",
            &to,
            effort.batch,
        ),
        variant(
            "mesh, caller of no service",
            &mut host,
            "connect",
            &to,
            effort.batch,
        ),
        variant(
            "mesh, caller is a service",
            &mut meshed.client,
            "connect",
            &to,
            effort.batch,
        ),
    ];
    compare_and_report(effort, report, &own, variants, Some(TARGET))
}
