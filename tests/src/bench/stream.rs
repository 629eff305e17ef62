//! What a connection costs once it is there: nothing should be left to measure.

use anyhow::Result;

use super::lab::{Meshed, Plain, Worker};
use super::report::{Report, Show, micros, rate};
use super::rounds::{Variant, compare};
use super::{Effort, policy};

/// The bar: the same, within noise.
const TARGET: f64 = 1.02;

/// Throughput and round trips, with and without the mesh.
pub(super) fn measure(effort: &Effort<'_>, report: &mut Report) -> Result<()> {
    let mut plain = Plain::new()?;
    let mut meshed = Meshed::new(8001, &[policy::base(8001)])?;
    let own = [plain.pids(), meshed.pids()].concat();
    let (bytes, trips) = if effort.quick {
        (64 << 20, 2000)
    } else {
        (1 << 30, 10_000)
    };
    let orders: [(&str, u64, &str, Show); 2] = [
        ("bulk", bytes, "stream: one bulk transfer", rate),
        ("rtt", trips, "stream: one byte there and back", micros),
    ];
    for (verb, amount, title, show) in orders {
        report.section(title);
        let to = |addresses: &super::lab::Addresses| match verb {
            "bulk" => addresses.swallow,
            _ => addresses.echo,
        };
        let (direct, vip) = (to(&plain.addresses), to(&meshed.addresses));
        let order = |client: &mut Worker, to| Ok(client.order(verb, &[to], amount)?.each());
        let mut variants = [
            Variant {
                name: "direct, no programs",
                run: Box::new(|| order(&mut plain.client, direct)),
            },
            Variant {
                name: "mesh, by the VIP",
                run: Box::new(|| order(&mut meshed.client, vip)),
            },
        ];
        let results = compare(effort, &own, &mut variants)?;
        let names: Vec<&str> = variants.iter().map(|variant| variant.name).collect();
        report.compared(&names, &results, show, Some(TARGET));
    }
    Ok(())
}
