//! What the tunnel tells of itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, UNIX_EPOCH};

use super::shared::Shared;
use crate::identity::{Expiry, ExpiryKind};
use crate::telemetry::time::unix_seconds;
use crate::telemetry::tunnel::{CertificateView, PoolView, TunnelView};

fn value(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

fn named<const N: usize>(counts: [(&str, &AtomicU64); N]) -> BTreeMap<String, u64> {
    counts
        .into_iter()
        .map(|(name, count)| (name.to_owned(), value(count)))
        .collect()
}

pub(super) fn view(shared: &Shared) -> TunnelView {
    let Shared {
        counters,
        pool,
        admission,
        ..
    } = shared;
    let listeners = shared.wanted.findings();
    let problems = shared.store.problems().into_iter();
    let problems = problems.map(|problem| problem.to_string());
    TunnelView {
        outbound_flows: value(&counters.outbound),
        inbound_flows: value(&counters.inbound),
        handshakes: BTreeMap::from([
            (
                "client".into(),
                named([("ok", &pool.dials), ("failed", &pool.tls)]),
            ),
            (
                "server".into(),
                named([
                    ("ok", &counters.server_handshakes),
                    ("failed", &counters.server_failures),
                ]),
            ),
        ]),
        dial_failures: named([
            ("refused", &pool.refused),
            ("timeout", &pool.timeout),
            ("unreachable", &pool.unreachable),
            ("tls", &pool.tls),
            ("local", &pool.local),
            ("back-off", &pool.backed_off),
        ]),
        turned_away: named([
            ("handshakes-of-source", &admission.source_handshakes),
            ("handshakes", &admission.evicted),
            ("sessions-of-source", &admission.source_sessions),
            ("sessions", &admission.sessions),
        ]),
        pool: PoolView {
            hits: value(&pool.hits),
            misses: value(&pool.misses),
            idle: value(&pool.idle),
            closed: named([
                ("evicted", &pool.evicted),
                ("expired", &pool.expired),
                ("dead", &pool.dead),
                ("revoked", &pool.purged),
            ]),
        },
        sessions_revoked: value(&counters.revoked),
        flows_broken: value(&counters.broken),
        flows_refused: value(&counters.overload),
        strays: value(&counters.strays),
        records_dropped: value(&counters.unrecorded),
        namespaces: listeners.open,
        namespaces_failed: listeners.failed,
        certificates: shared
            .store
            .bundle()
            .expiries()
            .iter()
            .map(certificate)
            .collect(),
        problems: problems
            .chain(listeners.deaf)
            .chain(listeners.unkept)
            .collect(),
    }
}

fn certificate(expiry: &Expiry) -> CertificateView {
    let (kind, name) = match &expiry.kind {
        ExpiryKind::Own(identity) => ("own", identity.to_string()),
        ExpiryKind::Root(name) => ("root", name.to_string()),
        ExpiryKind::Crl(issuer) => ("crl", issuer.to_string()),
    };
    CertificateView {
        kind: kind.into(),
        name,
        not_after_unix_seconds: unix_seconds(UNIX_EPOCH + Duration::from_secs(expiry.at.as_secs())),
    }
}
