//! Which cgroups are which service.

use std::sync::Arc;

use mesh_common::{Selector, selector_kind};

use super::Ids;
use crate::policy::model::{Policy, Workload};

/// Patterns in the order they are tried; of two that match the same cgroup the first stays, so
/// those without a wildcard come first.
pub(super) fn entries(policy: &Policy, ids: &mut Ids) -> Vec<Selector> {
    let mut found: Vec<(bool, Selector)> = policy
        .services
        .values()
        .filter_map(|service| {
            let (kind, pattern) = pattern(service.workload.as_ref()?)?;
            let subject = ids.subjects.id(&service.name.to_string());
            let selector = Selector::new(subject, kind, pattern.as_bytes())?;
            Some((is_glob(&pattern), selector))
        })
        .collect();
    found.sort_by_key(|(glob, _)| *glob);
    found.into_iter().map(|(_, selector)| selector).collect()
}

/// Whether a cgroup of one service may lie below one of another.
pub(super) fn may_nest(policy: &Policy) -> bool {
    let mut depths: Vec<Option<usize>> = policy
        .services
        .values()
        .filter_map(|service| pattern(service.workload.as_ref()?))
        .map(|(kind, pattern)| (kind == selector_kind::PATH).then(|| pattern.matches('/').count()))
        .collect();
    depths.dedup();
    depths.len() > 1
}

fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// A workload as kind and pattern; `None` for one that is no cgroup.
fn pattern(workload: &Workload) -> Option<(u8, Arc<str>)> {
    match workload {
        Workload::Systemd(unit) => match unit.strip_suffix(".slice") {
            Some(slice) => Some((selector_kind::PATH, slice_path(slice).into())),
            None => Some((selector_kind::UNIT, Arc::clone(unit))),
        },
        Workload::Cgroup(path) => Some((selector_kind::PATH, Arc::clone(path))),
        Workload::Uid(_) => None,
    }
}

/// Where systemd puts a slice: `a-b.slice` is `/a.slice/a-b.slice` (systemd.slice(5)).
fn slice_path(slice: &str) -> String {
    let ends = slice
        .match_indices('-')
        .map(|(at, _)| at)
        .chain([slice.len()]);
    ends.map(|end| format!("/{}.slice", &slice[..end]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_nest_by_their_dashes() {
        assert_eq!(slice_path("a"), "/a.slice");
        assert_eq!(slice_path("a-b-c"), "/a.slice/a-b.slice/a-b-c.slice");
    }
}
