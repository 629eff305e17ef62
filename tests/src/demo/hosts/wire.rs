//! What crosses the wire, as tcpdump sees it.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::netns::Namespace;

/// Words of the demo's requests and answers; whoever sees one of them has read along.
const READABLE: [&str; 4] = ["GET / ", "HTTP/1.1", "payments.shop", "payments v"];

/// How long the last packet may take to be seen.
const LAST: Duration = Duration::from_millis(300);

/// A running tcpdump.
#[derive(Debug)]
pub(super) struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Starts one on the wire's end in `host`; `file` is where the packets go.
    pub(super) fn start(host: &Namespace, file: &Path) -> Result<Self> {
        // It would give up root before it opens the file.
        let arguments = "-i wire -n -U --immediate-mode -s 0 -Z root -w".split(' ');
        let child = host.run(|| {
            let mut command = Command::new("tcpdump");
            command.args(arguments).arg(file).stdin(Stdio::null());
            let child = command.stderr(Stdio::piped()).spawn();
            child.context("cannot run tcpdump (Debian package tcpdump)")
        })?;
        let mut capture = Self {
            child,
            file: file.into(),
        };
        let stderr = capture.child.stderr.take().context("no pipe")?;
        let mut said = String::new();
        let mut lines = BufReader::new(stderr);
        while lines.read_line(&mut said)? > 0 {
            if said.contains("listening on") {
                return Ok(capture);
            }
        }
        bail!("tcpdump does not start: {said}")
    }

    /// Ends it; what it has seen. Signals that this program catches are blocked in it, and every
    /// packet is in the file as soon as it is seen, so it is killed.
    pub(super) fn finish(mut self) -> Result<Seen> {
        sleep(LAST);
        self.child.kill()?;
        self.child.wait()?;
        Ok(Seen::of(&fs::read(&self.file)?)?)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// Those of [`READABLE`] that were in it.
    pub(super) readable: Vec<&'static str>,
}

impl Seen {
    /// Of the file that tcpdump writes: a header of 24 bytes, then for each packet one of 16
    /// bytes (the third number is how many bytes of it follow), in this machine's byte order.
    fn of(file: &[u8]) -> io::Result<Self> {
        let mut seen = Self::default();
        let mut rest = file.get(24..).unwrap_or_default();
        while let Some((header, packets)) = rest.split_first_chunk::<16>() {
            let length = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
            let packet = packets.get(..length as usize);
            let packet = packet.ok_or_else(|| io::Error::other("half a packet"))?;
            seen.packets += 1;
            seen.bytes += u64::from(length);
            seen.look(packet);
            rest = &packets[packet.len()..];
        }
        Ok(seen)
    }

    fn look(&mut self, packet: &[u8]) {
        for word in READABLE {
            let found = packet
                .windows(word.len())
                .any(|window| window == word.as_bytes());
            if found && !self.readable.contains(&word) {
                self.readable.push(word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(packets: &[&[u8]]) -> Vec<u8> {
        let mut file = vec![0; 24];
        for packet in packets {
            file.extend([0; 8]);
            file.extend((packet.len() as u32).to_ne_bytes());
            file.extend([0; 4]);
            file.extend_from_slice(packet);
        }
        file
    }

    #[test]
    fn sees_what_can_be_read() {
        let seen = Seen::of(&file(&[b"\x17\x03\x03", b"..HTTP/1.1 200 OK"])).expect("a file");
        let expected = Seen {
            packets: 2,
            bytes: 20,
            readable: vec!["HTTP/1.1"],
        };
        assert_eq!(seen, expected);
        assert_eq!(Seen::of(&file(&[])).expect("empty"), Seen::default());
        let cut = file(&[b"abc"]);
        assert!(Seen::of(&cut[..cut.len() - 1]).is_err());
    }
}
