//! TLS 1.3 between nodes: algorithms, the judges of certificates, configurations.

mod algorithms;
mod config;
mod judge;

pub(super) use self::algorithms::ALGORITHMS;
#[cfg(test)]
pub(super) use self::config::client_config_with;
pub use self::config::{ALPN, client_config, guest_config, server_config, server_name};

/// The suite that this CPU is best at.
#[cfg(test)]
pub(super) fn preferred_suite() -> rustls::CipherSuite {
    match algorithms::has_aes() {
        true => rustls::CipherSuite::TLS13_AES_128_GCM_SHA256,
        false => rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    }
}
