//! What the server counts about itself.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::routes::Door;

/// Counters of the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    refused: Family<Refusal, Counter>,
    scrapes: Counter,
    unauthorized: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    listener: &'static str,
    cause: &'static str,
}

impl Metrics {
    /// The counters, and the registry that shows them.
    pub(super) fn register() -> (Self, Registry) {
        let metrics = Self::default();
        let mut registry = Registry::default();
        registry.register(
            "mesh_admin_connections_refused",
            "Connections to the admin server that were closed at once",
            metrics.refused.clone(),
        );
        registry.register(
            "mesh_admin_scrapes",
            "Requests for metrics",
            metrics.scrapes.clone(),
        );
        registry.register(
            "mesh_admin_unauthorized",
            "Requests over TCP that showed neither the token nor a certificate that is enough",
            metrics.unauthorized.clone(),
        );
        for door in [Door::Tcp, Door::Unix] {
            metrics.refused(door, Cause::Full, 0);
        }
        metrics.refused(Door::Unix, Cause::Credentials, 0);
        (metrics, registry)
    }

    /// Counts connections closed at once.
    pub(super) fn refused(&self, door: Door, cause: Cause, count: u64) {
        let labels = Refusal {
            listener: door.name(),
            cause: cause.name(),
        };
        self.refused.get_or_create(&labels).inc_by(count);
    }

    /// Counts a request of somebody who may not ask.
    pub(super) fn unauthorized(&self) {
        self.unauthorized.inc();
    }

    /// Counts a scrape.
    pub(super) fn scraped(&self) {
        self.scrapes.inc();
    }
}

/// Why a connection is closed at once.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause {
    /// There are too many.
    Full,
    /// It is another user's.
    Credentials,
}

impl Cause {
    const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Credentials => "credentials",
        }
    }
}
