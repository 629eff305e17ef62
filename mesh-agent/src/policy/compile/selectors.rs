//! Which cgroups are which service.

use std::sync::Arc;

use mesh_common::{Selector, selector_kind};

use super::Ids;
use crate::policy::model::{Policy, Service, Workload};

/// Patterns in the order they are tried; of two that match the same cgroup the first stays, so
/// those without a wildcard come first.
pub(super) fn entries(policy: &Policy, ids: &mut Ids) -> Vec<Selector> {
    let mut found: Vec<(bool, Selector)> = Vec::new();
    for service in policy.services.values() {
        let Some((kind, pattern)) = service.workload.as_ref().and_then(pattern) else {
            continue;
        };
        let subject = ids.subjects.id(&service.name.to_string());
        for pattern in [Some(pattern), socket_unit(service)].into_iter().flatten() {
            let selector = Selector::new(subject, kind, pattern.as_bytes());
            found.extend(selector.map(|selector| (is_glob(&pattern), selector)));
        }
    }
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

/// The unit that listens on behalf of a service's unit (systemd.socket(5)): it makes the socket,
/// in a cgroup of its own, and the service gets it.
fn socket_unit(service: &Service) -> Option<Arc<str>> {
    let Some(Workload::Systemd(unit)) = &service.workload else {
        return None;
    };
    let stem = unit.strip_suffix(".service")?;
    (!service.endpoints.is_empty()).then(|| format!("{stem}.socket").into())
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
