//! The metric families: names, helps and labels of everything that is exposed.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::registry::Content;
use sheet::Sheet;

mod host;
mod http;
mod live;
mod sheet;
mod traffic;
mod tunnel;

/// Writes every family that has a sample.
pub(crate) fn encode(content: &Content, encoder: DescriptorEncoder<'_>) -> fmt::Result {
    let mut sheet = Sheet(encoder);
    host::process(&mut sheet, content)?;
    traffic::encode(&mut sheet, content)?;
    http::encode(&mut sheet, content)?;
    live::encode(&mut sheet, &content.snapshot.live)?;
    tunnel::encode(&mut sheet, &content.snapshot.tunnel)?;
    if let Some(policy) = &content.snapshot.policy {
        host::policy(&mut sheet, policy)?;
    }
    host::data_plane(&mut sheet, content)?;
    host::losses(&mut sheet, content)
}
