//! What must not be left over once nobody calls any more.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use mesh_common::{CgroupIdentity, Ticket, TicketKey};

use super::churn::Churn;
use crate::kernel;
use crate::sandbox::Sandbox;

/// How long things may take to settle.
const SETTLED: Duration = Duration::from_secs(5);
/// How much more the agent may weigh at the end than after its first life, bytes.
const GROWTH: u64 = 2 << 20;

/// What is left over, in words.
pub(super) fn find(sandbox: &Sandbox, churn: &Churn<'_>) -> Result<Vec<String>> {
    let deadline = Instant::now() + SETTLED;
    let in_maps = loop {
        let found = in_maps(sandbox)?;
        if found.is_empty() || Instant::now() > deadline {
            break found;
        }
        sleep(Duration::from_millis(100));
    };
    Ok(in_maps.into_iter().chain(in_memory(churn)).collect())
}

fn in_maps(sandbox: &Sandbox) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let tickets = kernel::hash::<TicketKey, Ticket>(sandbox, "TICKETS")?;
    let tickets = tickets.keys().flatten().count();
    if tickets > 0 {
        found.push(format!("{tickets} tickets"));
    }
    let cgroups = kernel::hash::<u64, CgroupIdentity>(sandbox, "CGROUPS")?;
    let known = cgroups.keys().flatten().count();
    let exist = kernel::count_cgroups(sandbox.cgroup.path());
    if known != exist {
        found.push(format!("{known} cgroups are known, {exist} exist"));
    }
    Ok(found)
}

fn in_memory(churn: &Churn<'_>) -> Option<String> {
    let (first, last) = (churn.memory.first()?, churn.memory.last()?);
    (*last > first + GROWTH).then(|| format!("memory of the agent: {}", churn.memory_in_words()))
}
