//! Memory of each proxy: fresh, with idle connections, and a minute after a load.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Contest;
use super::contestant::{Contestant, Target, open};
use super::load::Load;
use super::sample::Memory;
use super::site::Side;
use super::table::{Column, Kind, Rank, Row, decimals, render};

/// How many idle connections.
const STEPS: [usize; 2] = [1000, 5000];
/// How long a proxy has to settle before its size is read: some tidy up when they have time.
const SETTLE: Duration = Duration::from_secs(25);
/// How long after the load its size is read for the last time.
const AFTER: Duration = Duration::from_secs(60);

/// Starts every pair again, so that all are fresh, and measures it.
pub(super) fn measure(contest: &Contest<'_>) -> Result<()> {
    let mut pairs = contest.start_pairs()?;
    let mut proxies = Vec::new();
    for pair in &mut pairs {
        proxies.push(with_connections(contest, pair.as_mut())?);
    }
    for (pair, proxies) in pairs.iter().zip(&mut proxies) {
        for load in [Load::KeepAlive(64), Load::Bulk(8)] {
            contest.go_on()?;
            load.run(contest.site, pair.as_ref(), contest.seconds)?;
        }
        push_all(pair.as_ref(), proxies)?;
    }
    contest.wait(AFTER)?;
    for (pair, proxies) in pairs.iter().zip(&mut proxies) {
        push_all(pair.as_ref(), proxies)?;
    }
    println!(
        "\nmemory: one proxy with all of its processes, MiB resident; a flow's share is anonymous memory"
    );
    let rows = pairs.iter().zip(&proxies).flat_map(|(pair, proxies)| {
        let sides = Side::BOTH.into_iter().zip(proxies);
        sides.map(|(side, sizes)| row(&format!("{} {}", pair.name(), side.name()), sizes))
    });
    println!("{}", render(&columns(), &rows.collect::<Vec<_>>()));
    Ok(())
}

/// Sizes of each proxy of a pair: fresh and with each of [`STEPS`].
fn with_connections(contest: &Contest<'_>, pair: &mut dyn Contestant) -> Result<Vec<Vec<Memory>>> {
    let mut proxies = vec![Vec::new(); pair.proxies().len()];
    contest.wait(SETTLE)?;
    push_all(pair, &mut proxies)?;
    let mut connections = Vec::new();
    for step in STEPS {
        contest.go_on()?;
        let to = pair.endpoint(Target::Http);
        let open = || open_until(step, to, &mut connections);
        let opened = contest.site.call(pair.client(), open);
        opened.with_context(|| format!("{} has {} of {step}", pair.name(), connections.len()))?;
        contest.wait(SETTLE)?;
        push_all(pair, &mut proxies)?;
    }
    pair.expect_alive()?;
    Ok(proxies)
}

/// Opens connections until there are so many. Each has carried one request.
fn open_until(count: usize, to: SocketAddr, connections: &mut Vec<TcpStream>) -> Result<()> {
    while connections.len() < count {
        connections.push(open(to)?);
    }
    Ok(())
}

/// Enters the size that each proxy has now.
fn push_all(pair: &dyn Contestant, proxies: &mut [Vec<Memory>]) -> Result<()> {
    for (cgroup, sizes) in pair.proxies().iter().zip(proxies) {
        sizes.push(Memory::of(cgroup)?);
    }
    Ok(())
}

fn columns() -> Vec<Column> {
    let column = |name| Column {
        name,
        rank: Rank::No,
        show: decimals::<1>,
    };
    let names = [
        "fresh",
        "fresh, Pss",
        "+1000 idle",
        "+5000 idle",
        "KiB/flow, 1000",
        "KiB/flow, 5000",
        "after load",
        "a minute later",
    ];
    names.map(column).to_vec()
}

/// From the sizes in the order in which they were entered.
fn row(name: &str, sizes: &[Memory]) -> Row {
    let resident = |which: usize| sizes.get(which).map_or(f64::NAN, |size| size.resident);
    let mebibytes = |which: usize| resident(which) / f64::from(1 << 20);
    let anonymous = |which: usize| sizes.get(which).map_or(f64::NAN, |size| size.anonymous);
    let per_flow = |which: usize| {
        let more = anonymous(which) - anonymous(0);
        more / STEPS[which - 1] as f64 / 1024.0
    };
    let proportional = sizes.first().map_or(f64::NAN, |size| size.proportional);
    Row {
        name: name.into(),
        values: vec![
            mebibytes(0),
            proportional / f64::from(1 << 20),
            mebibytes(1),
            mebibytes(2),
            per_flow(1),
            per_flow(2),
            mebibytes(3),
            mebibytes(4),
        ],
        kind: Kind::Floor,
    }
}
