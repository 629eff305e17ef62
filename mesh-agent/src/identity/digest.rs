//! What of an identity crosses the network in clear.

use super::certificate::sha256;
use super::name::Identity;

impl Identity {
    /// The name under which a server with several certificates is asked for this one (SNI). It
    /// crosses the network in clear, so it is a digest of the SPIFFE id's path, which says
    /// nothing to who does not know the services.
    pub fn server_name(&self) -> String {
        let path = self.uri("");
        let digest = sha256(path.as_bytes());
        format!("{}.mesh", hex(&digest[..16]))
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::model::ServiceName;

    #[test]
    fn what_crosses_the_network_names_nobody() {
        let service = Identity::Service(ServiceName {
            namespace: "shop".into(),
            name: "payments".into(),
        });
        // printf 'spiffe:///ns/shop/sa/payments' | sha256sum | head -c 32
        assert_eq!(
            service.server_name(),
            "8b7f46a2279e8e7247f95dcbf79ae836.mesh"
        );
    }
}
