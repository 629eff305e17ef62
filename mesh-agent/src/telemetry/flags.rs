//! The closed set of `response_flags`, and which of them a denial's reason is.

use mesh_common::Reason;

/// Why a connection failed, as metrics say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResponseFlags {
    /// Policy refused it.
    Deny,
    /// It was allowed and nobody answered, or there is nobody to answer.
    Connect,
    /// It must be encrypted and cannot be.
    TlsFailure,
    /// Nobody knows who calls.
    IdentityError,
    /// The other end's certificate is revoked.
    CertRevoked,
    /// The mesh's own state on this host was the obstacle, so it failed closed.
    MapFull,
}

impl ResponseFlags {
    /// The label value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::IdentityError => "IDENTITY_ERROR",
            Self::CertRevoked => "CERT_REVOKED",
            Self::MapFull => "MAP_FULL",
        }
    }

    /// The flags of a denial.
    ///
    /// `DENY` is what changing a file can answer. A missing entry counts as `MAP_FULL`: both say
    /// that the kernel does not hold what the policy says. The exact reason is a label of
    /// `mesh_authorization_decisions_total`.
    pub const fn of_denial(reason: Reason) -> Self {
        match reason {
            Reason::UnknownCaller | Reason::Identity => Self::IdentityError,
            Reason::CertificateRevoked => Self::CertRevoked,
            Reason::MapFull | Reason::NoSocketStorage | Reason::MissingEntry => Self::MapFull,
            Reason::NoEndpoint => Self::Connect,
            Reason::NoTunnel => Self::TlsFailure,
            _ => Self::Deny,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_flags() {
        for (reason, expected) in [
            (Reason::Policy, "DENY"),
            (Reason::UnknownCaller, "IDENTITY_ERROR"),
            (Reason::MapFull, "MAP_FULL"),
            (Reason::MissingEntry, "MAP_FULL"),
            (Reason::NoSuchPort, "DENY"),
            (Reason::NoEndpoint, "CONNECT"),
            (Reason::NoTunnel, "TLS_FAILURE"),
            (Reason::SocketCreator, "DENY"),
            (Reason::NoSocketStorage, "MAP_FULL"),
            (Reason::Egress, "DENY"),
            (Reason::NoTicket, "DENY"),
            (Reason::PortOwner, "DENY"),
            (Reason::SocketKind, "DENY"),
            (Reason::LateDenial, "DENY"),
            (Reason::Identity, "IDENTITY_ERROR"),
            (Reason::CertificateRevoked, "CERT_REVOKED"),
            (Reason(200), "DENY"),
        ] {
            assert_eq!(
                ResponseFlags::of_denial(reason).name(),
                expected,
                "{}",
                reason.name()
            );
        }
    }
}
