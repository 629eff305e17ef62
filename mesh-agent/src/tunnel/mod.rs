//! Connections between nodes: one TLS 1.3 connection carries one flow at a time.

pub mod wire;
