//! The access log as entries of the journal: each field of a record is one of the entry's.
//!
//! The protocol is a datagram of fields, see "Native Journal Protocol" at systemd.io. A crate for
//! it would bring more than these lines.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Where the journal takes entries.
const SOCKET: &str = "/run/systemd/journal/socket";

pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    pub(super) fn new() -> io::Result<Self> {
        Self::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }

    /// Writes one entry. The journal is looked up each time: it may have been restarted.
    pub(super) fn write(&self, record: &Value) -> io::Result<()> {
        self.socket.send_to(&entry(record), &self.path).map(drop)
    }
}

/// The fields of an entry.
fn entry(record: &Value) -> Vec<u8> {
    let mut entry = Vec::new();
    field(&mut entry, "SYSLOG_IDENTIFIER", "mesh-access");
    field(&mut entry, "PRIORITY", "6");
    field(&mut entry, "MESSAGE", &summary(record));
    for (name, value) in record.as_object().into_iter().flatten() {
        let name = format!("MESH_{}", name.to_uppercase());
        match value {
            Value::Null => {}
            Value::String(text) => field(&mut entry, &name, text),
            other => field(&mut entry, &name, &other.to_string()),
        }
    }
    entry
}

/// What people see of it.
fn summary(record: &Value) -> String {
    let text = |name: &str| match &record[name] {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    };
    if record["event"] == "suppressed" {
        return format!(
            "{} records left out: too many at a time",
            text("suppressed")
        );
    }
    format!(
        "{} {} -> {} ({}) rule {}",
        text("event"),
        text("source_service"),
        text("destination_service"),
        text("dialled"),
        text("rule"),
    )
}

/// A value with a line's end in it is sent with its length, or it could pass for more fields.
fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_field_is_one_of_the_entry_and_none_passes_for_another() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let journal = Journal::at(&path).expect("a socket");
        let record = json!({
            "event": "denied", "source_service": "shop/a", "destination_service": "shop/b",
            "dialled": "10.0.0.1:80", "rule": "default", "sent_bytes": 7, "file": null,
            "detail": "one\nPRIORITY=0",
        });
        assert!(journal.write(&record).is_err(), "there is no journal yet");
        let server = UnixDatagram::bind(&path).expect("bound");
        journal.write(&record).expect("sent");
        let mut buffer = [0; 4096];
        let length = server.recv(&mut buffer).expect("received");
        let text = String::from_utf8_lossy(&buffer[..length]);
        for line in [
            "SYSLOG_IDENTIFIER=mesh-access\n",
            "MESSAGE=denied shop/a -> shop/b (10.0.0.1:80) rule default\n",
            "MESH_EVENT=denied\n",
            "MESH_SENT_BYTES=7\n",
            "MESH_DETAIL\n\u{e}\0\0\0\0\0\0\0one\nPRIORITY=0\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text:?}");
        }
        assert!(!text.contains("MESH_FILE"), "{text}");
    }
}
