//! The authority of both hosts: `mesh-agent ca`, as people use it who have none.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::{Sandbox, agent};

/// Its directory.
#[derive(Debug)]
pub(super) struct Authority(TempDir);

impl Authority {
    /// A new one.
    pub(super) fn new() -> Result<Self> {
        let authority = Self(TempDir::new()?);
        authority.run(&["init", "--trust-domain", "mesh.local"].map(OsStr::new))?;
        Ok(authority)
    }

    /// Issues what `node` needs for the policy it has, where its agent looks for it.
    pub(super) fn issue(&self, node: &str, sandbox: &Sandbox) -> Result<()> {
        self.run(&[
            "issue".as_ref(),
            "--node".as_ref(),
            node.as_ref(),
            "--config-dir".as_ref(),
            sandbox.path("conf.d").as_os_str(),
            "--out".as_ref(),
            sandbox.path("tls").as_os_str(),
        ])
    }

    fn run(&self, arguments: &[&OsStr]) -> Result<()> {
        let mut command = Command::new(agent::binary());
        command.arg("ca").args(arguments).arg("--dir");
        let output = command.arg(self.0.path().join("authority")).output()?;
        if !output.status.success() {
            bail!("mesh-agent ca: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}
