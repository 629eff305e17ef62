//! Time limits where time runs slower: in a machine that is emulated.

use std::env;
use std::sync::OnceLock;
use std::time::Duration;

/// Environment variable that says how many times slower than usual everything is.
pub const VARIABLE: &str = "MESH_SLOWNESS";

/// `limit` as it is here.
pub fn scaled(limit: Duration) -> Duration {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    let slowness = SLOWNESS.get_or_init(|| {
        let value = env::var(VARIABLE).ok();
        value.and_then(|value| value.parse().ok()).unwrap_or(1)
    });
    limit * *slowness
}
