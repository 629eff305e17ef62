//! Certificates that are really made, judged; handshakes; what openssl makes and says.

mod handshake;
mod openssl;
mod refusals;
