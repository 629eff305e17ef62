//! What a host has for load balancing without a mesh: nft DNAT, in a network namespace of its
//! own so that its hooks cost the other variants nothing.

use std::process::Command;
use std::thread;

use anyhow::{Result, bail};

use super::host;
use super::lab::{Addresses, Plain};
use crate::netns;

/// The VIP and its two servers, in turn.
const RULES: &str = "
table ip balance {
  chain output {
    type nat hook output priority -100;
    ip daddr 10.96.0.10 tcp dport 80 dnat ip to numgen inc mod 2 map {
      0 : 127.0.0.1 . 7001, 1 : 127.0.0.1 . 7002
    }
  }
}";

/// A pair behind DNAT; why there is none, if there is none.
pub(super) fn pair() -> Result<Result<Plain, String>> {
    // The namespace belongs to the thread and then to the processes it has started.
    let made = thread::spawn(|| -> Result<Result<Plain, String>> {
        netns::enter_new()?;
        host::forget_closed_connections()?;
        command(
            "ip",
            &[
                "route",
                "add",
                "10.96.0.10/32",
                "dev",
                "lo",
                "src",
                "127.0.0.1",
            ],
        )?;
        if let Err(error) = command("nft", &[RULES]) {
            return Ok(Err(format!(
                "no nft DNAT here (Debian package nftables): {error}"
            )));
        }
        let mut plain = Plain::new()?;
        plain.addresses = Addresses::vips();
        Ok(Ok(plain))
    });
    match made.join() {
        Ok(made) => made,
        Err(_) => bail!("the thread panicked"),
    }
}

fn command(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        bail!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(())
}
